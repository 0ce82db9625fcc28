"""Lines with nothing to say for an hour and more, through a proxy that cuts as AWS Global Accelerator does."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bench import machine
from bench.figures import Row, percentile
from bench.server import _CSRF, Server
from bench.wire import WebSocket, instruction, join_tunnel, newest_sync
from portal.demo.vpn import bed as beds
from portal.demo.vpn.namespaces import missing
from portal.demo.vpn.services import Service
from tests.fakes.cutting_proxy import TCP_IDLE_S, UDP_IDLE_S, CuttingProxy, Flow, echo, is_reset, silent_connection
from tests.vpn import bed as vpn_bed

LIVE_LINES = 50
TUNNELS = 3  # the operator's, and two who watch
VPN_CLIENTS = 3
MINUTES = 60.0
_PORT = 1195  # where a client finds the proxy, beside its line to the server
_JOINED = "Initialization Sequence Completed"
# What OpenVPN says when it begins anew for want of an answer.
_RESTARTS = ("Inactivity timeout", "ping-restart", "SIGUSR1", "Connection reset")
_LOOK_S = 60.0


def measure(minutes: float = MINUTES) -> list[Row]:
    """Needs root, as `vpn` does; both halves wait at the same time."""
    if lacking := missing():
        raise SystemExit(f"idle {lacking}")
    with contextlib.ExitStack() as stack:
        web, vpn = stack.enter_context(_web()), stack.enter_context(_vpn())
        controls = stack.enter_context(_controls())
        print(f"Everything is open; now nobody says anything for {minutes:g} min.", flush=True)
        until = time.monotonic() + minutes * 60
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(_LOOK_S, left_s))
            controls.look()
            print(
                f"{max(until - time.monotonic(), 0) / 60:5.1f} min to go: {web.in_words()}; {vpn.in_words()}",
                flush=True,
            )
        return [*web.rows(minutes), *vpn.rows(minutes), *controls.rows(minutes)]


# --- WebSockets -------------------------------------------------------------------------------------------------------


@dataclass
class _Reader:
    """A browser that reads, answers pings and each picture, and says nothing of its own."""

    line: WebSocket
    ended: str = ""

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        self.line.socket.settimeout(None)
        try:
            for frame in self.line.frames():
                if (moment := newest_sync(frame)) is not None:
                    self.line.send(instruction("sync", moment.decode()))
        except (OSError, ConnectionError) as error:
            self.ended = self.ended or str(error) or type(error).__name__


@dataclass
class _Web:
    proxy: CuttingProxy
    live: list[_Reader]
    tunnels: list[_Reader]
    live_flows: list[Flow]
    tunnel_flows: list[Flow]

    def in_words(self) -> str:
        ended = [reader.ended for reader in (*self.live, *self.tunnels) if reader.ended]
        words = f"{len(self.live) + len(self.tunnels) - len(ended)} WebSockets open"
        return f"{words}; ended: {', '.join(ended[:3])}" if ended else words

    def rows(self, minutes: float) -> list[Row]:
        rows = []
        for what, readers, flows in (
            ("live lines", self.live, self.live_flows),
            ("desktop tunnels", self.tunnels, self.tunnel_flows),
        ):
            silences = [flow.longest_silence_s for flow in flows]
            rows.append(
                Row(
                    f"{what} that ended within {minutes:g} min under a cut at {TCP_IDLE_S:g} s",
                    sum(bool(reader.ended) or flow.was_cut for reader, flow in zip(readers, flows, strict=True)),
                    0,
                    "",
                    detail={"n": len(readers), "silence s p50": round(percentile(silences, 0.5), 2)},
                )
            )
            rows.append(Row(f"longest silence on {what}", round(max(silences), 2), round(TCP_IDLE_S / 3, 1), "s"))
        return rows


@contextlib.contextmanager
def _web() -> Iterator[_Web]:
    """A server, a machine whose desktop is open in three browsers, and fifty queue pages, all through the proxy."""
    folder = Path(tempfile.mkdtemp(prefix="portafilter-bench-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        proxy = stack.enter_context(CuttingProxy())
        where: list[tuple[str, int]] = []
        entry = proxy.tcp(lambda: where[0])
        origin = f"http://127.0.0.1:{entry[1]}"
        # Otherwise a desktop at which nobody does anything is closed after half an hour, which is meant.
        one = Server(folder, alone=False, environment={"PUBLIC_ORIGINS": origin, "TUNNEL_IDLE_S": "86400"})
        where.append(("127.0.0.1", int(urlsplit(one.address).port or 0)))
        stack.callback(_remove, one)
        one.prepare()
        one.start()
        simulated = stack.enter_context(machine.simulated(one))
        session_id, _ = machine.press(one, simulated)
        _post(one, f"sessions/{session_id}/claim/")
        before = len(proxy.flows)
        live = []
        for _ in range(LIVE_LINES):
            live.append(_Reader(WebSocket(entry[1], "/ws/live/", origin=origin, cookie=one.cookie, protocol="")))
        tunnels = []
        for number in range(TUNNELS):
            ticket = one.ticket(session_id, role="watcher" if number else "controller")
            tunnels.append(_Reader(join_tunnel(entry[1], session_id, ticket=ticket, cookie=one.cookie)))
        for reader in (*live, *tunnels):
            reader.start()
        flows = proxy.flows[before:]
        yield _Web(proxy, live, tunnels, flows[:LIVE_LINES], flows[LIVE_LINES:])
        machine.end(one, simulated, session_id)


def _remove(one: Server) -> None:
    with contextlib.suppress(Exception):
        one.remove()


def _post(one: Server, path: str) -> None:
    request = urllib.request.Request(
        f"{one.address}/api/v1/{path}",
        data=b"{}",
        headers={"Cookie": one.cookie, "X-CSRFToken": _CSRF, "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()


# --- OpenVPN ----------------------------------------------------------------------------------------------------------


@dataclass
class _Vpn:
    one: vpn_bed.Installation
    clients: dict[str, Service]
    proxies: dict[str, CuttingProxy]

    def in_words(self) -> str:
        return f"{self.restarts()} tunnels began anew"

    def unreachable(self) -> int:
        """How many machines do not get through to the server at the first try, after all that silence."""
        inside = beds.SERVER_INSIDE, beds.API_PORT
        # Nothing listens there: that it says so has gone there and back.
        return sum(self.one.connects(place, *inside) != "refused" for place in self.clients)

    def restarts(self) -> int:
        said = [client.said() for client in self.clients.values()]
        return sum(text.count(_JOINED) != 1 or any(word in text for word in _RESTARTS) for text in said)

    def rows(self, minutes: float) -> list[Row]:
        silences = [flow.longest_silence_s for proxy in self.proxies.values() for flow in proxy.flows]
        flows = [flow for proxy in self.proxies.values() for flow in proxy.flows]
        under = f"within {minutes:g} min under a cut at {UDP_IDLE_S:g} s"
        return [
            Row(f"OpenVPN tunnels over UDP that began anew {under}", self.restarts(), 0, "",
                detail={"n": len(self.clients)}),
            Row("their flows that the proxy forgot", sum(flow.was_cut for flow in flows), 0, ""),
            Row("machines that then do not reach the server at the first try", self.unreachable(), 0, "",
                detail={"n": len(self.clients)}),
            Row("longest silence on a tunnel", round(max(silences), 2), UDP_IDLE_S / 2, "s"),
        ]  # fmt: skip


@contextlib.contextmanager
def _vpn() -> Iterator[_Vpn]:
    """A real OpenVPN server with its agent, and clients with nothing in their tunnels, each through a proxy."""
    folder = Path(tempfile.mkdtemp(prefix="pf-"))
    places = [f"P{number}" for number in range(VPN_CLIENTS)]
    one = vpn_bed.Installation(folder, places, {})
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(one.bed)
        stack.enter_context(contextlib.closing(one))
        one.prepare()
        one.bed.start_vpn()
        clients, proxies = {}, {}
        for place in places:
            outside = beds.SERVER_OUTSIDE
            proxy = proxies[place] = stack.enter_context(CuttingProxy(at=one.bed.namespaces[place]))
            proxy.udp((outside, beds.VPN_PORT), host=outside, port=_PORT)
            profile = one.clerk("profile", place)
            through = f"remote {outside} {beds.VPN_PORT}"
            assert through in profile, f"found no {through!r} in the profile"
            clients[place] = one.openvpn(place, profile.replace(through, f"remote {outside} {_PORT}"))
        for place, client in clients.items():
            client.wait_until(lambda client=client: client.has_said(_JOINED), what=f"{place} joined", within_s=30)  # type: ignore[misc]
        yield _Vpn(one, clients, proxies)


# --- what is cut ------------------------------------------------------------------------------------------------------


@dataclass
class _Controls:
    """The same proxy, and lines without pings: they must be cut, or the proxy proves nothing."""

    stream: socket.socket
    datagrams: socket.socket
    proxy: CuttingProxy
    began_at: float = field(default_factory=time.monotonic)
    reset_after_s: float = 0.0

    def look(self) -> None:
        if not self.reset_after_s and is_reset(self.stream):
            self.reset_after_s = time.monotonic() - self.began_at

    def rows(self, minutes: float) -> list[Row]:
        late = sum(flow.lost for flow in self.proxy.flows)
        rows = [Row("control: a datagram that comes to a flow silent for 35 s, lost", late, 1, "", at_least=True)]
        if minutes * 60 > TCP_IDLE_S + _LOOK_S:  # else there was no time for it
            rows.append(
                Row(
                    "control: a silent connection with TCP keepalive, reset",
                    1.0 if self.reset_after_s else 0.0,
                    1,
                    "",
                    at_least=True,
                    detail={"seen after s": round(self.reset_after_s, 1)},
                )
            )
        return rows


@contextlib.contextmanager
def _controls() -> Iterator[_Controls]:
    with CuttingProxy() as proxy, echo() as (stream, datagrams):
        silent = silent_connection(proxy.tcp(stream))
        silent.recv(16)
        one = socket.socket(type=socket.SOCK_DGRAM)
        one.sendto(b"later 35", proxy.udp(datagrams))
        try:
            yield _Controls(silent, one, proxy)
        finally:
            silent.close()
            one.close()
