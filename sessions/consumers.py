"""This app's WebSockets: a browser's tunnel to a desktop, and (live_line.py) what pages hear."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar
from uuid import UUID, uuid4

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings

from machines.models import User
from notifications import live
from sessions import attachments, selectors
from sessions.connection import joiner_arguments
from sessions.errors import TicketRefused
from sessions.guacamole import RemoteProtocolError, Role, Status, decode, encode
from sessions.live_line import LiveConsumer
from sessions.models import Attachment, GuacamoleConnection
from sessions.standing import LOST, Ending, tunnel_ending
from sessions.tunnel import JOIN_TIMEOUT_S, Desktop, JoinFailed, Tunnel, join

__all__ = ["LiveConsumer", "TunnelConsumer"]

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

TICKET_TIMEOUT_S = 5.0
_HEARD_EVERY_S = 8.0
# How long changes of a session are gathered before a tunnel looks at its rights again.
_GATHER_S = 0.25
_FINISH_TIMEOUT_S = 5.0
# A database that is away ends no rescue at once; but nobody stays for long whom we cannot check (F10).
_BLIND_S = 300.0
_MAX_TICKET_FRAME = 512

_NO_TICKET = Ending(Status.CLIENT_TIMEOUT, "The page did not say in time what it wants. Joining again.")
_BAD_TICKET = Ending(Status.CLIENT_FORBIDDEN, "This ticket is unknown, used or too old. Joining again.")
_NOT_A_TICKET = Ending(Status.CLIENT_BAD_REQUEST, "The page spoke out of turn. Reload it.")
_BINARY = Ending(Status.CLIENT_BAD_TYPE, "The page sent bytes; expected text. Reload it.")
_IDLE = Ending(Status.SESSION_TIMEOUT, "Nothing was done at this screen for a while, so it was let go. Join again.")
_TOO_LONG = Ending(Status.SESSION_TIMEOUT, "This screen was open for as long as one may be. Join again.")
_BLIND = Ending(Status.SERVER_ERROR, "The server cannot check your rights at the moment. Joining again.")
_FAILED = Ending(Status.SERVER_ERROR, "Something went wrong on the server. Joining again.")


class TunnelConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One browser at one desktop, speaking to Guacamole.WebSocketTunnel of guacamole-common-js 1.6.0."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._main: asyncio.Task[None] | None = None
        self._tunnel: Tunnel | None = None
        self._has_left = False
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Channels forgets disconnect() where a handler raises (its issue 1466).
            self._browser_left()
            if self._main is not None:
                await asyncio.wait([self._main], timeout=JOIN_TIMEOUT_S + 2)
                self._main.cancel()
                await asyncio.gather(self._main, return_exceptions=True)

    async def connect(self) -> None:
        user = self.scope["user"]
        self._session_id: UUID = self.scope["url_route"]["kwargs"]["session_id"]
        if not user.is_authenticated or "guacamole" not in self.scope["subprotocols"]:
            await self.close()
            return
        if not await _in_thread(_may_look, user, self._session_id):
            await self.close()
            return
        self._user_id: int = user.pk
        self._login_key: str | None = self.scope["session"].session_key
        self._recheck = asyncio.Event()
        self._ticket: asyncio.Future[str | Ending | None] = asyncio.get_running_loop().create_future()
        await self.accept(subprotocol="guacamole")
        await self.send(text_data=encode("", str(uuid4())))
        self._main = asyncio.create_task(self._serve())

    async def dispatch(self, message: dict[str, Any]) -> None:
        """As Channels', but without its visit to the one synchronous thread for each frame: 89 µs, or far more."""
        if message["type"] == "websocket.receive":
            await self._receive(message.get("text"))
        elif message["type"] == "session.changed":
            self._recheck.set()
        else:
            await super().dispatch(message)

    async def disconnect(self, code: int) -> None:
        self._browser_left()

    # --- what the browser sends --------------------------------------------------------------------------------------

    async def _receive(self, text: str | None) -> None:
        if self._tunnel is not None:
            if text is None:
                self._tunnel.end(_BINARY)
            else:
                await self._tunnel.from_browser(text)
        elif not self._ticket.done():
            await self._expect_ticket(text)
        # Between ticket and desktop there is nothing to act on yet.

    async def _expect_ticket(self, text: str | None) -> None:
        try:
            if text is None or len(text) > _MAX_TICKET_FRAME:
                raise RemoteProtocolError("no ticket", "a ticket")
            for instruction in decode(text):
                match (instruction.opcode, *instruction.args):
                    case ("", "ping", moment) if moment.isdecimal():
                        await self.send(text_data=encode("", "ping", moment))
                    case ("", "ticket", ticket) if not self._ticket.done():
                        self._ticket.set_result(ticket)
                    case ("nop",):
                        pass
                    case _:
                        raise RemoteProtocolError("another instruction", "a ticket")
        except RemoteProtocolError:
            if not self._ticket.done():
                self._ticket.set_result(_NOT_A_TICKET)

    def _browser_left(self) -> None:
        self._has_left = True
        if self._main is not None and not self._ticket.done():
            self._ticket.set_result(None)
        if self._tunnel is not None:
            self._tunnel.end(None)

    # --- from ticket to goodbye --------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        group = live.session_group(self._session_id)
        try:
            with contextlib.suppress(Exception):  # without live messages the regular look is enough
                await self.channel_layer.group_add(group, self.channel_name)
            ending = await self._admit()
        except Exception:
            logger.exception("A tunnel of session %s failed", self._session_id)
            ending = _FAILED
        finally:
            with contextlib.suppress(Exception):
                await self.channel_layer.group_discard(group, self.channel_name)
        if ending is not None:
            await self._say_goodbye(ending)

    async def _admit(self) -> Ending | None:
        """Trades the ticket for a place at the desktop, and gives the place up again whatever happens."""
        try:
            async with asyncio.timeout(TICKET_TIMEOUT_S):
                ticket = await self._ticket
        except TimeoutError:
            return _NO_TICKET
        if not isinstance(ticket, str):
            return ticket
        client = self.scope.get("client") or ("",)
        agent = dict(self.scope["headers"]).get(b"user-agent", b"").decode("latin-1")
        try:
            attachment, ending, desktop = await _in_thread(
                _enter, ticket, session_id=self._session_id, user=self.scope["user"], login_key=self._login_key,
                address=client[0], user_agent=agent,
            )  # fmt: skip
        except TicketRefused:
            return _BAD_TICKET
        try:
            ending = ending or (await self._at_the_desktop(attachment, desktop) if desktop else LOST)
        finally:
            detail = ending.sentence if ending else "The browser left."
            await asyncio.shield(_in_thread(attachments.detach, attachment, detail=detail))
        return ending

    async def _at_the_desktop(self, attachment: Attachment, desktop: Desktop) -> Ending | None:
        role = Role(attachment.role)
        try:
            self._tunnel = tunnel = await join(desktop, role=role, send=self._send_text)
        except JoinFailed as error:
            logger.info("Session %s could not be joined: %s", self._session_id, error)
            return LOST
        if self._has_left:
            tunnel.end(None)
        watch = asyncio.create_task(self._watch(tunnel, attachment, role, desktop.connection))
        try:
            ending = await tunnel.run()
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if ending is LOST:
            # guacd hangs up when a rescue is closed, too: then that is what the operator should read.
            with contextlib.suppress(Exception):
                ending = await self._ending(role, None) or ending
        return ending

    async def _watch(self, tunnel: Tunnel, attachment: Attachment, role: Role, connection: int) -> None:
        """Ends the tunnel when its operator may no longer be there, or does nothing there (T8)."""
        loop = asyncio.get_running_loop()
        began_at = seen_at = heard_at = loop.time()
        while True:
            # Our own coming is a change too, and changes come in twos and threes: one look serves them all.
            await asyncio.sleep(_GATHER_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.TUNNEL_RECHECK_S - _GATHER_S):
                    await self._recheck.wait()
            self._recheck.clear()
            now = loop.time()
            try:
                ending = await self._ending(role, connection)
                seen_at = now
                if now - heard_at > _HEARD_EVERY_S:
                    if not await _in_thread(attachments.heard, [attachment.pk]):
                        ending = ending or LOST  # taken for dead during a pause: only a new join is counted as there
                    heard_at = now
            except Exception:
                logger.exception("A tunnel of session %s cannot check its operator's rights", self._session_id)
                ending = _BLIND if now - seen_at > _BLIND_S else None
            if ending is None and now - began_at > settings.TUNNEL_MAX_S:
                ending = _TOO_LONG
            if ending is None and role is Role.CONTROLLER and now - tunnel.acted_at > settings.TUNNEL_IDLE_S:
                ending = _IDLE
            if ending is not None:
                tunnel.end(ending)
                return

    async def _ending(self, role: Role, connection: int | None) -> Ending | None:
        return await _in_thread(
            tunnel_ending, login_key=self._login_key, user_id=self._user_id, session_id=self._session_id,
            role=role, connection=connection,
        )  # fmt: skip

    async def _send_text(self, text: str) -> None:
        await self.base_send({"type": "websocket.send", "text": text})

    async def _say_goodbye(self, ending: Ending) -> None:
        """guacd's own words for an end are "Aborted. See logs.": the browser gets ours."""
        words = encode("error", ending.sentence, int(ending.status)) + encode("disconnect")
        try:
            async with asyncio.timeout(_FINISH_TIMEOUT_S):
                await self._send_text(words)
                await self.close(code=ending.status.websocket_code, reason=ending.status.close_reason)
        except TimeoutError:
            if abort := self.scope.get("portafilter.abort"):
                abort()  # it takes nothing, not even a goodbye
        except Exception as error:
            logger.debug("A browser left before its goodbye: %r", error)


