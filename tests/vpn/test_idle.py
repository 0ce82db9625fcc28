"""A tunnel with nothing in it lives on where UDP that is idle is forgotten (F13), and the server's health can be asked.

A flow is forgotten after 9 s here, after 30 s by AWS Global Accelerator: what counts is that OpenVPN's pings, 5 s
apart, come before it. `python -m bench idle` does the same for an hour with AWS' own time.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

from portal.demo.vpn import bed as beds
from portal.demo.vpn.namespaces import inside
from tests.fakes.cutting_proxy import CuttingProxy, echo
from tests.vpn.bed import Installation

CUT_S = 9.0
_JOINED = "Initialization Sequence Completed"
# A connection that says nothing for long, and then asks.
_QUIET_AND_THEN = """
import socket, sys, time
with socket.create_connection((sys.argv[1], int(sys.argv[2])), 30) as one:
    time.sleep(float(sys.argv[3]))
    one.sendall(b"GET /healthz HTTP/1.1\\r\\nHost: %b\\r\\nConnection: close\\r\\n\\r\\n" % sys.argv[1].encode())
    print(one.recv(4096).split(b"\\r\\n")[0].decode())
"""
_ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=30).read().decode())"


def test_quiet_tunnel_outlives_what_has_no_pings(vpn: Installation, place: Callable[[], str]) -> None:
    serial = place()
    profile = vpn.clerk("profile", serial)
    server, port = beds.SERVER_OUTSIDE, beds.VPN_PORT
    at = vpn.bed.namespaces[serial]
    with CuttingProxy(udp_idle_s=CUT_S, at=at) as proxy, echo(at=at) as (_, datagrams):
        proxy.udp((server, port), host=server, port=port + 1)
        way = f"remote {server} {port}"
        assert way in profile
        client = vpn.openvpn(serial, profile.replace(way, f"remote {server} {port + 1}"))
        client.wait_until(lambda: client.has_said(_JOINED), what="it joined", within_s=60)
        control_entry = proxy.udp(datagrams)
        with inside(at):
            control = socket.socket(type=socket.SOCK_DGRAM)
        with control:
            control.sendto(b"later 12", control_entry)
            quiet_s = str(2 * CUT_S + 1)
            said = vpn.bed.ask(serial, "/usr/bin/python3", "-c", _QUIET_AND_THEN, beds.SERVER_INSIDE,
                               str(beds.API_PORT), quiet_s, within_s=80)[1]  # fmt: skip
        assert said.startswith("HTTP/1.1 200"), said
        assert client.said().count(_JOINED) == 1 and "Inactivity timeout" not in client.said()
        tunnel, forgotten = proxy.flows
        assert not tunnel.was_cut and tunnel.longest_silence_s < CUT_S
        # The same proxy, the same time, no pings: what the server says is lost.
        assert forgotten.was_cut and forgotten.lost == 1


def test_load_balancer_hears_at_healthz_that_machines_can_join(vpn: Installation) -> None:
    status, said = vpn.bed.ask(None, "/usr/bin/python3", "-c", _ASK, f"http://{vpn.values['VPN_HEALTH_BIND']}/healthz")
    assert status == 0, said
    assert json.loads(said) == {"status": "ok", "openvpn": "ok", "revocations": "ok", "certificate": "ok"}
