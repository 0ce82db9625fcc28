"""`?wait=`: a machine hears of a change at once, and who waits costs neither a thread nor a database connection."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from django.db import connections

from notifications import live
from sessions import services
from sessions.api import waiting
from sessions.models import SupportSession
from sessions.states import EndReason
from tests.sessions.machine_face import REQUESTS, Answer, Caller, caller_of
from tests.sessions.rescues import machine, person, press

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("poll_pool")]


async def in_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs blocking code as the worker's threads do: with a connection of its own."""

    def run() -> Any:
        try:
            return call(*args, **kwargs)
        finally:
            connections.close_all()

    return await sync_to_async(run, thread_sensitive=False)()


@asynccontextmanager
async def server_loop() -> AsyncIterator[None]:
    """This loop is the server's: messages from threads come to it."""
    live.use_loop(asyncio.get_running_loop())
    try:
        yield
    finally:
        live.use_loop(None)


async def joined(session: SupportSession, number: int) -> None:
    """Returns once so many polls listen for the session."""
    layer: Any = get_channel_layer()
    async with asyncio.timeout(60):
        while len(layer.groups.get(live.session_group(session.pk), {})) != number:
            await asyncio.sleep(0.005)


def begin(caller: Caller, session: SupportSession, query: str = "wait=30") -> asyncio.Task[Answer]:
    return asyncio.create_task(caller.call("GET", f"{REQUESTS}{session.pk}/?{query}"))


async def test_waiting_machine_hears_of_a_claim_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RELOOK_S", 600)  # only the message can wake it
    session, alice, a1 = await in_thread(press), await in_thread(person, "Alice"), await in_thread(caller_of, "A1")
    async with server_loop():
        poll = begin(a1, session, "wait=60")
        await joined(session, 1)
        await in_thread(services.claim, session, user=alice)
        async with asyncio.timeout(30):
            answer = await poll
    assert answer.status == 200 and answer.json["operator_name"] == "Alice"
    await joined(session, 0)


async def test_lost_message_costs_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "RELOOK_S", 0.1)
    monkeypatch.setattr(live, "session_changed", lambda **_: None)
    session, a1 = await in_thread(press), await in_thread(caller_of, "A1")
    poll = begin(a1, session)
    await joined(session, 1)
    await in_thread(services.cancel, session)
    answer = await poll
    assert answer.json["state"] == "closing"


async def test_broken_channel_layer_does_not_end_a_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: Any) -> None:
        raise ConnectionError("no redis")

    monkeypatch.setattr(waiting, "RELOOK_S", 0.1)
    monkeypatch.setattr(get_channel_layer(), "group_add", refuse)
    session, a1 = await in_thread(press), await in_thread(caller_of, "A1")
    poll = begin(a1, session)
    await in_thread(services.cancel, session)
    assert (await poll).json["state"] == "closing"


async def test_poll_with_an_old_version_or_for_what_is_over_returns_at_once() -> None:
    session, a1 = await in_thread(press), await in_thread(caller_of, "A1")
    async with asyncio.timeout(30):
        assert (await begin(a1, session, "wait=60&since=0")).json["version"] == 1
        ended = await in_thread(services.cancel, session)
        first = (await begin(a1, session, "wait=60")).json
        assert first["state"] == "closing"
        told = await in_thread(SupportSession.objects.get, pk=session.pk)
        assert told.machine_told_at is not None and told.version == ended.version + 1


async def test_poll_that_knows_of_the_closing_waits_for_the_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    session, a1 = await in_thread(press), await in_thread(caller_of, "A1")
    await in_thread(services.cancel, session)
    told = (await begin(a1, session, "wait=0")).json
    current = await in_thread(SupportSession.objects.get, pk=session.pk)
    assert told["state"] == "closing"
    async with server_loop():
        poll = begin(a1, session, f"wait=30&since={current.version}")
        await joined(session, 1)
        await in_thread(services.finish, current, now=current.updated_at)
        assert (await poll).json["state"] == "closed"
    async with asyncio.timeout(30):
        assert (await begin(a1, session, f"wait=60&since={current.version + 1}")).json["state"] == "closed"


