"""Nobody comes: the machine is told the truth, and the supervisors find it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from machines.models import Operator
from notifications.models import Delivery
from sessions import services, words
from sessions.states import EndReason
from tests.sessions.asking import Telemetry, asked, asker, card_of, escalation, fresh, kinds, reachable, told
from tests.sessions.rescues import Clock, fleet, person, press

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("web_push_alone")]


def at_home(clock: Clock, when: str) -> Clock:
    """A clock at a moment of 2026, in UTC; the machine's site is in Rome."""
    clock.at = clock.at.replace(
        year=2026, month=11, day=int(when[:2]), hour=int(when[3:5]), minute=int(when[6:8]), second=0, microsecond=0
    )
    return clock


@pytest.mark.parametrize(
    ("pressed", "next_at", "expected"),
    [
        ("23 03:00", "23 06:00", "from 07:00."),
        ("23 21:00", "24 06:00", "from tomorrow 07:00."),
        ("23 23:30", "24 06:00", "from 07:00."),  # it is the 24th already, there
        ("20 21:00", "23 06:00", "from Monday 07:00."),
        ("10 21:00", "23 06:00", "from 23 November 07:00."),
    ],
)
def test_machine_is_told_that_nobody_is_there_and_from_when(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, pressed: str, next_at: str, expected: str
) -> None:
    at_home(clock, pressed)
    monkeypatch.setattr("django.utils.timezone.now", clock)
    telemetry = Telemetry()
    telemetry.next_at = at_home(Clock(), next_at)()
    session = press(now=clock())
    asker(telemetry, clock).run_pass()
    text = words.message_for_machine(fresh(session))
    assert text == f"Nobody is on duty at this moment. Somebody will look at this machine {expected}"
    assert card_of(session)["asking"]["sentence"].startswith("Nobody is on duty at this moment.")
    assert kinds(session) == ["requested", "nobody_asked"]
    ended = services.end(fresh(session), EndReason.UNANSWERED, now=clock.tick(60))
    assert words.message_for_machine(ended) == text


