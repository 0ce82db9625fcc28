"""How much of the same recorded stream a second of processor relays: our tunnel against guacamole-lite, in turns."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.figures import Row, percentile, spread
from bench.guacd import END
from bench.recording import recording
from bench.server import Server, child, on_processor, processor_s, server
from bench.wire import WebSocket, join_tunnel

ROUNDS = 5
MEGABYTES = 40


def measure() -> list[Row]:
    stream = recording()
    size = stream.stat().st_size
    times = max(1, round(MEGABYTES * 1e6 / size))
    node = shutil.which("node")
    if node is None:
        raise SystemExit("relay: found no node, expected one: guacamole-lite runs on it.")
    ours: list[tuple[float, float]] = []
    peers: list[tuple[float, float]] = []
    script = str(Path(__file__).with_name("lite.cjs"))
    with (
        server("--no-worker", "--no-keeper", alone=True) as one,
        on_processor(1),
        child(sys.executable, "-m", "bench.guacd", "play", str(stream), "--times", str(times)) as (_, guacd),
        _lite(node, script, guacd) as (lite, address),
    ):
        [session_id] = one.rows_tool("desktops", ports=[int(guacd)])
        port, token = address.split()
        for number in range(ROUNDS + 1):
            our_figures = _ours(one, session_id, size * times / 1e6)
            began, used = time.monotonic(), processor_s(lite.pid)
            browser = WebSocket(int(port), f"/?token={token}")
            _take_all(browser)
            peer_figures = _figures(size * times / 1e6, began, processor_s(lite.pid) - used)
            if number:  # both have run once before
                ours.append(our_figures)
                peers.append(peer_figures)
    ratios = [our[0] / peer[0] for our, peer in zip(ours, peers, strict=True)]
    return [
        Row(
            "relay throughput a CPU second, tunnel / guacamole-lite, median", percentile(ratios, 0.5), 1.0, "times",
            at_least=True,
            peer=f"guacamole-lite: {1000 / percentile([p[0] for p in peers], 0.5):.1f} ms of CPU a MB",
            detail={
                "recording MB": round(size / 1e6, 2), "MB a round": round(size * times / 1e6, 1),
                "tunnel ms CPU/MB": round(1000 / percentile([o[0] for o in ours], 0.5), 2),
                "guacamole-lite ms CPU/MB": round(1000 / percentile([p[0] for p in peers], 0.5), 2),
                "tunnel MB/s": round(percentile([o[1] for o in ours], 0.5), 1),
                "guacamole-lite MB/s": round(percentile([p[1] for p in peers], 0.5), 1),
                **spread(ratios, "ratio"),
            },
        )
    ]  # fmt: skip


@contextlib.contextmanager
def _lite(node: str, script: str, guacd: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with contextlib.ExitStack() as stack:
        with on_processor(0):
            started = stack.enter_context(child(node, script, guacd))
        yield started


def _ours(one: Server, session_id: str, megabytes: float) -> tuple[float, float]:
    port = urlsplit(one.address).port
    assert port is not None
    ticket = one.ticket(session_id)
    began, used = time.monotonic(), processor_s(one.pid)
    _take_all(join_tunnel(port, session_id, ticket=ticket, cookie=one.cookie))
    return _figures(megabytes, began, processor_s(one.pid) - used)


def _figures(megabytes: float, began: float, used: float) -> tuple[float, float]:
    """MB a second of processor, MB a second of the clock."""
    return megabytes / used, megabytes / (time.monotonic() - began)


def _take_all(browser: WebSocket) -> None:
    """Takes what comes without looking at it, until the stream's end; as fast as there is anything."""
    tail = b""
    while END not in tail:
        part = browser.socket.recv(1 << 20)
        if not part:
            raise ConnectionError(f"the relay hung up before the end: {tail!r}")
        tail = (tail + part)[-200:]
    browser.close()
