"""200 of 2,000 registered machines join the VPN within 10 s: real OpenVPN clients; then all 2,000, by the protocol."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.figures import Row, percentile, spread
from portal.demo.vpn.namespaces import missing
from portal.demo.vpn.services import Service
from tests.fakes.openvpn import FakeOpenVpn
from tests.vpn.bed import Installation, wait_until

REGISTERED = 2000
JOINING = 200
WITHIN_S = 10.0
ALONE = 10  # one after the other, for comparison
_IDLE_S = 8.0
_PLACES = [f"P{number}" for number in range(10)]
_JOINED = "Initialization Sequence Completed"
_REFUSED = ("AUTH_FAILED", "TLS Error", "SIGUSR1")


def measure() -> list[Row]:
    if lacking := missing():
        raise SystemExit(f"vpn {lacking}")
    with _installation() as one:
        made = one.clerk("register", REGISTERED - len(_PLACES), JOINING + ALONE)
        real = _real_clients(one, made["profiles"])
    with _installation() as one:
        names = one.clerk("register", REGISTERED, 0)["names"]
        return real + _scripted_clients(one, names)


@contextmanager
def _installation() -> Iterator[Installation]:
    folder = Path(tempfile.mkdtemp(prefix="pf-"))
    one = Installation(folder, _PLACES, {})
    try:
        with one.bed, contextlib.closing(one):
            one.prepare()
            yield one
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _real_clients(one: Installation, profiles: list[str]) -> list[Row]:
    one.bed.start_vpn()
    one.bed.start_server("--stop-gateways", ready_file=one.folder / "ready")
    alone = []
    for number, profile in enumerate(profiles[:ALONE]):
        began, client = time.time(), _client(one, number, profile)
        wait_until(lambda client=client: client.has_said(_JOINED), what="it joined", within_s=30)  # type: ignore[misc]
        alone.append(_joined_at(client) - began)
    before = _processor_s(one)
    time.sleep(_IDLE_S)
    processor = _processor_s(one)
    idle = {name: round(100 * (after - before[name]) / _IDLE_S, 1) for name, after in processor.items()}
    clients: list[tuple[float, Service]] = []
    first = time.time()
    for number, profile in enumerate(profiles[ALONE:]):
        time.sleep(max(0.0, first + number * WITHIN_S / JOINING - time.time()))
        clients.append((time.time(), _client(one, number, profile)))
    started_s = time.time() - first
    wait_until(lambda: all(client.has_said(_JOINED) for _, client in clients), what="all joined", within_s=90)
    expected = JOINING + ALONE
    open_rows = "SELECT count(*) AS n FROM machines_vpnconnection WHERE ended_at IS NULL"
    wait_until(lambda: one.rows(open_rows)[0]["n"] == expected, what="all are written down", within_s=30)
    written_s = time.time() - max(_joined_at(client) for _, client in clients)
    used = {name: round(after - processor[name], 2) for name, after in _processor_s(one).items()}
    took = [_joined_at(client) - began for began, client in clients]
    turned_away = [client for _, client in clients if any(word in client.said() for word in _REFUSED)]
    events = [event for event in one.clerk("all_security_events") if event["kind"].startswith("vpn_refused")]
    one.bed.supervisor.end([service for service in one.bed.supervisor.services if service.name.startswith("openvpn")])
    return [
        Row(
            f"{JOINING} of {REGISTERED} machines join within 10 s: refused or sent round",
            len(turned_away) + len(events), 0, "",
            detail={"started within s": round(started_s, 1), **{f"{k} CPU s": v for k, v in used.items()},
                    **{f"{k} idle CPU %": v for k, v in idle.items()}},
        ),
        Row(
            "openvpn started → joined, p95", percentile(took, 0.95), 5, "s",
            peer=f"alone, one after the other: {percentile(alone, 0.95):.2f} s p95",
            detail={**spread(took), **spread(alone, "alone")},
        ),
        Row("the last one joined → all are written down", max(0.0, written_s), 2, "s"),
    ]  # fmt: skip


def _client(one: Installation, number: int, profile: str) -> Service:
    # Some twenty share a namespace, as machines behind one router do; each has a tunnel and an address of its own.
    place = _PLACES[number % len(_PLACES)]
    return one.openvpn(place, profile, "--machine-readable-output")


def _joined_at(client: Service) -> float:
    """By OpenVPN's own clock: seconds since the epoch stand before each of its lines."""
    line = next(line for line in client.said().splitlines() if _JOINED in line)
    return float(line.split()[0])


def _processor_s(one: Installation) -> dict[str, float]:
    ticks = os.sysconf("SC_CLK_TCK")
    used = {}
    for service in (one.bed.openvpn, one.bed.authorise, one.bed.serve):
        fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
        used[service.name] = (int(fields[11]) + int(fields[12])) / ticks
    return used


class _TimedOpenVpn(FakeOpenVpn):
    """Knows when each question was answered."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answered: dict[int, float] = {}

    def _admit(self, client_id: int, key_id: int, body: list[str]) -> None:
        self.answered[client_id] = time.monotonic()
        super()._admit(client_id, key_id, body)


def _scripted_clients(one: Installation, names: list[list[str]]) -> list[Row]:
    """The agent is the real program, its OpenVPN is a script that speaks the management interface's protocol."""
    one.bed.run("authorise", "--write-only")
    server = _TimedOpenVpn(one.bed.vpn_dir / "management.sock")
    server.start()
    authorise = one.bed.service(
        "The authorisation agent", one.bed.manage("authorise"), log="authorise.log", namespace=one.bed.server
    )
    authorise.wait_until(lambda: authorise.has_said("At OpenVPN's management socket"), what="it answers", within_s=60)
    asked: dict[int, float] = {}
    clients = []
    first = time.monotonic()
    for number, (name, fingerprint) in enumerate(names):
        time.sleep(max(0.0, first + number * WITHIN_S / len(names) - time.monotonic()))
        now = time.monotonic()
        client = server.asks(name, fingerprint, address=f"198.18.{number >> 8}.{number & 255}")
        asked[client.client_id] = now
        clients.append(client)
    asked_s = time.monotonic() - first
    wait_until(lambda: all(client.state != "asking" for client in clients), what="all are answered", within_s=60)
    open_rows = "SELECT count(*) AS n FROM machines_vpnconnection WHERE ended_at IS NULL"
    lag_s = wait_until(lambda: one.rows(open_rows)[0]["n"] == len(names), what="all are written down", within_s=120)
    took = [server.answered[number] - asked[number] for number in server.answered]
    denied = [client for client in clients if client.state != "inside"]
    assert server.misunderstood == [], server.misunderstood[:3]
    return [
        Row(f"all {len(names)} machines ask within 10 s, by the protocol: refused", len(denied), 0, "",
            detail={"asked within s": round(asked_s, 1)}),
        Row("asked → answered by the authorisation agent, p99", percentile(took, 0.99), 1, "s", detail=spread(took)),
        Row("the last answer → all are written down", lag_s, 30, "s"),
    ]  # fmt: skip
