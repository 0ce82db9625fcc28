"""Carries what goes between namespaces, and makes a line slow, lossy or dead as told while it runs.

A *line* is a machine's way to the VPN server, over UDP or TCP; its quality counts once for each direction. A *door* is
a TCP port that is forwarded as it is, by which a browser outside reaches a page inside.

    python -m portal.demo.vpn.lines serve FILE            # carries what the file describes, until it is told to stop
    python -m portal.demo.vpn.lines tell SOCKET LINE QUALITY

All in one process and thread; it knows nothing of what it carries.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import heapq
import json
import os
import random
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from portal.demo.errors import DemoError
from portal.demo.vpn.namespaces import inside

# A router's queue: what would wait for longer is dropped (UDP), or its sender waits (TCP).
_QUEUE_S = 1.0
_RETRANSMISSION_S = 0.25  # what a lost segment costs a TCP connection
_DATAGRAM = 65535
_CHUNK = 16384
_ENDPOINTS_LIMIT = 64  # of one line: a machine's OpenVPN takes a new port at each start


@dataclass(frozen=True, slots=True)
class Quality:
    """What a line does to what it carries, in each direction: milliseconds, a share from 0 to 1, kilobits a second."""

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    kbit_s: float = 0.0  # 0: as much as there is
    is_dead: bool = False

    def __post_init__(self) -> None:
        numbers = (self.delay_ms, self.jitter_ms, self.kbit_s)
        if not all(0 <= number <= 1e7 for number in numbers) or not 0 <= self.loss <= 1:
            raise ValueError(f"Found {self}, expected times and rates from 0 on, and a loss from 0 to 1.")


QUALITIES = {
    "good": Quality(delay_ms=5.0),
    "slow": Quality(delay_ms=150.0, jitter_ms=15.0, kbit_s=2000.0),
    "lossy": Quality(delay_ms=60.0, jitter_ms=30.0, loss=0.05),
    "dead": Quality(is_dead=True),
}


@dataclass(frozen=True, slots=True)
class Place:
    """An address in a namespace; None is the computer's own."""

    namespace: str | None
    host: str
    port: int

    @property
    def address(self) -> tuple[str, int]:
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class Way:
    """From where one connects to where that leads; `source` is whose address is seen there, None: any."""

    name: str
    kind: str  # udp, tcp, or door
    entry: Place
    exit: Place
    source: str | None = None


