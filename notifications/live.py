"""Tells open pages that something changed: a hint to look again, never the truth itself.

Messages go to channel-layer groups. InMemoryChannelLayer belongs to one event loop: from other threads it is
reached through that loop (`use_loop`), else messages arrive only when the loop happens to wake up.
A lost message costs a moment: pages and long polls also look by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer

logger = logging.getLogger(__name__)

# A Redis that hangs must hold up nobody whose change it is, as who asks people for help.
LONGEST_S = 2.0
LEFT_ALONE_S = 5.0

_loop: asyncio.AbstractEventLoop | None = None
_left_alone_until = float("-inf")


def use_loop(loop: asyncio.AbstractEventLoop | None) -> None:
    """Names the server's event loop; None when it ends."""
    global _loop
    _loop = loop


def fleet_group(fleet_id: int) -> str:
    return f"fleet.{fleet_id}"


def session_group(session_id: UUID) -> str:
    return f"session.{session_id.hex}"


def session_changed(*, fleet_id: int, session_id: UUID) -> None:
    """Tells pages of the fleet and waiters of the session; callable from any thread, raises nothing."""
    message = {"type": "session.changed", "session_id": str(session_id), "fleet_id": fleet_id}
    groups = [fleet_group(fleet_id), session_group(session_id)]
    try:
        if _loop is not None and not _loop.is_closed():
            asyncio.run_coroutine_threadsafe(_send(groups, message), _loop)
        else:
            async_to_sync(_send)(groups, message)
    except Exception:
        logger.exception("Could not tell open pages of a change; they will look by themselves")


async def _send(groups: list[str], message: dict[str, object]) -> None:
    global _left_alone_until
    if time.monotonic() < _left_alone_until:
        return
    layer = get_channel_layer()
    for group in groups:
        try:
            async with asyncio.timeout(LONGEST_S):
                await layer.group_send(group, message)
        except TimeoutError:
            _left_alone_until = time.monotonic() + LEFT_ALONE_S
            logger.warning("Live messages are not taken within %g s; for a while pages look by themselves", LONGEST_S)
            return
        except Exception as error:
            logger.warning("Live message to %s was not sent: %s", group, error)
