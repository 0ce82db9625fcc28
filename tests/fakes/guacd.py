"""A guacd that behaves as told: well, wrongly, by halves or not at all, and remembers what it received.

It runs on a thread and a loop of its own, so that blocking and asyncio tests use it alike; every method may be
called from any thread. It has its own small codec: it must not share a mistake with the code under test.
What is copied from the real one (1.3.0 and 1.6.0): a first user opens a desktop, `select,$id` joins it, the desktop
ends with its last user, `error` comes after `ready`, and a socket stays open after `disconnect`.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import socket
import struct
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple

from tests.fakes.guacd_words import ARGUMENT_NAMES, FIRST_FRAME
from tests.waiting import LONG_S


class Received(NamedTuple):
    """One instruction as it arrived."""

    opcode: str
    args: tuple[str, ...]


class Fault(StrEnum):
    """How one connection goes wrong."""

    NONE = "none"
    SILENT = "silent"  # accepts, then says nothing ever
    HANG_UP = "hang_up"  # closes as soon as it has read something
    NONSENSE = "nonsense"  # answers `select` in HTTP
    WRONG_LENGTH = "wrong_length"  # answers `select` with an element whose length is wrong
    HALF_ARGS = "half_args"  # half of `args`, then silence
    HALF_ARGS_THEN_END = "half_args_then_end"  # half of `args`, then end of file
    NO_READY = "no_ready"  # `args`, then silence after `connect`
    NO_FRAME = "no_frame"  # `ready`, then nothing is drawn
    REFUSED = "refused"  # `ready`, then error 519: host unreachable, or a wrong password to FreeRDP's shadow server
    BAD_LOGIN = "bad_login"  # `ready`, then error 769: the RDP server refused the user
    REQUIRED = "required"  # `ready`, then asks for the password
    HALF_FRAME = "half_frame"  # a frame that stops in the middle of an instruction, then silence
    HALF_FRAME_THEN_END = "half_frame_then_end"


def instruction(opcode: str, *args: object) -> str:
    """An instruction as text; lengths are code points."""
    elements = [opcode, *(str(arg) for arg in args)]
    return ",".join(f"{len(element)}.{element}" for element in elements) + ";"


class FakeConnection:
    """One accepted connection: what it said and whether it lives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._text = ""
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self.selected = ""
        self.handshake: dict[str, tuple[str, ...]] = {}  # size, audio, video, image, timezone, name → arguments
        self.version = ""  # what the other side answered to VERSION_…
        self.arguments: dict[str, str] = {}  # `connect`, by the names offered
        self.received: list[Received] = []  # everything after the handshake
        self.violations: list[str] = []  # what a real guacd would have ended the connection for
        self.raw = bytearray()  # everything, as it came
        self.bytes_sent = 0
        self.connection_id = ""
        self.is_owner = False
        self.ended = False  # the other side has closed, or we have
        self.syncs_sent: set[str] = set()
        self._sending = asyncio.Lock()

    @property
    def opcodes(self) -> list[str]:
        return [one.opcode for one in self.received]

    def count(self, opcode: str) -> int:
        return self.opcodes.count(opcode)

    async def _next(self) -> Received | None:
        """The next instruction; None at the end of the stream."""
        while True:
            parsed = _parse(self._text)
            if parsed is not None:
                one, self._text = parsed
                return one
            data = await self._reader.read(65536)
            if not data:
                return None
            self.raw += data
            self._text += self._utf8.decode(data)

    async def _send(self, data: str | bytes) -> None:
        raw = data.encode() if isinstance(data, str) else data
        async with self._sending:
            for start in range(0, len(raw), 65536):
                self._writer.write(raw[start : start + 65536])
                await self._writer.drain()
                self.bytes_sent += len(raw[start : start + 65536])

    def _close(self, *, reset: bool = False) -> None:
        if reset:
            sock = self._writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.close()
        self.ended = True


@dataclass
class FakeDesktop:
    """What the users of one connection id share."""

    users: list[FakeConnection] = field(default_factory=list)