def test_letter_to_the_last_resort_puts_nobody_on_duty(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.NOTIFY_EMAIL_URL = "smtp://mail.example"
    at_home(clock, "23 03:00")
    monkeypatch.setattr("django.utils.timezone.now", clock)
    fleet_ = fleet()
    fleet_.last_resort_email = "help@example.org"
    fleet_.save()
    telemetry = Telemetry()
    telemetry.next_at = at_home(Clock(), "23 06:00")()
    session = press(now=clock())
    asker(telemetry, clock).run_pass()
    assert asked(session) == ["help@example.org"]
    expected = "Nobody is on duty at this moment. Somebody will look at this machine from 07:00."
    assert words.message_for_machine(fresh(session)) == expected
    ended = services.end(fresh(session), EndReason.UNANSWERED, now=clock.tick(60))
    assert words.message_for_machine(ended) == expected


def test_somebody_whose_duty_begins_meanwhile_is_asked_then(cast: None, clock: Clock) -> None:
    Operator.objects.filter(user=person("Sue")).update(is_available=False)
    telemetry = Telemetry()
    telemetry.next_at = clock() + timedelta(minutes=10)
    session = press(now=clock())
    worker = asker(telemetry, clock)
    worker.run_pass()
    assert escalation(session).nobody_at == clock()
    telemetry.names, telemetry.next_at = ["alice"], None
    clock.tick(599)
    worker.run_pass()
    assert asked(session) == []
    clock.tick(1)
    worker.run_pass()
    assert asked(session) == ["alice"]
    assert escalation(session).nobody_at is None
    assert words.message_for_machine(fresh(session)).startswith("Help is on its way")


def test_last_resort_and_supervisors_are_told_once_whenever_a_duty_begins(cast: None, clock: Clock) -> None:
    fleet_ = fleet()
    fleet_.last_resort_email = "help@example.org"
    fleet_.save()
    telemetry = Telemetry()
    telemetry.next_at = clock() + timedelta(minutes=10)
    session = press(now=clock())
    worker = asker(telemetry, clock)
    for minute in range(20):
        worker.run_pass()
        clock.tick(60)
        if minute == 11:
            telemetry.names = ["bob"]
            telemetry.next_at = None
    assert telemetry.asked == 2
    assert asked(session) == ["sue", "help@example.org"]


def test_nobody_and_no_known_time_is_looked_up_once(clock: Clock) -> None:
    telemetry = Telemetry()
    telemetry.next_at = clock()  # over already: it must not be asked for again and again
    session = press(now=clock())
    worker = asker(telemetry, clock)
    for _ in range(5):
        worker.run_pass()
        clock.tick(1)
    assert (telemetry.asked, kinds(session).count("nobody_asked")) == (1, 1)
    assert "Your request is kept" in words.message_for_machine(fresh(session))


def test_duty_that_is_always_about_to_begin_is_looked_for_twice_a_minute(clock: Clock) -> None:
    telemetry = Telemetry()
    session = press(now=clock())
    worker = asker(telemetry, clock)
    looks: list[float] = []
    for half_second in range(300):
        telemetry.next_at = clock() + timedelta(seconds=0.3)
        before = telemetry.asked
        worker.run_pass()
        looks += [half_second / 2] * (telemetry.asked - before)
        clock.tick(0.5)
    assert looks == [0, 0.5, 30.5, 60.5, 90.5, 120.5]
    assert fresh(session).version <= 7, "each look is a new version"


def test_duty_that_begins_while_the_supervisors_have_their_time_is_asked_for_after_it(cast: None, clock: Clock) -> None:
    telemetry = Telemetry()
    telemetry.next_at = clock() + timedelta(seconds=60)
    session = press(now=clock())
    worker = asker(telemetry, clock)
    worker.run_pass()
    telemetry.names, telemetry.next_at = ["alice"], None
    for _ in range(3):
        clock.tick(61)
        worker.run_pass()
        worker.run_pass()
    assert asked(session) == ["sue", "alice"]
    assert telemetry.asked == 2


def test_first_look_comes_right_when_the_duty_begins(clock: Clock) -> None:
    reachable("Alice")
    telemetry = Telemetry()
    telemetry.next_at = clock() + timedelta(seconds=5)
    session = press(now=clock())
    worker = asker(telemetry, clock)
    worker.run_pass()
    telemetry.names = ["alice"]
    clock.tick(5)
    worker.run_pass()
    assert asked(session) == ["alice"]


def test_supervisors_hear_of_what_nobody_came_to(cast: None, clock: Clock, settings: Settings) -> None:
    settings.NOTIFY_EMAIL_URL = "smtp://mail.example"
    sue = person("Sue")
    sue.email = "sue@example.org"
    sue.save()
    session = press(now=clock())
    worker = asker(Telemetry("alice"), clock)
    worker.run_pass()
    services.end(fresh(session), EndReason.UNANSWERED, now=clock.tick(1800))
    for _ in range(2):
        worker.run_pass()
    missed = Delivery.objects.filter(subject=session.pk, kind="missed")
    assert {(row.recipient, row.channel) for row in missed} == {(sue, "web_push"), (sue, "email")}
    assert all(row.is_silent for row in missed)
    # What takes back that they were asked goes at the same moment, and is not to take its place on the screen.
    over = Delivery.objects.filter(subject=session.pk, kind="over")
    assert {row.payload["tag"] for row in missed}.isdisjoint(row.payload["tag"] for row in over)
    assert kinds(session)[-1] == "missed"


@pytest.mark.parametrize(
    ("reason", "is_missed"),
    [(EndReason.UNANSWERED, True), (EndReason.CANCELLED, False), (EndReason.GATEWAY_FAILED, False)],
)
def test_only_what_nobody_came_to_is_missed(cast: None, clock: Clock, reason: EndReason, is_missed: bool) -> None:
    session = press(now=clock())
    worker = asker(Telemetry("alice"), clock)
    worker.run_pass()
    services.end(fresh(session), reason, now=clock.tick(60))
    worker.run_pass()
    assert (escalation(session).missed_at is not None) == is_missed


def test_person_who_gave_up_on_an_empty_rota_was_missed_too(clock: Clock) -> None:
    session = press(now=clock())
    worker = asker(Telemetry(), clock)
    worker.run_pass()
    services.cancel(fresh(session), now=clock.tick(60))
    worker.run_pass()
    assert escalation(session).missed_at == clock()


def test_what_ended_before_the_asker_ever_looked_is_missed(cast: None, clock: Clock) -> None:
    """As after a night in which no worker ran: the ending passes may be quicker."""
    session = press(now=clock())
    services.end(fresh(session), EndReason.UNANSWERED, now=clock.tick(3600))
    asker(Telemetry("alice"), clock).run_pass()
    assert told(session, "missed") == ["sue"] and asked(session) == []
