"""Holds one machine's desktop: logs in through guacd, echoes `sync`, and brings it back when it is lost.

The keeper is guacd's first user, and its own process is the only one that knows the login; operators join. It never
waits for them: it reads, echoes and forgets. What it writes to the database happens in threads, beside the frames.
Facts on guacd (1.3.0 and 1.6.0): it draws a cursor before the RDP login, so that the first `sync` is the sign of a
desktop; it cuts a user who is silent for 15 s, says `nop` itself every 5 s, and leaves sockets open after `disconnect`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from channels.db import database_sync_to_async
from django.utils import timezone

from sessions import keeper_rows
from sessions.connection import NotConnectable
from sessions.guacamole import ConnectionRefused, DownwardFilter, Handshake, RemoteProtocolError, Status, encode
from sessions.keeper_rows import Target

logger = logging.getLogger(__name__)

T = TypeVar("T")
InThread = Callable[..., Awaitable[Any]]

_NOP = encode("nop").encode()
_DISCONNECT = encode("disconnect").encode()
_READ_BYTES = 65_536
# So often in a row may guacd say nothing; then the session gets another one.
_MAX_SILENCES = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits in seconds; tests use shorter ones."""

    connect_s: float = 4.0
    # guacd starts a process before it says the first word, and then knows nothing of the machine yet. Such a time,
    # a desktop's silence and the delay between make less than the 20 s in which a gateway that hangs is replaced.
    first_word_s: float = 4.0
    handshake_s: float = 10.0
    # A machine far away, over a poor link, may take long to log in.
    first_frame_s: float = 25.0
    nop_every_s: float = 5.0
    silence_s: float = 15.0
    first_delay_s: float = 0.3
    longest_delay_s: float = 4.0


