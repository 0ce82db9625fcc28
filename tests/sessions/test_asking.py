"""Each rescue finds somebody: who is asked, when, and in which words."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from machines.models import Absence, Machine, Operator
from machines.telemetry import asking
from notifications.models import Delivery
from sessions import bell, messages, services, words
from sessions.models import Rung, SupportSession
from sessions.states import EndReason
from sessions.worker import Asker
from tests.sessions.asking import (
    HangingTelemetry,
    Telemetry,
    asked,
    asker,
    card_of,
    device,
    escalation,
    fresh,
    kinds,
    reachable,
    send_all,
    told,
)
from tests.sessions.rescues import Clock, fleet, person, press

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("web_push_alone")]


def sentences(session: SupportSession) -> list[str]:
    return [words.event_sentence(event) for event in session.events.select_related("user")]


def test_each_is_asked_after_their_time_and_nobody_twice(cast: None, clock: Clock) -> None:
    fleet_ = fleet()
    fleet_.last_resort_email = "help@example.org"
    fleet_.save()
    telemetry = Telemetry("alice", "bob")
    worker = asker(telemetry, clock)
    session = press(now=clock())
    steps = []
    for second in range(0, 400, 5):
        before = len(asked(session))
        worker.run_pass()
        send_all(clock)
        steps += [(second, name) for name in asked(session)[before:]]
        clock.tick(5)
    assert steps == [(0, "alice"), (45, "bob"), (105, "sue"), (225, "help@example.org")]
    assert told(session, "asked") == ["alice", "bob", "sue"]
    assert escalation(session).rung == Rung.DONE
    assert telemetry.asked == 1, "one question a round"


def test_fleets_own_times_count(cast: None, clock: Clock) -> None:
    fleet_ = fleet()
    fleet_.ask_next_after_s, fleet_.ask_supervisors_after_s = 5, 7
    fleet_.save()
    worker = asker(Telemetry("alice", "bob"), clock)
    session = press(now=clock())
    worker.run_pass()
    for seconds, expected in ((4.9, 1), (0.1, 2), (6.9, 2), (0.1, 3)):
        clock.tick(seconds)
        worker.run_pass()
        assert len(asked(session)) == expected


def test_supervisors_hear_of_it_after_a_third_of_the_deadline_however_many_operators_there_are(
    cast: None, clock: Clock
) -> None:
    crew = [reachable(f"Person {number}").username for number in range(25)]
    worker = asker(Telemetry(*crew), clock)
    session = press(now=clock())
    steps: dict[int, list[str]] = {}
    for second in range(0, 1800, 15):
        before = len(asked(session))
        with CaptureQueriesContext(connection) as found:
            worker.run_pass()
        if now := asked(session)[before:]:
            steps[second] = now
            # As many as the first step of all, and one for who was asked before; also where eleven are asked and Sue.
            assert len(found) <= 17, "\n".join(query["sql"] for query in found)
        send_all(clock)
        clock.tick(15)
    assert list(steps) == [*range(0, 600, 45), 600]
    assert steps[600] == [*crew[14:], "sue"], "who is left is asked with them"
    assert escalation(session).rung == Rung.DONE


def test_bound_of_the_operators_is_a_share_of_the_fleets_own_deadline(cast: None, clock: Clock) -> None:
    fleet_ = fleet()
    fleet_.answer_deadline_s = 90
    fleet_.save()
    session = press(now=clock())
    worker = asker(Telemetry("alice", "bob"), clock)
    for seconds, expected in ((0, ["alice"]), (29, ["alice"]), (1, ["alice", "bob", "sue"])):
        clock.tick(seconds)
        worker.run_pass()
        assert asked(session) == expected


def test_press_and_claim_ring_the_askers_bell_and_gateways_do_not(
    cast: None, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    def rings(act: Callable[[], object]) -> int:
        before = bell.count(bell.ASKING)
        with django_capture_on_commit_callbacks(execute=True):
            act()
        return bell.count(bell.ASKING) - before

    assert rings(press) == 1
    session = SupportSession.objects.get()
    assert rings(lambda: services.begin_starting(session, now=session.requested_at)) == 0
    assert rings(lambda: services.claim(fresh(session), user=person("Alice"))) == 1
    assert rings(lambda: services.release(fresh(session), user=person("Alice"))) == 1
    assert rings(lambda: services.cancel(fresh(session))) == 1


def test_message_says_where_and_what_and_never_how_to_get_in(cast: None, clock: Clock) -> None:
    session = press(now=clock())
    asker(Telemetry("alice"), clock).run_pass()
    (message,) = Delivery.objects.filter(subject=session.pk)
    there, until = (at.astimezone(ZoneInfo("Europe/Rome")) for at in (clock(), session.answer_due_at))
    assert message.title == "Help at Station: Grinder jammed"
    where = f"A1, Milano · E17 · {there:%H:%M} there"
    assert message.body == f"{where}\nIt waits until {until:%H:%M} there. Claim it if you can come."
    assert message.payload["url"] == f"/sessions/{session.pk}/"
    assert message.payload["tag"] == f"rescue-{session.pk.hex}"
    assert message.payload["actions"] == ["claim", "open"]
    assert message.expires_at == session.answer_due_at


@pytest.mark.parametrize(
    ("code", "text", "title"),
    [
        ("E17", "", "Help at Station: Fault E17"),
        ("", "", "Help at Station"),
        ("E17", "Wasser\r\nBcc: x\u202e " + "läuft " * 80, "Help at Station: Wasser Bcc: x läuft"),
    ],
)
def test_message_names_the_problem_whatever_is_known_of_it(
    cast: None, clock: Clock, code: str, text: str, title: str
) -> None:
    session = press(now=clock())
    session.problem_code, session.problem_text = code, text
    session.machine.name = "Lobby"
    (message,) = messages.ask(session, [person("Alice")], round=1, now=clock())
    assert message.title.startswith(title) and len(message.title) <= 120
    assert message.body.startswith("Lobby (A1), Milano · " + ("E17 · " if text else ""))


def test_last_resort_reads_all_that_a_call_needs(cast: None, clock: Clock, settings: Any) -> None:
    settings.NOTIFY_EMAIL_URL = "smtp://mail.example"
    session = press(now=clock())
    session.fleet.last_resort_email = "help@example.org"
    session.machine.site.address = "Piazza Duca d'Aosta 1"
    (letter,) = messages.ask_last_resort(session, round=1, now=clock())
    assert letter.title == "No answer yet at Station: Grinder jammed"
    assert "Station, Piazza Duca d'Aosta 1, Milano, IT\nNobody of North has answered yet. It waits until" in letter.body


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("unanswered", "Nobody came in time."), ("cancelled", "The person there no longer needs help.")],
)
def test_screens_say_how_it_ended_without_anybody(cast: None, clock: Clock, reason: str, expected: str) -> None:
    session = press(now=clock())
    worker = asker(Telemetry("alice"), clock)
    worker.run_pass()
    send_all(clock)
    if reason == "cancelled":
        services.cancel(fresh(session))
    else:
        clock.tick(3600)
        services.end(fresh(session), EndReason.UNANSWERED, now=clock())
    worker.run_pass()
    (silent,) = Delivery.objects.filter(kind="over")
    assert silent.body.startswith(f"{expected} A1, Milano")


def test_only_active_present_people_of_the_fleet_are_asked(cast: None, clock: Clock) -> None:
    gone, away = reachable("Gone"), reachable("Away")
    gone.is_active = False
    gone.save()
    Operator.objects.filter(user=away).update(is_available=False)
    back = reachable("Back")
    Operator.objects.filter(user=back).update(is_available=False, away_until=clock() - timedelta(minutes=1))
    session = press(now=clock())
    worker = asker(Telemetry("gone", "charlie", "away", "nobody-by-this-name", "back"), clock)
    worker.run_pass()
    assert asked(session) == ["back"]
    assert "Charlie" not in str(escalation(session).duty)
    assert not Delivery.objects.filter(recipient=person("Charlie", of="South")).exists()


def test_who_has_entered_an_absence_is_not_asked_whatever_their_rung(cast: None, clock: Clock) -> None:
    day = timedelta(days=1)
    for name, since, until in (("Alice", -day, day), ("Sue", -day, day), ("Bob", -2 * day, -day)):
        operator = person(name).operator
        Absence.objects.create(operator=operator, starts_at=clock() + since, ends_at=clock() + until)
    reachable("Tom", role="supervisor")
    session = press(now=clock())
    worker = asker(Telemetry("alice", "bob"), clock)
    worker.run_pass()
    clock.tick(3600)
    worker.run_pass()
    assert asked(session) == ["bob", "tom"]


def test_person_who_cannot_be_reached_costs_no_time(cast: None, clock: Clock) -> None:
    person("Dora")  # no device
    session = press(now=clock())
    asker(Telemetry("dora", "bob", "alice"), clock).run_pass()
    assert asked(session) == ["dora", "bob"]
    told_of = "No message could be sent to Dora: they have no device, and no e-mail or SMS goes out to them."
    assert told_of in sentences(session)
    people = card_of(session)["asking"]["people"]
    assert [(one["name"], one["reached"]) for one in people] == [("Dora", "none"), ("Bob", "trying")]


def test_when_all_messages_to_somebody_fail_the_next_is_asked_at_once(cast: None, clock: Clock) -> None:
    device(person("Alice"), "laptop")
    session = press(now=clock())
    worker = asker(Telemetry("alice", "bob"), clock)
    worker.run_pass()
    Delivery.objects.filter(device__name="phone", recipient__username="alice").update(
        state=Delivery.State.FAILED, ended_at=clock()
    )
    worker.run_pass()
    assert asked(session) == ["alice"], "one of her devices may still get it"
    send_all(clock, to=["alice"], outcome=Delivery.State.FAILED)
    clock.tick(1)
    worker.run_pass()
    assert asked(session) == ["alice", "bob"]
    worker.run_pass()
    assert asked(session) == ["alice", "bob"], "his message is on its way"


def test_empty_rota_goes_to_the_supervisors_at_once_and_then_to_the_last_resort(cast: None, clock: Clock) -> None:
    fleet_ = fleet()
    fleet_.last_resort_phone = "+390212345678"
    fleet_.save()
    session = press(now=clock())
    worker = asker(Telemetry(), clock)
    worker.run_pass()
    assert asked(session) == ["sue"]
    assert "The supervisors were asked: Sue." in sentences(session)
    assert words.message_for_machine(fresh(session)).startswith("Help is on its way")
    clock.tick(120)
    worker.run_pass()
    assert asked(session) == ["sue", "+390212345678"]


def test_person_on_two_rungs_is_asked_once(cast: None, clock: Clock) -> None:
    reachable("Tom", role="supervisor")
    session = press(now=clock())
    worker = asker(Telemetry("sue", "alice"), clock)
    for _ in range(30):
        worker.run_pass()
        clock.tick(10)
    assert asked(session) == ["sue", "alice", "tom"]
    assert told(session, "asked") == ["sue", "alice", "tom"]


def test_stand_in_is_said_on_the_trail_and_the_card(cast: None, clock: Clock) -> None:
    telemetry = Telemetry("alice")
    telemetry.stood_in = "Telemetry did not answer within 0.5 s. Portafilter's own rota was used."
    session = press(now=clock())
    asker(telemetry, clock).run_pass()
    assert kinds(session) == ["requested", "telemetry_stood_in", "asked"]
    assert sentences(session)[1:] == [telemetry.stood_in, "Alice was asked: on the rota here."]
    assert card_of(session)["asking"]["stood_in"] == telemetry.stood_in


def test_telemetry_that_hangs_delays_nobody_and_our_own_rota_stands_in(
    cast: None, clock: Clock, settings: Settings
) -> None:
    settings.TELEMETRY, settings.TELEMETRY_TIMEOUT_S = "tests.sessions.asking.HangingTelemetry", 1
    asking.forget()
    HangingTelemetry.let_go.clear()
    sessions = [press(f"A{number}", now=clock()) for number in range(4)]
    began_at = time.monotonic()
    try:
        Asker("asker", now=clock).run_pass()
        assert time.monotonic() - began_at < 4, "they wait for telemetry together, and no longer than its time"
    finally:
        HangingTelemetry.let_go.set()
        asking.forget()
    for session in sessions:
        assert asked(session) == ["alice"]
        assert sentences(session)[1].startswith("Telemetry did not answer within 1 s.")
        assert "own rota was used" in sentences(session)[1]


def test_telemetry_that_breaks_for_one_machine_keeps_no_other_from_being_asked_for(cast: None, clock: Clock) -> None:
    broken, good = press("A1", now=clock()), press("A2", now=clock())
    telemetry = Telemetry("alice")

    def ask_all(machines: list[Machine], **kwargs: Any) -> Any:
        if any(one.pk == broken.machine_id for one in machines):
            raise ValueError("no such time zone")
        return telemetry(machines, **kwargs)

    worker = asker(telemetry, clock)
    worker._passes.ask_all = ask_all
    worker.run_pass()
    assert (asked(broken), asked(good)) == ([], ["alice"])


def test_open_pages_follow_each_step(cast: None, clock: Clock) -> None:
    session = press(now=clock())
    worker = asker(Telemetry("alice", "bob"), clock)
    versions = [session.version]
    for expected in ("Alice was asked; Bob is next.", "Alice and Bob were asked; the supervisors are next."):
        worker.run_pass()
        card = card_of(session)
        versions.append(card["version"])
        assert card["asking"]["sentence"] == expected
        assert card["asking"]["next_at"] == escalation(session).next_at.isoformat()  # type: ignore[union-attr]
        clock.tick(45)
    clock.tick(60)
    worker.run_pass()
    assert card_of(session)["asking"]["sentence"].startswith("Alice, Bob and Sue were asked")
    assert versions == sorted(set(versions)), "each step is a new version"


def test_idle_pass_writes_nothing_and_asks_little(
    cast: None, clock: Clock, django_assert_max_num_queries: Callable[..., Any]
) -> None:
    worker = asker(Telemetry("alice"), clock)
    for number in range(5):
        press(f"A{number}", now=clock())
    worker.run_pass()
    with django_assert_max_num_queries(2) as queries:
        worker.run_pass()
    assert all(query["sql"].startswith("SELECT") for query in queries.captured_queries)


@pytest.mark.parametrize("colleagues", [2, 30])
def test_step_needs_as_many_queries_however_many_people_there_are(cast: None, clock: Clock, colleagues: int) -> None:
    names = [f"Person {number}" for number in range(colleagues)]
    for number, name in enumerate(names):
        user = person(name)
        if number == colleagues - 1:
            device(user)
    press(now=clock())
    with CaptureQueriesContext(connection) as found:
        asker(Telemetry(*(name.lower() for name in names)), clock).run_pass()
    # 2 of the pass; people and devices; the transaction: session, events, row, asked, and 4 of the outbox.
    writes = [query["sql"] for query in found if query["sql"].startswith(("INSERT", "UPDATE"))]
    assert len(found) <= 16, "\n".join(query["sql"] for query in found)
    assert len(writes) <= 6, "\n".join(writes)
