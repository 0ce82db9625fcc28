"""An asker that dies or pauses at any step asks nobody twice and leaves nobody out."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from notifications.models import Delivery
from sessions import leases, services, signs_of_life
from sessions.models import Asked, Escalation, SessionEvent
from sessions.signs_of_life import SignOfLife
from sessions.states import EndReason
from tests.sessions.asking import Telemetry, asked, asker, fresh, kinds, send_all, told
from tests.sessions.rescues import Clock, fleet, person, press

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("web_push_alone")]


class Killed(BaseException):
    """kill -9."""


def steps_of(worker_pass: Callable[[], None], *, kill_at: int) -> bool:
    """Runs a pass that dies at one of its writes, before or after it; False when it has fewer than that."""
    count = 0

    def write(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
        nonlocal count
        is_write = sql.split(None, 1)[0] in ("INSERT", "UPDATE", "DELETE", "SAVEPOINT", "RELEASE")
        if is_write:
            count += 1
            if count == kill_at:
                raise Killed(sql)
        result = execute(sql, *args)
        if is_write:
            count += 1
            if count == kill_at:
                raise Killed(sql)
        return result

    try:
        # Nothing of a transaction is there after a death within it: the savepoint goes back with it.
        with connection.execute_wrapper(write):
            worker_pass()
    except Killed:
        return True
    return False


def _whole_ladder(clock: Clock, work: Callable[[], None]) -> None:
    session = press(now=clock())
    for seconds in (0, 45, 60, 120):
        clock.tick(seconds)
        work()
        send_all(clock)
    assert asked(session) == ["alice", "bob", "sue", "help@example.org"]
    assert told(session, "asked") == ["alice", "bob", "sue"]
    services.claim(fresh(session), user=person("Bob"), now=clock.tick(1))
    work()
    assert told(session, "taken") == ["alice", "sue"]
    services.release(fresh(session), user=person("Bob"), now=clock.tick(1))
    work()
    assert asked(session, 2) == ["alice"]
    services.end(fresh(session), EndReason.UNANSWERED, now=clock.tick(3600))
    work()
    assert told(session, "missed") == ["sue"]
    for kind in ("last_resort_asked", "supervisors_asked", "missed"):
        assert kinds(session).count(kind) == 1
    assert Asked.objects.count() == 5
    assert Delivery.objects.filter(kind="asked").count() == 4, "each person once a round"


def test_death_at_any_write_asks_nobody_twice_and_leaves_nobody_out(cast: None) -> None:
    fleet_ = fleet()
    fleet_.last_resort_email = "help@example.org"
    fleet_.save()
    kill_at, is_over = 1, False
    while not is_over:
        clock, deaths = Clock(), 0

        def work() -> None:
            nonlocal deaths
            telemetry = Telemetry("alice", "bob")
            deaths += steps_of(asker(telemetry, clock, "first").run_pass, kill_at=kill_at)  # noqa: B023
            asker(telemetry, clock, "second").run_pass()  # noqa: B023

        with transaction.atomic():
            try:
                _whole_ladder(clock, work)
            except AssertionError as error:
                raise AssertionError(f"after deaths at write {kill_at}: {error}") from error
            transaction.set_rollback(True)
        is_over = deaths == 0
        kill_at += 1
    assert kill_at > 10, "fewer would mean that the writes are not seen"


def test_worker_that_paused_before_its_step_changes_nothing_any_more(cast: None, clock: Clock) -> None:
    """As SIGSTOP while telemetry is asked: meanwhile another worker has made the step."""
    session = press(now=clock())
    telemetry = Telemetry("alice", "bob")
    other = asker(Telemetry("alice", "bob"), clock, "other")
    telemetry.meanwhile = other.run_pass
    asker(telemetry, clock).run_pass()
    assert asked(session) == ["alice"]
    assert SessionEvent.objects.filter(session=session, kind="asked").count() == 1
    assert Escalation.objects.get(session=session).turn == 1


def test_what_a_dead_process_was_sending_is_free_for_others(cast: None, clock: Clock, tmp_path: Path) -> None:
    press(now=clock())
    asker(Telemetry("alice"), clock).run_pass()
    with SignOfLife(tmp_path) as living:
        lease = {"lease_owner": f"{living.name}:sender", "lease_until": clock() + timedelta(seconds=20)}
        Delivery.objects.update(**lease)
        assert signs_of_life.bury_dead(leases.forget_process, tmp_path) == []
        assert Delivery.objects.get().lease_owner
        name, file = living.name, living._file
        assert file is not None
        fcntl.flock(file, fcntl.LOCK_UN)  # as the kernel does when it dies
        assert signs_of_life.bury_dead(leases.forget_process, tmp_path) == [name]
    assert Delivery.objects.get().lease_owner == ""