class DesktopGone(Exception):
    """There is no desktop, or not any longer; `status` is guacd's, if it gave one."""

    def __init__(self, detail: str, status: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status


class GatewayMute(DesktopGone):
    """guacd said nothing at all: whatever it is, it is not the machine's fault."""


class Desktop:
    """One connection to guacd as its first user: no database, no second try."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits) -> None:
        self._reader, self._writer, self._limits = reader, writer, limits
        # The clipboard is no business of the keeper's: what it reads it throws away.
        self._filter = DownwardFilter()
        self._nops: asyncio.Task[None] | None = None
        self.connection_id = ""

    @classmethod
    async def open(cls, host: str, port: int, handshake: Handshake, limits: Limits) -> Desktop:
        """Connects, logs in, and returns when the machine's screen is drawn. Raises DesktopGone."""
        try:
            async with asyncio.timeout(limits.connect_s):
                reader, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError) as error:
            raise GatewayMute(f"{keeper_rows.NO_ANSWER}: {error or 'time-out'}.") from error
        desktop = cls(reader, writer, limits)
        try:
            await desktop._shake_hands(handshake)
            desktop._nops = asyncio.create_task(desktop._say_nop())
            await desktop._wait_for_frame(handshake.take_rest())
        except BaseException:
            await desktop.close()
            raise
        return desktop

    async def hold(self) -> None:
        """Echoes until the desktop is gone: never returns but by DesktopGone."""
        while True:
            self._take(await self._read(self._limits.silence_s))

    async def close(self) -> None:
        """Takes leave of guacd, which ends RDP with its last user; never raises, closing twice is fine."""
        if self._nops is not None:
            self._nops.cancel()
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(_DISCONNECT)
            self._writer.close()
            async with asyncio.timeout(1):
                await self._writer.wait_closed()
        self._writer.transport.abort()

    async def _shake_hands(self, handshake: Handshake) -> None:
        self._writer.write(handshake.start())
        data = await self._first_word()
        try:
            async with asyncio.timeout(self._limits.handshake_s):
                self._writer.write(handshake.receive(data))
                while not handshake.done:
                    data = await self._reader.read(_READ_BYTES)
                    if not data:
                        handshake.end_of_input()
                    self._writer.write(handshake.receive(data))
        except TimeoutError as error:
            raise DesktopGone("The gateway began to answer and fell silent.") from error
        except ConnectionRefused as error:
            raise DesktopGone(f"The gateway refused the connection (status {error.status}).", error.status) from error
        except (RemoteProtocolError, OSError) as error:
            raise DesktopGone(f"The gateway does not speak Guacamole's protocol as expected: {error}.") from error
        self.connection_id = handshake.connection_id

    async def _first_word(self) -> bytes:
        try:
            async with asyncio.timeout(self._limits.first_word_s):
                data = await self._reader.read(_READ_BYTES)
        except (OSError, TimeoutError) as error:
            raise GatewayMute(f"{keeper_rows.NO_ANSWER}: {error or 'it was silent'}.") from error
        if not data:
            raise GatewayMute(f"{keeper_rows.NO_ANSWER}: it hung up.")
        return data

    async def _wait_for_frame(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._limits.first_frame_s):
                while not self._take(data):
                    data = await self._read(self._limits.first_frame_s)
        except TimeoutError as error:
            raise DesktopGone(f"Nothing was drawn within {self._limits.first_frame_s:.0f} s.") from error

    async def _read(self, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                data = await self._reader.read(_READ_BYTES)
        except TimeoutError as error:
            # guacd itself says `nop` every 5 s.
            raise GatewayMute(f"The gateway was silent for {timeout_s:.0f} s.") from error
        except OSError as error:
            raise DesktopGone("The gateway broke off the connection.") from error
        if not data:
            raise DesktopGone("The gateway hung up.")
        return data

    def _take(self, data: bytes) -> bool:
        """Echoes, and says whether a whole frame came. Raises DesktopGone."""
        try:
            down = self._filter.receive(data)
        except RemoteProtocolError as error:
            raise DesktopGone(f"The gateway sent what is no instruction: {error}.", Status.UPSTREAM_ERROR) from error
        if down.last_sync is not None:
            self._writer.write(encode("sync", down.last_sync).encode())
        if down.error is not None:
            raise DesktopGone(f"The gateway gave up with status {int(down.error)}.", int(down.error))
        if down.disconnect:
            raise DesktopGone("The machine ended the connection.")
        if "required" in down.dropped:
            # It would wait for ever for somebody to type a login: nobody is ever asked.
            status = int(Status.CLIENT_UNAUTHORIZED)
            raise DesktopGone(f"The gateway asked for a login although it had one (status {status}).", status)
        return down.last_sync is not None

    async def _say_nop(self) -> None:
        while True:
            await asyncio.sleep(self._limits.nop_every_s)
            if self._writer.is_closing():
                return  # guacd has gone: whoever reads hears it, too, and says so
            self._writer.write(_NOP)


class Keeper:
    """Keeps the desktop of one gateway's session until it is cancelled, or the gateway is not ours any more."""

    def __init__(self, gateway_id: UUID, owner: str, *, limits: Limits | None = None, in_thread: InThread) -> None:
        self.gateway_id = gateway_id
        self._owner = owner
        self._limits = limits or Limits()
        self._in_thread = in_thread
        self._said = ""  # an operator reads once what goes wrong the same way again and again
        self._refusals = 0
        self._renewals = 0  # of the login that was refused
        self._silences = 0  # so often in a row guacd said nothing

    async def run(self) -> None:
        """Connects, holds, connects again; whatever goes wrong is noted and tried again until the session ends."""
        failures = 0
        while True:
            held_s = 0.0
            try:
                target: Target | None = await self._write(keeper_rows.prepare)
                if target is None:
                    return
                held_s = await self._keep(target)
            except NotConnectable as error:
                await self._note(str(error), None)
            except Exception:
                # The database is away, or this is a fault of ours: the next try may do better.
                logger.exception("Keeper of gateway %s failed", self.gateway_id)
            # A desktop that comes and goes is no success.
            failures = 0 if held_s > self._limits.silence_s else failures + 1
            delay_s = min(self._limits.first_delay_s * 2 ** min(failures, 10), self._limits.longest_delay_s)
            await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))

    async def _keep(self, target: Target) -> float:
        """One connection from its beginning to its end; how long it was held, in seconds, 0 if it never came."""
        if target.renewals != self._renewals:
            self._refusals, self._renewals = 0, target.renewals
        try:
            desktop = await Desktop.open(target.host, target.port, target.connection.handshake, self._limits)
        except DesktopGone as gone:
            self._silences = self._silences + 1 if isinstance(gone, GatewayMute) else 0
            if self._silences >= _MAX_SILENCES:
                logger.warning("Gateway %s hangs and is given up: %s", self.gateway_id, gone.detail)
                await self._write(keeper_rows.give_up, detail=gone.detail)
            else:
                await self._note(_without_desktop(target, gone), gone.status)
            return 0.0
        since = time.monotonic()
        holding = asyncio.create_task(desktop.hold())
        try:
            opened = await self._write(keeper_rows.opened, target.connection, desktop.connection_id)
            if not opened:
                return 0.0
            self._said, self._refusals, self._silences = "", 0, 0
            logger.info("Gateway %s: the desktop is held", self.gateway_id)
            await asyncio.shield(holding)
        except DesktopGone as gone:
            logger.warning("Gateway %s: the desktop was lost: %s", self.gateway_id, gone.detail)
            self._silences = int(isinstance(gone, GatewayMute))
            await self._until_written(keeper_rows.lost, status=gone.status, detail=gone.detail)
        finally:
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
            await desktop.close()
        return time.monotonic() - since

    async def _note(self, detail: str, status: int | None) -> None:
        is_refusal = status == Status.CLIENT_UNAUTHORIZED
        self._refusals = self._refusals + 1 if is_refusal else 0
        is_final = self._refusals == 2
        if detail == self._said and not is_final:
            return
        logger.warning("Gateway %s: no desktop yet: %s", self.gateway_id, detail)
        notice = keeper_rows.REFUSED if is_refusal else keeper_rows.TRYING
        if self._silences:
            notice = f"{keeper_rows.NO_ANSWER}. It is being tried again."
        await self._write(keeper_rows.failed, detail=detail[:500], notice=notice, is_final=is_final)
        self._said = detail

    async def _until_written(self, write: Callable[..., T], **values: object) -> None:
        """A loss must reach the rows however long the database is away: operators would wait at a dead screen."""
        while True:
            try:
                await self._write(write, **values)
                return
            except Exception:
                logger.exception("Gateway %s: the loss of its desktop is not written yet", self.gateway_id)
                await asyncio.sleep(self._limits.longest_delay_s)

    async def _write(self, write: Callable[..., T], *args: object, **values: object) -> Any:
        return await self._in_thread(write, self.gateway_id, self._owner, *args, now=timezone.now(), **values)


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Runs a blocking call that uses the database in a thread; one that is cancelled is waited for all the same.

    So nothing is written behind the back of whoever tidies up after a cancellation.
    """
    call = asyncio.ensure_future(database_sync_to_async(function, thread_sensitive=False)(*args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise


def _without_desktop(target: Target, gone: DesktopGone) -> str:
    """What was tried, and what came of it: to guacd 1.3 a wrong password and a dead machine look the same."""
    place = f"{target.connection.hostname} port {target.connection.port}"
    if isinstance(gone, GatewayMute):
        return gone.detail
    if gone.status == Status.CLIENT_UNAUTHORIZED:
        return f"The machine at {place} refused its own one-off login. {gone.detail}"
    if gone.status is not None or gone.detail == "The gateway hung up.":
        return f"The machine at {place} could not be reached over RDP, or refused the login. {gone.detail}"
    return f"RDP to {place}: {gone.detail}"