class FakeGuacd:
    """`with FakeGuacd() as guacd:` listens on 127.0.0.1:guacd.port.

    `faults` are taken by the next connections, one each; when there are none, `fault` is every connection's.
    `arguments` are offered after `select`; `version` None leaves the version out, as guacd before 1.1 did.
    """

    def __init__(
        self,
        *,
        version: str | None = "VERSION_1_5_0",
        argument_names: Iterable[str] = ARGUMENT_NAMES,
        fault: Fault = Fault.NONE,
        frame_interval_s: float | None = 0.1,
        connection_delay_s: float = 0.0,
        client_timeout_s: float | None = None,
        send_buffer: int | None = None,
        port: int = 0,
    ) -> None:
        self.version, self.argument_names = version, list(argument_names)
        self.fault = fault
        self.faults: deque[Fault] = deque()
        self.frame_interval_s = frame_interval_s  # None: nothing by itself after the first frame
        self.connection_delay_s = connection_delay_s  # between `ready` and the first frame, as an RDP login takes time
        self.client_timeout_s = client_timeout_s  # the real one: 15 s of silence, then error 776
        self.first_frame = FIRST_FRAME
        self.connections: list[FakeConnection] = []
        self.desktops: dict[str, FakeDesktop] = {}
        self.port = port
        # Holds the port while nothing listens there (a socket that only has it refuses): in between another might.
        self._holder = socket.socket()
        self._send_buffer = send_buffer
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._running = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    # --- its life ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> FakeGuacd:
        self._running.set()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._holder.bind(("127.0.0.1", self.port))
        self.port = self._holder.getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake guacd", daemon=True)
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONG_S)
        self._loop.close()
        self._holder.close()

    def kill(self, *, reset: bool = False) -> None:
        """As kill -9: stops listening and cuts every connection (with a RST if `reset`)."""
        self._call(self._stop(reset=reset))

    def restart(self) -> None:
        """Listens again on the same port, remembering nothing of its desktops."""
        self.desktops.clear()
        self._call(self._listen())

    def freeze(self) -> None:
        """As SIGSTOP: sockets stay open, the kernel goes on accepting, nothing is read or said from now on."""
        self._call(self._run_on(False))

    def thaw(self) -> None:
        self._call(self._run_on(True))

    # --- what it says ------------------------------------------------------------------------------------------------

    def send(self, data: str | bytes, *, to: FakeConnection | None = None, timeout_s: float = LONG_S) -> None:
        """Writes text or raw bytes to one connection, or to all users of all desktops; waits until it is sent.

        Of all users, one who is just leaving is passed over; the one connection must be there.
        """
        self._call(self._send(data, to), timeout_s)

    def start_flood(self, *, total: int, blob: int = 6048, to: FakeConnection | None = None) -> None:
        """Begins to send about `total` bytes of drawing as fast as it is taken; `bytes_sent` counts, nothing waits."""
        self._loop.call_soon_threadsafe(lambda: self._spawn(self._flood(total, blob, to)))

    def end(self, status: int, text: str = "Aborted. See logs.", *, hang_up: bool = False) -> None:
        """Ends every desktop as guacd does: `error`, `disconnect`, and the sockets stay open unless `hang_up`."""
        self._call(self._end(instruction("error", text, status) + instruction("disconnect"), hang_up=hang_up))

    def hang_up(self, connection: FakeConnection, *, reset: bool = False) -> None:
        """Closes one connection without a word."""
        self._loop.call_soon_threadsafe(lambda: connection._close(reset=reset))

    # --- waiting for what it hears -----------------------------------------------------------------------------------

    def wait_until(self, told: Callable[[], Any], *, timeout_s: float = LONG_S, what: str = "") -> Any:
        """What `told()` gives as soon as it is true; AssertionError, with what was received, when it is not in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                left = deadline - time.monotonic()  # looked at before: held up in between, it would be given up early
                if result := told():
                    return result
                if left <= 0:
                    seen = [(c.selected, c.opcodes[-20:], "ended" if c.ended else "open") for c in self.connections]
                    raise AssertionError(f"Not within {timeout_s} s: {what or told}. Connections: {seen}")
                self._changed.wait(min(left, 0.05))

    async def wait(self, told: Callable[[], Any], *, timeout_s: float = LONG_S, what: str = "") -> Any:
        """`wait_until` for asyncio tests."""
        return await asyncio.to_thread(self.wait_until, told, timeout_s=timeout_s, what=what)

    @property
    def owners(self) -> list[FakeConnection]:
        """The live first users: keepers."""
        return [user for user in self._users() if user.is_owner]

    @property
    def joiners(self) -> list[FakeConnection]:
        return [user for user in self._users() if not user.is_owner]

    def _users(self) -> list[FakeConnection]:
        # Copies, each made at one stroke: the test asks on its own thread while users come and go on ours.
        return [user for desktop in list(self.desktops.values()) for user in list(desktop.users)]

    # --- on its own loop ---------------------------------------------------------------------------------------------

    def _call(self, coroutine: Any, timeout_s: float = LONG_S) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout_s)

    def _spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    async def _run_on(self, goes_on: bool) -> None:
        (self._running.set if goes_on else self._running.clear)()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20, reuse_port=True)

    async def _stop(self, *, reset: bool = False) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for connection in self.connections:
            if not connection.ended:
                connection._close(reset=reset)
        self.desktops.clear()
        self._notify()

    async def _shut(self) -> None:
        self._running.set()
        await self._stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._server is None:  # it was accepted just before the kill
            writer.transport.abort()
            return
        self._tasks.add(task)
        if self._send_buffer:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        # Little in our own buffer, so that bytes_sent is close to what the kernel has taken.
        writer.transport.set_write_buffer_limits(high=16384)
        connection = FakeConnection(reader, writer)
        self.connections.append(connection)
        self._notify()
        fault = self.faults.popleft() if self.faults else self.fault
        try:
            await self._talk(connection, fault)
        except (ConnectionError, UnicodeDecodeError, asyncio.CancelledError, ValueError) as error:
            if isinstance(error, ValueError):
                connection.violations.append(str(error))
        finally:
            self._leave(connection)
            connection._close()
            self._tasks.discard(task)
            self._notify()

    async def _talk(self, connection: FakeConnection, fault: Fault) -> None:
        if fault == Fault.SILENT:
            await self._listen_only(connection)
            return
        select = await connection._next()
        await self._running.wait()
        if select is None or fault == Fault.HANG_UP:
            return
        if select.opcode != "select" or len(select.args) != 1:
            raise ValueError(f"expected select with one argument, found {select}")
        connection.selected = select.args[0]
        self._notify()
        unknown = connection.selected.startswith("$") and connection.selected not in self.desktops
        if unknown and fault not in (Fault.NONSENSE, Fault.WRONG_LENGTH):
            await connection._send(instruction("error", "Connection does not exist.", 516))
            return
        if not await self._offer(connection, fault):
            await self._listen_only(connection)
            return
        if not await self._read_handshake(connection) or fault == Fault.NO_READY:
            await self._listen_only(connection)
            return
        await self._enter(connection, fault)
        await self._converse(connection)

    async def _offer(self, connection: FakeConnection, fault: Fault) -> bool:
        names = [*([self.version] if self.version else []), *self.argument_names]
        args = instruction("args", *names)
        half = args[: len(args) // 2]
        if fault == Fault.NONSENSE:
            await connection._send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        elif fault == Fault.WRONG_LENGTH:
            await connection._send("4.args,99.VERSION_1_5_0;5.ready;")
        elif fault == Fault.HALF_ARGS:
            await connection._send(half)
        elif fault == Fault.HALF_ARGS_THEN_END:
            await connection._send(half)
            raise ConnectionError
        else:
            await connection._send(args)
            return True
        return False

    async def _read_handshake(self, connection: FakeConnection) -> bool:
        while one := await connection._next():
            await self._running.wait()
            if one.opcode != "connect":
                connection.handshake[one.opcode] = one.args
                continue
            values = list(one.args)
            if self.version:
                connection.version = values.pop(0) if values else ""
            if len(values) != len(self.argument_names):
                connection.violations.append(f"{len(values)} values for {len(self.argument_names)} arguments")
            connection.arguments = dict(zip(self.argument_names, values, strict=False))
            self._notify()
            return True
        return False

    async def _enter(self, connection: FakeConnection, fault: Fault) -> None:
        connection.is_owner = not connection.selected.startswith("$")
        connection.connection_id = f"${uuid.uuid4()}" if connection.is_owner else connection.selected
        if connection.is_owner:
            self.desktops[connection.connection_id] = FakeDesktop()
        desktop = self.desktops.get(connection.connection_id)
        if desktop is None:
            raise ConnectionError
        desktop.users.append(connection)
        await connection._send(instruction("ready", connection.connection_id))
        if connection.is_owner:
            await asyncio.sleep(self.connection_delay_s)
        if fault in (Fault.REFUSED, Fault.BAD_LOGIN):
            status = 519 if fault == Fault.REFUSED else 769
            await connection._send(instruction("error", "Aborted. See logs.", status) + instruction("disconnect"))
        elif fault == Fault.REQUIRED:
            await connection._send(instruction("required", "password"))
        elif fault in (Fault.HALF_FRAME, Fault.HALF_FRAME_THEN_END):
            await connection._send(self.first_frame[: len(self.first_frame) // 2])
            if fault == Fault.HALF_FRAME_THEN_END:
                raise ConnectionError
        elif fault != Fault.NO_FRAME:
            await self._frame(connection, self.first_frame)
            if self.frame_interval_s:
                self._spawn(self._keep_drawing(connection, self.frame_interval_s))
        self._notify()

    async def _frame(self, connection: FakeConnection, drawing: str) -> None:
        timestamp = str(time.monotonic_ns() // 1_000_000)
        connection.syncs_sent.add(timestamp)
        frames = ("1",) if self.version == "VERSION_1_5_0" else ()
        await connection._send(drawing + instruction("sync", timestamp, *frames))

    async def _keep_drawing(self, connection: FakeConnection, interval_s: float) -> None:
        try:
            while not connection.ended:
                await asyncio.sleep(interval_s)
                await self._running.wait()
                await self._frame(connection, "4.rect,1.0,1.8,1.8,2.32,2.32;5.cfill,2.14,1.0,3.200,2.90,2.20,3.255;")
        except ConnectionError:
            pass

    async def _converse(self, connection: FakeConnection) -> None:
        while True:
            try:
                one = await asyncio.wait_for(connection._next(), self.client_timeout_s)
            except TimeoutError:
                await connection._send(instruction("error", "User is not responding.", 776) + instruction("disconnect"))
                await self._listen_only(connection)
                return
            await self._running.wait()
            if one is None:
                return
            connection.received.append(one)
            if one.opcode == "sync" and (not one.args or one.args[0] not in connection.syncs_sent):
                connection.violations.append(f"sync for a frame that was never sent: {one.args}")
            self._notify()
            if one.opcode == "disconnect":
                # The real one ends the user here and leaves the socket open.
                self._leave(connection)
                self._notify()

    async def _listen_only(self, connection: FakeConnection) -> None:
        while (one := await connection._next()) is not None:
            connection.received.append(one)
            self._notify()

    def _leave(self, connection: FakeConnection) -> None:
        desktop = self.desktops.get(connection.connection_id)
        if desktop and connection in desktop.users:
            desktop.users.remove(connection)
            if not desktop.users:
                del self.desktops[connection.connection_id]

    async def _send(self, data: str | bytes, to: FakeConnection | None) -> None:
        if to:
            await to._send(data)
            return
        for user in self._users():
            with contextlib.suppress(ConnectionError):
                await user._send(data)

    async def _end(self, last_words: str, *, hang_up: bool) -> None:
        # Forgotten before anybody hears of it: a keeper that comes back at once opens a desktop that stays.
        users = self._users()
        self.desktops.clear()
        for user in users:
            with contextlib.suppress(ConnectionError):
                await user._send(last_words)
            if hang_up:
                user._close()

    async def _flood(self, total: int, blob: int, to: FakeConnection | None) -> None:
        users = [to] if to else self._users()
        picture = instruction("img", 1, 14, 0, "image/png", 0, 0)
        picture += instruction("blob", 1, "A" * (blob // 4 * 4)) * 4 + instruction("end", 1)

        async def pour(user: FakeConnection) -> None:
            try:
                start = user.bytes_sent
                while user.bytes_sent - start < total and not user.ended:
                    await self._running.wait()
                    await self._frame(user, picture)
            except ConnectionError:
                pass

        await asyncio.gather(*(pour(user) for user in users))
        self._notify()


def _parse(text: str) -> tuple[Received, str] | None:
    """The first instruction and what follows it; None when it is not whole; ValueError when it cannot become one."""
    elements: list[str] = []
    at = 0
    while True:
        dot = text.find(".", at, at + 6)
        if dot < 0:
            if len(text) - at >= 6:
                raise ValueError(f"expected a length, found {text[at : at + 6]!r}")
            return None
        length = int(text[at:dot])
        end = dot + 1 + length
        if end >= len(text):
            return None
        elements.append(text[dot + 1 : end])
        if text[end] == ";":
            return Received(elements[0], tuple(elements[1:])), text[end + 1 :]
        if text[end] != ",":
            raise ValueError(f"expected , or ; found {text[end]!r}")
        at = end + 1
