"""What an open page hears: a snapshot of the open rescues of one's fleets, then each card that changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any
from uuid import UUID

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer
from django.utils import timezone

from machines import selectors as fleet_selectors
from machines.models import User
from notifications import live
from sessions import selectors
from sessions.standing import person_of

logger = logging.getLogger(__name__)

PING_S = 20.0
# Messages are hints and may be lost: versions are compared this often, too, when the login is looked at again (T8).
LOOK_S = 4.0
SIGNED_OUT = 4401
NOT_UNDERSTOOD = 4400


class LiveConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """One page's live line; changes coalesce while a page takes nothing: a session is sent once, as it is then."""

    async def connect(self) -> None:
        user = self.scope["user"]
        if not user.is_authenticated:
            await self.close()
            return
        self._login_key: str | None = self.scope["session"].session_key
        self._user: User = user
        self._fleets: set[int] = set()
        self._known: dict[UUID, int] = {}
        self._dirty: set[UUID] = set()
        self._wake = asyncio.Event()
        await self.accept()
        self._line = asyncio.create_task(self._talk())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Channels forgets disconnect() where a handler raises (its issue 1466).
            if line := getattr(self, "_line", None):
                line.cancel()
                await asyncio.gather(line, return_exceptions=True)

    async def dispatch(self, message: dict[str, Any]) -> None:
        """As Channels', without its visit to the one synchronous thread for each message."""
        if message["type"] == "websocket.receive":
            await self.receive(text_data=message.get("text"))
        elif message["type"] == "session.changed":
            self._dirty.add(UUID(message["session_id"]))
            self._wake.set()
        else:
            await super().dispatch(message)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        try:
            kind = json.loads(text_data or "").get("type")
        except (ValueError, AttributeError, RecursionError):
            kind = None
        if kind == "ping":
            await self._tell({"type": "pong"})
        elif kind != "pong":
            await self.close(NOT_UNDERSTOOD)

    async def _talk(self) -> None:
        try:
            await self._snapshot()
            loop = asyncio.get_running_loop()
            look_at, ping_at = loop.time() + LOOK_S, loop.time() + PING_S
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(min(look_at, ping_at)):
                        await self._wake.wait()
                self._wake.clear()
                if loop.time() >= look_at:
                    look_at = loop.time() + LOOK_S
                    if not await self._look():
                        return
                if loop.time() >= ping_at:
                    ping_at = loop.time() + PING_S
                    await self._tell({"type": "ping"})
                await self._tell_changes()
        except asyncio.CancelledError:
            raise
        except OSError as error:
            logger.debug("A page of user %s left: %r", self._user.pk, error)
            # It may have been the channel layer's line, too: then the page must hear that this one is over.
            with contextlib.suppress(Exception):
                await self.close(1011)
        except Exception as error:
            # The page comes back by itself, and begins with a snapshot.
            logger.warning("A live line of user %s ended: %r", self._user.pk, error)
            with contextlib.suppress(Exception):
                await self.close(1011)
        finally:
            for fleet in self._fleets:
                with contextlib.suppress(Exception):
                    await self.channel_layer.group_discard(live.fleet_group(fleet), self.channel_name)

    async def _snapshot(self) -> None:
        me, fleets = await self._read(_me, self._user)
        for fleet in self._fleets - fleets:
            await self.channel_layer.group_discard(live.fleet_group(fleet), self.channel_name)
        for fleet in fleets - self._fleets:
            await self.channel_layer.group_add(live.fleet_group(fleet), self.channel_name)
        self._fleets = fleets
        # Read after joining the groups: what changes meanwhile is sent again rather than missed.
        cards, self._known = await self._read(_open_cards, self._user)
        await self._tell({"type": "snapshot", "server_time": timezone.now().isoformat(), "me": me, "sessions": cards})

    async def _look(self) -> bool:
        """Looks at login, fleets and versions again; False when the login has ended, and the line with it."""
        try:
            user, fleets, versions = await self._read(_standing, self._login_key)
        except Exception:
            logger.exception("A live line cannot look at the database; it tries again")
            return True
        if user is None or user.pk != self._user.pk:
            await self.close(SIGNED_OUT)
            return False
        if fleets != self._fleets:
            await self._snapshot()
            return True
        self._dirty |= {pk for pk, version in versions.items() if self._known.get(pk) != version}
        self._dirty |= self._known.keys() - versions.keys()
        return True

    async def _tell_changes(self) -> None:
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, set()
        for pk in dirty:
            self._known.pop(pk, None)
        for card in await self._read(_cards, self._user, dirty):
            if card["closing_at"] is None:
                self._known[UUID(card["id"])] = card["version"]
            await self._tell({"type": "session", "session": card})

    async def _tell(self, message: dict[str, Any]) -> None:
        # uvicorn holds this back while the browser takes nothing, so what waits is a set of ids and no more.
        await self.send(text_data=json.dumps(message, separators=(",", ":")))

    async def _read(self, function: Any, *args: object) -> Any:
        return await database_sync_to_async(function, thread_sensitive=False)(*args)


def _me(user: User) -> tuple[dict[str, Any], set[int]]:
    operator = fleet_selectors.operator_of(user)
    fleets = list(fleet_selectors.fleets_of(user))
    me = {
        "id": user.pk,
        "name": user.display_name,
        "role": operator.role if operator else None,
        "time_zone": operator.time_zone if operator else "UTC",
        "fleets": [{"id": fleet.pk, "name": fleet.name} for fleet in fleets],
    }
    return me, {fleet.pk for fleet in fleets}


def _open_cards(user: User) -> tuple[list[dict[str, Any]], dict[UUID, int]]:
    sessions = list(selectors.open_sessions_for(user))
    return selectors.cards(sessions, viewer=user), {session.pk: session.version for session in sessions}


def _cards(user: User, ids: set[UUID]) -> list[dict[str, Any]]:
    return selectors.cards(selectors.sessions_for(user).filter(pk__in=ids), viewer=user)


def _standing(login_key: str | None) -> tuple[User | None, set[int], dict[UUID, int]]:
    user = person_of(login_key)
    if user is None:
        return None, set(), {}
    fleets = set(fleet_selectors.fleets_of(user).values_list("pk", flat=True))
    versions = selectors.open_sessions_for(user).prefetch_related(None).select_related(None).order_by()
    return user, fleets, dict(versions.values_list("pk", "version"))
