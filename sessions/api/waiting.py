"""Waiting for a session to change without holding a thread or a database connection meanwhile.

asgiref keeps one thread for each request until its end, and Django's connection lives in it. A poll that waits gives
that thread back, listens on the channel layer, and asks the database through a small pool that all polls share.
Messages of the layer are hints: a lost one costs RELOOK_S.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar
from uuid import UUID

from asgiref.sync import SyncToAsync
from channels.db import DatabaseSyncToAsync
from channels.layers import get_channel_layer

from machines.api.problems import Problem
from notifications import live
from sessions.models import SupportSession

logger = logging.getLogger(__name__)

RELOOK_S = 2.0
WAITS_A_MACHINE = 4
POOL_THREADS = 4

_T = TypeVar("_T")
_pool = ThreadPoolExecutor(max_workers=POOL_THREADS, thread_name_prefix="poll")
_waits: Counter[int] = Counter()
_ending = threading.Event()


async def in_pool(call: Callable[..., _T], *args: Any) -> _T:
    """Runs blocking code with the database in one of the shared threads."""
    result: _T = await DatabaseSyncToAsync(call, thread_sensitive=False, executor=_pool)(*args)
    return result


@contextmanager
def one_of_few(machine_id: int) -> Iterator[None]:
    """A machine's share of waiting polls. Raises Problem 429 beyond it; counts within this process and loop."""
    if _waits[machine_id] >= WAITS_A_MACHINE:
        raise Problem(
            429,
            "too_many_waits",
            f"Found {_waits[machine_id]} polls of this machine waiting already, expected at most {WAITS_A_MACHINE}.",
            headers={"Retry-After": "2"},
        )
    _waits[machine_id] += 1
    try:
        yield
    finally:
        _waits[machine_id] -= 1
        if not _waits[machine_id]:
            del _waits[machine_id]


def end_all() -> None:
    """Lets waiting polls answer within RELOOK_S and new ones at once: this process is about to end."""
    _ending.set()


async def for_change(session_id: UUID, *, since: int, timeout_s: float) -> None:
    """Returns when the session's version is no longer `since`, or the time is over; ends at once when cancelled."""
    _give_thread_back()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    async with _hints(session_id) as hint:
        # Looked at after joining the group: a change in between is seen here, a later one is told.
        while await in_pool(_version, session_id) == since and (left := deadline - loop.time()) > 0:
            if _ending.is_set():
                return
            await hint(min(RELOOK_S, left))


@asynccontextmanager
async def _hints(session_id: UUID) -> AsyncIterator[Callable[[float], Any]]:
    layer, group = get_channel_layer(), live.session_group(session_id)
    try:
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
    except Exception as error:
        logger.warning("No channel layer, polls look every %s s instead: %s", RELOOK_S, error)
        yield asyncio.sleep
        return

    async def hint(timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await layer.receive(channel)
        except TimeoutError:
            return
        except Exception as error:
            logger.warning("The channel layer failed, looking again in %s s: %s", timeout_s, error)
            await asyncio.sleep(timeout_s)

    try:
        yield hint
    finally:
        try:
            await layer.group_discard(group, channel)
        except Exception as error:
            logger.warning("Leaving %s failed, it expires by itself: %s", group, error)


def _give_thread_back() -> None:
    context = SyncToAsync.thread_sensitive_context.get(None)
    executor = SyncToAsync.context_to_thread_executor.pop(context, None) if context is not None else None
    if executor is not None:
        executor.shutdown(wait=False)  # the next synchronous call of this request starts a new one


def _version(session_id: UUID) -> int:
    return SupportSession.objects.values_list("version", flat=True).get(pk=session_id)
