"""The pump between one browser and guacd: pixels down, input up, and never more than a bounded amount in between.

guacd writes to all users of a desktop in turn, so one who does not read stops the keeper and everybody else. A browser
that stays behind therefore loses its place at guacd within a second, is given time to take what was sent, and joins
again. Nothing here touches the database, a thread or the channel layer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from sessions.guacamole import DownwardFilter, Handshake, RemoteProtocolError, Role, Status, UpwardFilter, encode
from sessions.standing import LOST, Ending

HIGH_WATER_BYTES = 1024 * 1024
# Going on as soon as this much is gone: a line of 512 kbit/s does that in a second.
_SLACK_BYTES = 64 * 1024
_READ_BYTES = 32 * 1024
_FRAME_BYTES = 32 * 1024
# What an item of the backlog costs beside its text.
_ITEM_BYTES = 64
_RECEIVE_BUFFER_BYTES = 128 * 1024
_QUICK_ACK: int | None = getattr(socket, "TCP_QUICKACK", None)  # Linux has it
JOIN_TIMEOUT_S = 10.0
PATIENCE_S = 1.0
DRAIN_S = 30.0
# guacd drops a user who is silent for 15 s; a tab in the background may be (its timers are throttled), so we speak.
NOP_EVERY_S = 5.0
SILENCE_S = 15.0

_TOO_SLOW = Ending(Status.SERVER_BUSY, "Your connection is too slow for the screen right now. Joining again.")
_FAULTY = Ending(Status.UPSTREAM_ERROR, "The gateway sent something that makes no sense. Joining again.")


@dataclass(frozen=True, slots=True)
class Desktop:
    """A desktop that a keeper holds; whoever knows its `connection_id` can join it, so only guacd is told (T2)."""

    connection: int  # the GuacamoleConnection's key
    host: str
    port: int
    connection_id: str = field(repr=False)
    arguments: Mapping[str, str] = field(default_factory=dict)


class JoinFailed(Exception):
    """guacd did not let us join this desktop."""


class Tunnel:
    """One browser's way to one desktop; `run` ends with the reason, or None when nobody is left to hear it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        role: Role,
        rest: bytes,
        arguments: Mapping[str, str],
        send: Callable[[str], Awaitable[None]],
    ) -> None:
        controls = role is Role.CONTROLLER
        self._reader = reader
        self._writer = writer
        self._rest = rest
        self._send = send
        self._down = DownwardFilter(clipboard=controls and arguments.get("disable-copy") != "true")
        self._up = UpwardFilter(role=role, clipboard=controls and arguments.get("disable-paste") != "true")
        self._loop = asyncio.get_running_loop()
        self._backlog: deque[str] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._space = asyncio.Event()
        self._empty = asyncio.Event()
        self._heard_at = self._loop.time()
        self._ended: asyncio.Future[Ending | None] = self._loop.create_future()
        self.acted_at = self._heard_at

    @property
    def backlog_bytes(self) -> int:
        """How much waits for the browser here."""
        return self._size

    async def run(self) -> Ending | None:
        """Pumps until something ends it; guacd's socket is closed then, since guacd leaves its end open (F6)."""
        tasks = [asyncio.create_task(part()) for part in (self._draw, self._deliver, self._stay_alive)]
        try:
            return await self._ended
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._leave()

    def end(self, ending: Ending | None) -> None:
        """Ends the tunnel; the first reason counts."""
        if not self._ended.done():
            self._ended.set_result(ending)

    async def from_browser(self, message: str) -> None:
        """Passes on what a browser sent, as far as its role allows; anything else ends the tunnel."""
        if self._ended.done():
            return
        upward = self._up.receive(message)
        # A browser that asks for answers and does not read them gets none.
        if upward.reply and self._size < HIGH_WATER_BYTES:
            self._queue(upward.reply)
        if upward.acted:
            self.acted_at = self._loop.time()
        if upward.text and not self._writer.is_closing():
            self._writer.write(upward.text.encode())
            with contextlib.suppress(OSError):
                await self._writer.drain()
        if upward.rejected:
            self.end(Ending(upward.rejected.status, f"{upward.rejected} Reload the page."))
        elif upward.disconnect:
            self.end(None)

    async def _draw(self) -> None:
        """guacd → backlog."""
        data = self._rest
        try:
            while True:
                if data:
                    downward = self._down.receive(data)
                    if downward.last_sync is not None:
                        self._up.note_sync(downward.last_sync)
                    if downward.text:
                        self._queue(downward.text)
                    if downward.ended:
                        self.end(LOST)
                        return
                if self._size > HIGH_WATER_BYTES and not await self._has_space():
                    self._leave()
                    await self._drained()
                    self.end(_TOO_SLOW)
                    return
                data = await self._reader.read(_READ_BYTES)
                _acknowledge(self._writer)
                self._heard_at = self._loop.time()
                if not data:
                    self.end(LOST)
                    return
        except RemoteProtocolError:
            self.end(_FAULTY)
        except OSError:
            self.end(LOST)

    async def _deliver(self) -> None:
        """Backlog → browser. `send` waits while the browser's socket is full."""
        while True:
            await self._filled.wait()
            batch = [self._backlog.popleft()]
            length = len(batch[0])
            while self._backlog and length + len(self._backlog[0]) <= _FRAME_BYTES:
                batch.append(self._backlog.popleft())
                length += len(batch[-1])
            if not self._backlog:
                self._filled.clear()
            try:
                await self._send("".join(batch))
            except Exception:
                self.end(None)  # the browser has gone; its WebSocket says so too
                return
            self._size -= length + len(batch) * _ITEM_BYTES
            if self._size <= HIGH_WATER_BYTES - _SLACK_BYTES:
                self._space.set()
            if not self._size:
                self._empty.set()

    async def _stay_alive(self) -> None:
        nop = encode("nop").encode()
        while True:
            await asyncio.sleep(NOP_EVERY_S)
            if self._writer.is_closing():
                return  # we have left, or guacd has: its silence means nothing, and `_draw` knows the reason
            if self._loop.time() - self._heard_at > SILENCE_S and self._size <= HIGH_WATER_BYTES:
                self.end(LOST)
            self._writer.write(nop)

    def _queue(self, text: str) -> None:
        self._backlog.append(text)
        self._size += len(text) + _ITEM_BYTES
        self._empty.clear()
        self._filled.set()

    async def _has_space(self) -> bool:
        self._space.clear()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._space.wait()
        except TimeoutError:
            return False
        return True

    async def _drained(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await self._empty.wait()

    def _leave(self) -> None:
        """Gives up our place at guacd, at once: whatever is on its way there is of no use to anybody."""
        if self._writer.is_closing():
            return
        with contextlib.suppress(OSError):
            self._writer.write(encode("disconnect").encode())
        if self._writer.transport.get_write_buffer_size():
            self._writer.transport.abort()
        else:
            self._writer.close()  # the kernel has the goodbye already


async def join(desktop: Desktop, *, role: Role, send: Callable[[str], Awaitable[None]]) -> Tunnel:
    """Joins a desktop at guacd as one more user. Raises JoinFailed."""
    handshake = Handshake.join(desktop.connection_id, read_only=role is Role.WATCHER, arguments=dict(desktop.arguments))
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(desktop.host, desktop.port, limit=_READ_BYTES)
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            writer.write(handshake.start())
            while not handshake.done:
                data = await reader.read(_READ_BYTES)
                _acknowledge(writer)
                if not data:
                    handshake.end_of_input()
                writer.write(handshake.receive(data))
            await writer.drain()
    except (OSError, RemoteProtocolError, TimeoutError) as error:
        if writer is not None:
            writer.transport.abort()
        # A refusal's text may hold what we asked for, and that is the connection's id.
        raise JoinFailed(type(error).__name__) from None
    except BaseException:
        if writer is not None:
            writer.transport.abort()
        raise
    return Tunnel(reader, writer, role=role, rest=handshake.take_rest(), arguments=desktop.arguments, send=send)


def _acknowledge(writer: asyncio.StreamWriter) -> None:
    """Has the kernel tell guacd at once that its bytes are here.

    guacd leaves Nagle's algorithm on: the end of a frame waits until what went before is acknowledged, which the kernel
    puts off by 40 ms and more. Linux forgets the wish again and again, so it is said after each read: 1 µs.
    """
    if _QUICK_ACK is not None and not writer.is_closing():
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)
