"""A proxy that cuts what is idle, as AWS Global Accelerator does: TCP after 340 s, UDP after 30 s, neither settable.

TCP ends here and begins anew behind, so keepalive packets of either end never count: only bytes do. A TCP connection
that was idle is reset on both sides. A UDP flow that was idle is forgotten: what the server still sends to it is lost,
and the client's next datagram comes from another port. That is all the accelerator knows of UDP.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from portal.demo.vpn.namespaces import inside
from tests.waiting import LONG_S

TCP_IDLE_S, UDP_IDLE_S = 340.0, 30.0
_CHUNK = 1 << 16
# As the accelerator's, whose time-outs are not exact either: never early, and late by this at most.
_LATE = 1 / 50
Address = tuple[str, int]


@dataclass
class Flow:
    """One connection, or the datagrams of one client port, by the clock `time.monotonic`."""

    kind: str
    client: Address
    began_at: float = field(default_factory=time.monotonic)
    spoke_at: float = field(default_factory=time.monotonic)
    longest_silence_s: float = 0.0
    bytes: int = 0
    lost: int = 0  # datagrams towards the client that came after the flow was forgotten
    was_cut: bool = False
    is_open: bool = True

    def speak(self, size: int) -> None:
        now = time.monotonic()
        self.longest_silence_s = max(self.longest_silence_s, now - self.spoke_at)
        self.spoke_at, self.bytes = now, self.bytes + size

    @property
    def silence_s(self) -> float:
        return time.monotonic() - self.spoke_at


class CuttingProxy:
    """Carries in a thread of its own; use as a context manager. `flows` has everything that was ever carried.

    `at` is the network namespace in which its sockets are, None: where we are.
    """

    def __init__(
        self, *, tcp_idle_s: float = TCP_IDLE_S, udp_idle_s: float = UDP_IDLE_S, at: str | None = None
    ) -> None:
        self.tcp_idle_s, self.udp_idle_s = tcp_idle_s, udp_idle_s
        self.flows: list[Flow] = []
        self._at = at
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cutting proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG_S)
        self._loop.close()

    def tcp(
        self, upstream: Address | Callable[[], Address], *, host: str = "127.0.0.1", port: int = 0, source: str = ""
    ) -> Address:
        """Listens and leads to `upstream`, seen there as coming from `source`; where it listens."""
        entry = self._socket(socket.SOCK_STREAM)
        entry.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        entry.bind((host, port))
        entry.listen(256)
        lead = upstream if callable(upstream) else lambda: upstream
        self._call(self._begin(self._accept(entry, lead, source)))
        return _name(entry)

    def udp(self, upstream: Address, *, host: str = "127.0.0.1", port: int = 0) -> Address:
        """The same of datagrams."""
        entry = self._socket(socket.SOCK_DGRAM)
        entry.bind((host, port))
        self._call(self._begin(self._carry_datagrams(entry, upstream)))
        return _name(entry)

    def cut(self, kind: str = "") -> list[Flow]:
        """The flows that were cut for being idle, of all kinds or of one."""
        return [flow for flow in self.flows if flow.was_cut and kind in ("", flow.kind)]

    # --- TCP ----------------------------------------------------------------------------------------------------------

    async def _accept(self, entry: socket.socket, lead: Callable[[], Address], source: str) -> None:
        while True:
            inner, client = await self._loop.sock_accept(entry)
            self._sockets.append(inner)
            await self._begin(self._carry(inner, client, lead(), source))

    async def _carry(self, inner: socket.socket, client: Address, upstream: Address, source: str) -> None:
        outer = self._socket(socket.SOCK_STREAM)
        flow = Flow("tcp", client)
        self.flows.append(flow)
        try:
            for one in (inner, outer):
                one.setblocking(False)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source:
                outer.bind((source, 0))
            await self._loop.sock_connect(outer, upstream)
            ways = {
                asyncio.create_task(self._stream(inner, outer, flow)),
                asyncio.create_task(self._stream(outer, inner, flow)),
            }
            await self._watch(ways, flow)
        except OSError:
            pass
        finally:
            flow.is_open = False
            for one in (inner, outer):
                if flow.was_cut:
                    _reset(one)
                self._sockets.remove(one)
                one.close()

    async def _watch(self, ways: set[asyncio.Task[None]], flow: Flow) -> None:
        """Until both halves have ended, one has failed, or nothing was said for too long."""
        try:
            while ways:
                left_s = self.tcp_idle_s - flow.silence_s
                if left_s <= 0:
                    flow.was_cut = True
                    return
                done, ways = await asyncio.wait(
                    ways, timeout=left_s + self.tcp_idle_s * _LATE / 2, return_when=asyncio.FIRST_COMPLETED
                )
                for way in done:
                    way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _stream(self, from_: socket.socket, to: socket.socket, flow: Flow) -> None:
        while data := await self._loop.sock_recv(from_, _CHUNK):
            flow.speak(len(data))
            await self._loop.sock_sendall(to, data)
        to.shutdown(socket.SHUT_WR)

    # --- UDP ----------------------------------------------------------------------------------------------------------

    async def _carry_datagrams(self, entry: socket.socket, upstream: Address) -> None:
        known: dict[Address, tuple[Flow, socket.socket]] = {}

        def forget_idle() -> None:
            for client, (flow, _) in list(known.items()):
                if flow.silence_s >= self.udp_idle_s:
                    flow.was_cut, flow.is_open = True, False
                    del known[client]

        def take_down(outer: socket.socket, flow: Flow) -> None:
            with contextlib.suppress(OSError):
                while True:
                    data = outer.recv(_CHUNK)
                    forget_idle()
                    if not flow.is_open:
                        flow.lost += 1
                        continue
                    flow.speak(len(data))
                    entry.sendto(data, flow.client)

        while True:
            data, client = await self._loop.sock_recvfrom(entry, _CHUNK)
            forget_idle()
            if client not in known:
                flow, outer = Flow("udp", client), self._socket(socket.SOCK_DGRAM)
                self.flows.append(flow)
                known[client] = (flow, outer)
                # Also when the flow is forgotten: so what is lost is counted.
                self._loop.add_reader(outer, take_down, outer, flow)
            flow, outer = known[client]
            flow.speak(len(data))
            with contextlib.suppress(OSError):
                outer.sendto(data, upstream)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        with inside(self._at):
            made = socket.socket(socket.AF_INET, kind)
        made.setblocking(False)
        self._sockets.append(made)
        return made

    def _call(self, coroutine: Any) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LONG_S)

    async def _begin(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        await _cancel_others()
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()


def silent_connection(address: Address, *, says: bytes = b"hello") -> socket.socket:
    """A TCP connection that says one thing and then nothing; its keepalive packets come every second."""
    one = socket.create_connection(address, timeout=LONG_S)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    one.sendall(says)
    return one


def is_reset(one: socket.socket) -> bool:
    """Whether a connection has been cut, looked at without waiting."""
    one.setblocking(False)
    try:
        return one.recv(_CHUNK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextlib.contextmanager
def echo(*, at: str | None = None, host: str = "127.0.0.1") -> Iterator[tuple[Address, Address]]:
    """A TCP and a UDP server that say back what they hear; a datagram `later N` is answered after N seconds."""
    with inside(at):
        stream, datagrams = socket.create_server((host, 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((host, 0))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK):
                writer.write(data)
                await writer.drain()
        writer.close()

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, client: Any) -> None:
            later_s = float(data.split()[1]) if data.startswith(b"later ") else 0.0
            asyncio.get_running_loop().call_later(later_s, self.transport.sendto, data, client)

    loop = asyncio.new_event_loop()

    async def begin() -> None:
        await asyncio.start_server(answer, sock=stream)
        await loop.create_datagram_endpoint(Datagrams, sock=datagrams)

    loop.run_until_complete(begin())
    names = _name(stream), _name(datagrams)
    thread = threading.Thread(target=loop.run_forever, name="echo", daemon=True)
    thread.start()
    try:
        yield names
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result(LONG_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LONG_S)
        stream.close()
        datagrams.close()
        loop.close()


async def _cancel_others() -> None:
    me = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not me]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _name(one: socket.socket) -> Address:
    host, port = one.getsockname()
    return str(host), int(port)