async def _in_thread(function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """A look at the database, off the loop and in no queue behind others."""
    result: T = await database_sync_to_async(function, thread_sensitive=False)(*args, **keywords)
    return result


def _may_look(user: User, session_id: UUID) -> bool:
    return selectors.sessions_for(user).filter(pk=session_id).exists()


def _enter(
    ticket: str, *, session_id: UUID, user: User, login_key: str | None, address: str, user_agent: str
) -> tuple[Attachment, Ending | None, Desktop | None]:
    """All that a tunnel asks the database on its way to the desktop, in one visit: each costs milliseconds.

    The attachment that the ticket opens, why its tunnel must end at once or None, and the desktop if one is held.
    Raises TicketRefused.
    """
    attachment = attachments.redeem_ticket(
        ticket, session_id=session_id, user=user, address=address, user_agent=user_agent
    )
    try:
        ending = tunnel_ending(
            login_key=login_key, user_id=user.pk, session_id=session_id, role=Role(attachment.role), connection=None
        )
        return attachment, ending, None if ending else _desktop_of(session_id)
    except BaseException:
        attachments.detach(attachment, detail="The server failed at this tunnel's first look.")
        raise


def _desktop_of(session_id: UUID) -> Desktop | None:
    """The desktop that a keeper holds for this session now."""
    found = (
        GuacamoleConnection.objects.filter(session_id=session_id, closed_at=None)
        .select_related("gateway", "session__machine")
        .first()
    )
    if found is None or not found.connection_id or found.gateway.port is None:
        return None
    return Desktop(
        found.pk, found.gateway.host, found.gateway.port, found.connection_id, joiner_arguments(found.session.machine)
    )
