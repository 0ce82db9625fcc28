"""What passes through the tunnels: a machine reaches the private API, and nothing and nobody else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.vpn.bed import Installation, wait_until
from tests.vpn.test_admission import is_written_down, joined

API = ("10.77.0.1", 8001)
_CALL = """
import http.client, json, sys
(host, port), token, headers, body, source, patience_s = json.load(sys.stdin)
connection = http.client.HTTPConnection(host, port, timeout=patience_s, source_address=(source, 0) if source else None)
connection.request("POST", "/api/v1/heartbeat/", body, {"Authorization": f"Bearer {token}",
                   "Content-Type": "application/json", **headers})
answer = connection.getresponse()
print(json.dumps([answer.status, answer.read().decode()]))
"""


@pytest.fixture(scope="module")
def two(vpn: Installation, places: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Two machines that are in the VPN."""
    serials = next(places), next(places)
    clients = [vpn.openvpn(serial, vpn.clerk("profile", serial)) for serial in serials]
    for serial, client in zip(serials, clients, strict=True):
        joined(client)
        is_written_down(vpn, serial)
    yield serials
    vpn.bed.supervisor.end(clients)


def test_machine_reaches_no_other_machine(vpn: Installation, two: tuple[str, str]) -> None:
    one, other = two
    address = vpn.clerk("address", other)
    with vpn.listener(other, "0.0.0.0", 3389):
        assert vpn.opens(other, address, 3389)  # there is something to reach
        assert vpn.connects(one, address, 3389) != "open"
    assert vpn.pings(one, API[0], within_s=20)
    assert not vpn.pings(one, address)


def test_machine_reaches_the_private_api_and_no_other_service_of_the_server(
    vpn: Installation, two: tuple[str, str]
) -> None:
    with vpn.listener(None, "0.0.0.0", 5432):
        assert vpn.opens(None, API[0], 5432)
        assert vpn.opens(two[0], *API)
        assert vpn.connects(two[0], API[0], 5432) == "silent"


def test_claims_of_another_address_are_refused_and_recorded(vpn: Installation, two: tuple[str, str]) -> None:
    """T13, T21: with A's token from B's tunnel, whatever body and headers say."""
    one, other = two
    address, token = vpn.clerk("address", one), vpn.tokens[one]
    before = len(vpn.clerk("security_events", "address_refused", one))
    claims: list[tuple[dict[str, str], dict[str, Any]]] = [
        ({}, {"vpn_address": address, "address": address, "serial": one}),
        ({"X-Real-IP": address, "Client-IP": address, "Forwarded": f"for={address}"}, {}),
        ({"X-Forwarded-For": address}, {}),
        ({"X-Forwarded-For": f"127.0.0.1, {address}", "X-Forwarded-Host": address}, {}),
    ]
    for headers, body in claims:
        assert call(vpn, other, token, headers, body) == 403, (headers, body)
    assert [call(vpn, other, token, headers, {}) for headers, _ in claims] == [403] * len(claims)
    events = vpn.clerk("security_events", "address_refused", one)[before:]
    assert len(events) >= len(claims)
    assert {event["address"] for event in events} == {vpn.clerk("address", other)}
    assert call(vpn, one, token, {}, {}) == 200  # the token is good where it belongs


def test_address_of_another_machine_cannot_be_taken(vpn: Installation, two: tuple[str, str]) -> None:
    """OpenVPN drops packets from any other address than the one it gave."""
    one, other = two
    address = vpn.clerk("address", one)
    status, said = vpn.bed.ask(other, "ip", "addr", "add", f"{address}/32", "dev", "lo")
    assert status == 0, said
    with pytest.raises(AssertionError, match="timed out"):
        call(vpn, other, vpn.tokens[one], {}, {}, source=address, patience_s=3)
    vpn.bed.ask(other, "ip", "addr", "del", f"{address}/32", "dev", "lo")


def call(
    vpn: Installation, place: str, token: str, headers: dict[str, str], body: dict[str, Any], *, source: str = "",
    patience_s: float = 30,
) -> int:  # fmt: skip
    """A heartbeat from that machine's place; the status. AssertionError with what became of it when none came."""
    done = subprocess.run(
        [*vpn.enter(place), "/usr/bin/python3", "-c", _CALL],
        input=json.dumps([API, token, headers, json.dumps(body), source, patience_s]), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)[0])


def test_gateway_reaches_its_own_machine_while_its_rescue_lives_and_nothing_else(
    vpn: Installation, two: tuple[str, str], place: Callable[[], str]
) -> None:
    _, other = two
    serial = place()
    with vpn.listener(other, "0.0.0.0", 3389), vpn.machine(serial) as machine:
        own, foreign = vpn.clerk("address", serial), vpn.clerk("address", other)
        machine.press()
        wait_until(lambda: ready(vpn, serial), what="its desktop is held", within_s=60)
        (user,) = {vpn.user_of(pid) for pid in vpn.guacd()}
        assert vpn.opens(None, own, 3389, user=user)
        assert vpn.connects(None, own, 22, user=user) != "open"
        assert vpn.connects(None, foreign, 3389, user=user) != "open"
        assert vpn.connects(None, *API, user=user) != "open"
        assert vpn.connects(None, own, 3389, user=user + 1) != "open"  # another gateway
        assert vpn.connects(None, own, 3389, user=65534) != "open"  # anybody else
        assert vpn.connects(None, own, 3389) != "open"  # nor root
        machine.cancel()
        wait_until(lambda: not ready(vpn, serial), what="the rescue is over")
        wait_until(lambda: f"{user} . {own}" not in vpn.nft(), what="the passage is gone")
        assert vpn.connects(None, own, 3389, user=user) != "open"
        wait_until(lambda: not vpn.clerk("open_connections", serial), what="the tunnel is down")


def ready(vpn: Installation, serial: str) -> bool:
    query = """SELECT s.state FROM support_session AS s JOIN machines_machine AS m ON m.id = s.machine_id
        WHERE m.serial = ? ORDER BY s.requested_at DESC"""
    rows = vpn.rows(query, serial)
    return bool(rows) and rows[0]["state"] in ("ready", "active")