async def test_time_that_passes_without_a_change_gives_the_same_version() -> None:
    session, a1 = await in_thread(press), await in_thread(caller_of, "A1")
    started = time.monotonic()
    answer = await begin(a1, session, "wait=1&since=1")
    assert answer.json["version"] == 1
    assert 0.9 < time.monotonic() - started < 30


async def test_machine_that_hangs_up_stops_waiting() -> None:
    session, a1 = await in_thread(press), await in_thread(caller_of, "A1")
    hang_up = asyncio.Event()
    poll = asyncio.create_task(a1.call("GET", f"{REQUESTS}{session.pk}/?wait=60", hang_up=hang_up))
    await joined(session, 1)
    hang_up.set()
    assert (await poll).status == 0
    await joined(session, 0)
    assert not waiting._waits


async def test_fifth_poll_of_one_machine_is_asked_to_come_back_later() -> None:
    session, a1 = await in_thread(press), await in_thread(caller_of, "A1")
    polls = [begin(a1, session) for _ in range(waiting.WAITS_A_MACHINE)]
    await joined(session, waiting.WAITS_A_MACHINE)
    answer = await begin(a1, session)
    answer.expect_problem(429, "too_many_waits")
    assert int(answer.headers["retry-after"]) > 0
    assert (await begin(a1, session, "wait=0")).status == 200
    await in_thread(services.cancel, session)
    assert [(await poll).json["state"] for poll in polls] == ["closing"] * len(polls)


@pytest.mark.timeout(300)
async def test_two_hundred_polls_wait_without_threads_and_all_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty machines, four polls each, four threads for the database: every one hears of its own change."""
    monkeypatch.setattr("sessions.api.machine.LONGEST_WAIT_S", 600)  # until all of them are there
    alice = await in_thread(person, "Alice")
    names = [f"M{number}" for number in range(50)]
    callers = [await in_thread(caller_of, name) for name in names]
    sessions = [await in_thread(press, name) for name in names]
    others = set(threading.enumerate())

    def new_threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread not in others]

    async with server_loop():
        polls = [begin(a, s, "wait=600") for a, s in zip(callers, sessions, strict=True) for _ in range(4)]
        for session in sessions:
            await joined(session, 4)
        # One more turn of the database pool: all have looked, none is on its way.
        await waiting.in_pool(lambda: None)
        # The last ones' own threads may just be ending.
        async with asyncio.timeout(30):
            while len(new_threads()) >= 20:
                await asyncio.sleep(0.01)
        pool = [thread for thread in threading.enumerate() if thread.name.startswith("poll")]
        assert len(pool) <= waiting.POOL_THREADS
        assert not any(poll.done() for poll in polls)
        for session in sessions:
            await in_thread(services.claim, session, user=alice)
        answers = await asyncio.gather(*polls)
    assert {answer.status for answer in answers} == {200}
    assert {answer.json["operator_name"] for answer in answers} == {"Alice"}


async def test_poll_for_nothing_is_not_found() -> None:
    a1 = await in_thread(caller_of, "A1")
    (await a1.call("GET", f"{REQUESTS}{uuid.uuid4()}/?wait=60")).expect_problem(404, "not_found")


async def test_end_that_comes_while_waiting_counts_as_told() -> None:
    session, alice, a1 = await in_thread(press), await in_thread(person, "Alice"), await in_thread(caller_of, "A1")
    session = await in_thread(services.claim, session, user=alice)
    async with server_loop():
        poll = begin(a1, session)
        await joined(session, 1)
        await in_thread(services.close, session, user=alice, outcome=EndReason.RESOLVED)
        assert (await poll).json["end_reason"] == "resolved"
    assert (await in_thread(SupportSession.objects.get, pk=session.pk)).machine_told_at is not None
    assert (await in_thread(machine, "A1")).last_seen_at is not None