class Direction:
    """One way of a line: keeps what it was given until it is due, in order, and drops what it is told to."""

    def __init__(self, quality: Callable[[], Quality]) -> None:
        self._quality = quality
        self._free_at = 0.0
        self._last_due = 0.0
        self._waiting: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self.carried = 0
        self.dropped = 0

    def put(self, size: int, deliver: Callable[[], None], *, may_drop: bool = True) -> None:
        """Calls `deliver` when its time has come, or never."""
        quality, loop = self._quality(), asyncio.get_running_loop()
        now = loop.time()
        is_lost = random.random() < quality.loss
        if may_drop and (quality.is_dead or is_lost or self._free_at - now > _QUEUE_S):
            self.dropped += 1
            return
        if quality.kbit_s:
            self._free_at = max(self._free_at, now) + size * 8 / (quality.kbit_s * 1000)
        due = max(self._free_at, now) + quality.delay_ms / 1000
        due += random.uniform(-1, 1) * min(quality.jitter_ms, quality.delay_ms) / 1000
        if is_lost:
            due += _RETRANSMISSION_S
        # Lines seldom reorder, and a byte stream never does.
        self._last_due = due = max(due, self._last_due)
        if due <= now and not self._waiting:
            self.carried += 1
            deliver()
            return
        self._number += 1
        heapq.heappush(self._waiting, (due, self._number, deliver))
        self._set_timer(loop)

    @property
    def is_full(self) -> bool:
        return self._free_at - asyncio.get_running_loop().time() > _QUEUE_S

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is None and self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._deliver_due)

    def _deliver_due(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = None
        while self._waiting and self._waiting[0][0] <= loop.time():
            deliver = heapq.heappop(self._waiting)[2]
            self.carried += 1
            deliver()
        self._set_timer(loop)


class Line:
    """A way with a quality, which may change at any time."""

    def __init__(self, way: Way, quality: Quality) -> None:
        self.way = way
        self.quality = quality
        self.up, self.down = Direction(lambda: self.quality), Direction(lambda: self.quality)
        self._endpoints: dict[tuple[str, int], socket.socket] = {}
        self._entry: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Listens at the entry. Raises OSError."""
        kind = socket.SOCK_DGRAM if self.way.kind == "udp" else socket.SOCK_STREAM
        self._entry = entry = _socket(self.way.entry.namespace, kind)
        if self.way.kind == "udp":
            entry.bind(self.way.entry.address)
            asyncio.get_running_loop().add_reader(entry, self._take_up, entry)
        else:
            entry.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            entry.bind(self.way.entry.address)
            entry.listen(128)
            self._accepting = asyncio.create_task(self._accept(entry))

    def close(self) -> None:
        """Carries nothing any more."""
        loop = asyncio.get_running_loop()
        for open_ in [self._entry, *self._endpoints.values()] if self._entry else []:
            loop.remove_reader(open_)
            open_.close()
        if self._accepting is not None:
            self._accepting.cancel()

    # --- UDP ---------------------------------------------------------------------------------------------------------

    def _take_up(self, entry: socket.socket) -> None:
        for _ in range(64):
            try:
                data, address = entry.recvfrom(_DATAGRAM)
            except OSError:
                return
            endpoint = self._endpoints.get(address) or self._new_endpoint(entry, address)
            self.up.put(len(data), partial(_send, endpoint, data, self.way.exit.address))

    def _new_endpoint(self, entry: socket.socket, address: tuple[str, int]) -> socket.socket:
        if len(self._endpoints) >= _ENDPOINTS_LIMIT:
            oldest = self._endpoints.pop(next(iter(self._endpoints)))
            asyncio.get_running_loop().remove_reader(oldest)
            oldest.close()
        endpoint = _socket(self.way.exit.namespace, socket.SOCK_DGRAM)
        # Not connected: where both addresses are one computer's, the answer may come from another of them.
        if self.way.source:
            endpoint.bind((self.way.source, 0))
        self._endpoints[address] = endpoint
        asyncio.get_running_loop().add_reader(endpoint, self._take_down, endpoint, entry, address)
        return endpoint

    def _take_down(self, endpoint: socket.socket, entry: socket.socket, address: tuple[str, int]) -> None:
        for _ in range(64):
            try:
                data = endpoint.recv(_DATAGRAM)
            except OSError:
                return
            self.down.put(len(data), partial(_send, entry, data, address))

    # --- TCP ---------------------------------------------------------------------------------------------------------

    async def _accept(self, entry: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                inner, _ = await loop.sock_accept(entry)
                group.create_task(self._carry(inner))

    async def _carry(self, inner: socket.socket) -> None:
        inner.setblocking(False)
        outer = _socket(self.way.exit.namespace, socket.SOCK_STREAM)
        with inner, outer:
            try:
                for one in (inner, outer):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.way.source:
                    outer.bind((self.way.source, 0))
                await self._alive()
                await asyncio.get_running_loop().sock_connect(outer, self.way.exit.address)
                await asyncio.gather(self._stream(inner, outer, self.up), self._stream(outer, inner, self.down))
            except OSError:
                return

    async def _stream(self, from_: socket.socket, to: socket.socket, direction: Direction) -> None:
        """Until the other end has said all; then the half is shut, as a door that stays open for the answer."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[bytes] = asyncio.Queue()

        async def deliver() -> None:
            while data := await queue.get():
                await self._alive()
                await loop.sock_sendall(to, data)
            to.shutdown(socket.SHUT_WR)

        async def take() -> None:
            while True:
                while direction.is_full or queue.qsize() > 64:
                    await asyncio.sleep(0.01)
                data = await loop.sock_recv(from_, _CHUNK)
                direction.put(len(data), partial(queue.put_nowait, data), may_drop=False)
                if not data:
                    return

        await asyncio.gather(take(), deliver())

    async def _alive(self) -> None:
        while self.quality.is_dead:
            await asyncio.sleep(0.05)


class Lines:
    """All of them, and the socket by which they are told."""

    def __init__(self, control: Path, ways: list[Way]) -> None:
        self._control = control
        good = QUALITIES["good"]
        self.lines = {way.name: Line(way, Quality() if way.kind == "door" else good) for way in ways}

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Carries until told to stop. Raises DemoError when an entry is taken."""
        try:
            for line in self.lines.values():
                try:
                    line.open()
                except OSError as error:
                    host, port = line.way.entry.address
                    raise DemoError(f"{line.way.name}: cannot listen on {host}:{port}: {error.strerror}.") from error
            self._control.unlink(missing_ok=True)
            with _short(self._control) as path:
                server = await asyncio.start_unix_server(self._answer, path)
            self._control.chmod(0o600)
            async with server:
                on_ready()
                await stop.wait()
        finally:
            for line in self.lines.values():
                line.close()
            self._control.unlink(missing_ok=True)

    def change(self, name: str, quality: Quality | None) -> dict[str, object]:
        """Sets a line's quality, or only says it. Raises ValueError for a line that there is not."""
        line = self.lines.get(name)
        if line is None or line.way.kind == "door":
            known = ", ".join(name for name, line in self.lines.items() if line.way.kind != "door")
            raise ValueError(f"Found line {name[:40]!r}, expected one of {known}.")
        line.quality = quality or line.quality
        counts = {way: {"carried": one.carried, "dropped": one.dropped}
                  for way, one in (("up", line.up), ("down", line.down))}  # fmt: skip
        return {"line": name, "quality": asdict(line.quality), **counts}

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                request = json.loads(await reader.readline())
                quality = request.get("quality")
                answer = self.change(str(request["line"]), None if quality is None else read_quality(quality))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
            writer.close()


def read_quality(value: object) -> Quality:
    """A quality by its name or its numbers. Raises ValueError."""
    if isinstance(value, str):
        if value not in QUALITIES:
            raise ValueError(f"Found {value[:40]!r}, expected one of {', '.join(QUALITIES)}.")
        return QUALITIES[value]
    if not isinstance(value, dict):
        raise ValueError(f"Found {value!r}, expected a name or numbers.")
    return replace(Quality(), **value)


def tell(control: Path, line: str, quality: str | Quality | None) -> dict[str, object]:
    """Changes a line of the process that carries them (None: only asks). Raises DemoError."""
    told = asdict(quality) if isinstance(quality, Quality) else quality
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        try:
            with _short(control) as path:
                connection.connect(path)
            connection.sendall(json.dumps({"line": line, "quality": told}).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline())
        except (OSError, ValueError) as error:
            raise DemoError("The demo with a VPN does not run. Start it in another terminal: make run-vpn") from error
    if "error" in answer:
        raise DemoError(answer["error"])
    return dict(answer)


def write_ways(path: Path, control: Path, ways: list[Way]) -> None:
    """What `serve` reads."""
    path.write_text(json.dumps({"control": str(control), "ways": [asdict(way) for way in ways]}), encoding="utf-8")


def _read_ways(path: Path) -> Lines:
    document = json.loads(path.read_text(encoding="utf-8"))
    ways = [
        Way(**{**way, "entry": Place(**way["entry"]), "exit": Place(**way["exit"])}) for way in document["ways"]
    ]  # fmt: skip
    return Lines(Path(document["control"]), ways)


async def _serve(lines: Lines, ready: Path) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await lines.run(stop, ready.touch)


def _socket(namespace: str | None, kind: socket.SocketKind) -> socket.socket:
    with inside(namespace):
        made = socket.socket(socket.AF_INET, kind)
    made.setblocking(False)
    if kind == socket.SOCK_DGRAM:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            made.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    return made


def _send(by: socket.socket, data: bytes, to: tuple[str, int]) -> None:
    with contextlib.suppress(OSError):  # full, or closed meanwhile: datagrams get lost
        by.sendto(data, to)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """The socket's path by way of an open folder: its name has room for 107 bytes only."""
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{path.name}"
    finally:
        os.close(handle)


def main() -> int:
    """The two commands; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m portal.demo.vpn.lines", description="Lines between machines.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="carry, until told to stop")
    serve.add_argument("file", type=Path)
    serve.add_argument("--ready-file", type=Path, required=True)
    tell_ = commands.add_parser("tell", help="change a line of the running demo")
    tell_.add_argument("control", type=Path)
    tell_.add_argument("line")
    tell_.add_argument("quality", choices=sorted(QUALITIES))
    options = parser.parse_args()
    try:
        if options.command == "serve":
            asyncio.run(_serve(_read_ways(options.file), options.ready_file))
        else:
            tell(options.control, options.line, options.quality)
            print(f"The line of {options.line} is now {options.quality}: {_in_words(QUALITIES[options.quality])}.")
    except (DemoError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _in_words(quality: Quality) -> str:
    if quality.is_dead:
        return "nothing comes through"
    words = [f"{2 * quality.delay_ms:.0f} ms there and back"]
    if quality.jitter_ms:
        words.append(f"give or take {2 * quality.jitter_ms:.0f} ms")
    if quality.loss:
        words.append(f"{quality.loss:.0%} lost each way")
    if quality.kbit_s:
        words.append(f"{quality.kbit_s:.0f} kbit/s")
    return ", ".join(words)


if __name__ == "__main__":
    sys.exit(main())
