"""What a browser that stops reading for 30 s costs the server in memory; against guacamole-lite at the same pace."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from bench.figures import Row
from bench.recording import recording
from bench.relay import _lite
from bench.server import Server, child, memory_mib, on_processor, server
from bench.wire import WebSocket, instruction, join_tunnel

TUNNELS = 4
STALL_S = 30.0
MB_PER_S = 4.0
_RECEIVE_BUFFER = 64 * 1024
_LOOK_S = 0.5


def measure() -> list[Row]:
    stream = recording()
    node = shutil.which("node")
    if node is None:
        raise SystemExit("stall: found no node, expected one: guacamole-lite runs on it.")
    command = (sys.executable, "-m", "bench.guacd", "play", str(stream), "--mb-per-s", str(MB_PER_S))
    script = str(Path(__file__).with_name("lite.cjs"))
    with (
        server("--no-worker", "--no-keeper", alone=True) as one,
        on_processor(1),
        child(*command) as (_, guacd),
        _lite(node, script, guacd) as (lite, address),
    ):
        sessions = one.rows_tool("desktops", ports=[int(guacd)] * TUNNELS)
        # As many tunnels that read, first: what a tunnel costs anyway is not what a stalled one costs more.
        _hold([_tunnel(one, session) for session in sessions], one.pid, 3.0, reads=True)
        before = memory_mib(one.pid)
        flowing = _hold([_tunnel(one, session) for session in sessions], one.pid, 3.0, reads=True)
        stalled = _hold([_tunnel(one, session) for session in sessions], one.pid, STALL_S, reads=False)
        more = (stalled - max(before, flowing)) / TUNNELS

        port, token = address.split()
        flowing_peer = _hold([_peer(port, token) for _ in range(TUNNELS)], lite.pid, 3.0, reads=True)
        stalled_peer = _hold([_peer(port, token) for _ in range(TUNNELS)], lite.pid, STALL_S, reads=False)
        more_peer = (stalled_peer - flowing_peer) / TUNNELS
    return [
        Row(
            f"memory more a tunnel, browser stalled for {STALL_S:g} s", more, 2.0, "MiB",
            peer=f"guacamole-lite: {more_peer:.1f} MiB more",
            detail={
                "server before MiB": round(before, 1), "flowing MiB": round(flowing, 1),
                "stalled, worst MiB": round(stalled, 1), "tunnels": TUNNELS, "MB/s a stream": MB_PER_S,
                "guacamole-lite flowing MiB": round(flowing_peer, 1), "stalled MiB": round(stalled_peer, 1),
            },
        )
    ]  # fmt: skip


def _tunnel(one: Server, session_id: str) -> WebSocket:
    port = urlsplit(one.address).port
    assert port is not None
    return join_tunnel(
        port, session_id, ticket=one.ticket(session_id), cookie=one.cookie, receive_buffer=_RECEIVE_BUFFER
    )


def _peer(port: str, token: str) -> WebSocket:
    return WebSocket(int(port), f"/?token={token}", receive_buffer=_RECEIVE_BUFFER)


def _hold(browsers: list[WebSocket], pid: int, seconds: float, *, reads: bool) -> float:
    """Keeps browsers that read, or do not but go on saying that they live; the server's most memory meanwhile."""
    most = 0.0
    for browser in browsers:
        browser.socket.settimeout(0.05)
    until, spoke = time.monotonic() + seconds, 0.0
    looked = 0.0
    while (now := time.monotonic()) < until:
        if now - spoke > 3:
            spoke = now
            for browser in browsers:
                with contextlib.suppress(OSError):  # the server may have cut it
                    browser.send(instruction("nop"))
        if now - looked > _LOOK_S:
            looked = now
            most = max(most, memory_mib(pid))
        if not reads:
            time.sleep(0.1)
            continue
        for browser in browsers:
            with contextlib.suppress(TimeoutError):
                browser.receive()
    for browser in browsers:
        browser.close()
    return most
