"""A mouse event to guacd and an answer back, through the tunnel and over bare TCP; idle, and beside six streams."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.figures import Row, percentile, spread
from bench.recording import recording
from bench.server import Server, child, on_processor, server
from bench.wire import Guacd, WebSocket, instruction, join_tunnel, newest_sync

EVENTS = 3000
STREAMS = 6
STREAM_MB_PER_S = 1.0
_PAUSE_S = 0.004


def measure() -> list[Row]:
    stream = recording()
    rows = []
    with (
        server("--no-worker", "--no-keeper", alone=True) as one,
        on_processor(1),
        child(sys.executable, "-m", "bench.guacd", "echo") as (_, echo),
        _player(stream) as player,
    ):
        sessions = one.rows_tool("desktops", ports=[int(echo)] + [player] * STREAMS)
        raw = Guacd(int(echo), "rdp")
        raw.wait_for_frame()
        tunnel = _join(one, sessions[0])
        tunnel.receive()
        _exchange(raw, tunnel, 200)
        rows.append(_row("idle", 1.0, *_exchange(raw, tunnel, EVENTS)))
        with _watchers(one, sessions[1:]) as delivered:
            _exchange(raw, tunnel, 200)
            before, began = delivered(), time.monotonic()
            samples = _exchange(raw, tunnel, EVENTS)
            rate = (delivered() - before) / (time.monotonic() - began) / 1e6
        row = _row(f"beside {STREAMS} streams", 3.0, *samples)
        row.detail["streams' MB/s in all"] = round(rate, 2)
        rows.append(row)
    return rows


def _row(when: str, limit: float, raw: list[float], tunnel: list[float]) -> Row:
    added = percentile(tunnel, 0.99) - percentile(raw, 0.99)
    return Row(
        f"mouse event and answer, added over raw TCP, {when}, p99", added, limit, "ms",
        peer=f"raw TCP: {percentile(raw, 0.99):.2f} ms p99",
        detail={**spread(tunnel, "tunnel"), **spread(raw, "raw TCP")},
    )  # fmt: skip


def _exchange(raw: Guacd, tunnel: WebSocket, events: int) -> tuple[list[float], list[float]]:
    """The times of there and back in milliseconds, taken in turns, so that both meet the same weather."""
    over_tcp, through_tunnel = [], []
    for number in range(events):
        event = instruction("mouse", number % 1024, number % 768, 0)
        began = time.perf_counter()
        raw.socket.sendall(event)
        raw.socket.recv(4096)
        over_tcp.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        tunnel.send(event)
        while b"5.mouse," not in tunnel.receive():
            pass
        through_tunnel.append((time.perf_counter() - began) * 1000)
        time.sleep(_PAUSE_S)
    return over_tcp, through_tunnel


def _join(one: Server, session_id: str) -> WebSocket:
    port = urlsplit(one.address).port
    assert port is not None
    return join_tunnel(port, session_id, ticket=one.ticket(session_id), cookie=one.cookie)


@contextlib.contextmanager
def _player(stream: Path) -> Iterator[int]:
    command = ("play", str(stream), "--mb-per-s", str(STREAM_MB_PER_S))
    with child(sys.executable, "-m", "bench.guacd", *command) as (_, port):
        yield int(port)


@contextlib.contextmanager
def _watchers(one: Server, sessions: list[str]) -> Iterator[Callable[[], int]]:
    """Browsers of the other sessions, in a process of their own; how many bytes they have got so far."""
    port = urlsplit(one.address).port
    tickets = [one.ticket(session) for session in sessions]
    with child(sys.executable, "-m", "bench.mouse", str(port), one.cookie, *sessions, *tickets) as (process, _):
        counted = [0]

        def count() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                counted[0] = int(line)

        threading.Thread(target=count, daemon=True).start()
        yield lambda: counted[0]


def _watch(port: int, cookie: str, session_id: str, ticket: str, got: list[int]) -> None:
    tunnel = join_tunnel(port, session_id, ticket=ticket, cookie=cookie)
    for payload in tunnel.frames():
        got[0] += len(payload)
        if sync := newest_sync(payload):
            tunnel.send(instruction("sync", sync.decode()))


def _watch_all(port: str, cookie: str, *sessions_and_tickets: str) -> None:
    half = len(sessions_and_tickets) // 2
    got = [0]
    for session, ticket in zip(sessions_and_tickets[:half], sessions_and_tickets[half:], strict=True):
        threading.Thread(target=_watch, args=(int(port), cookie, session, ticket, got), daemon=True).start()
    while True:
        print(got[0], flush=True)
        time.sleep(0.2)


if __name__ == "__main__":
    _watch_all(*sys.argv[1:])
