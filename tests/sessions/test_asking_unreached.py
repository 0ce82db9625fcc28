"""What is said where nobody can be told, or nothing has arrived: not that they were asked."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from notifications.models import Delivery
from sessions import asking_words, services, words
from sessions.models import SessionEvent, SupportSession
from sessions.states import EndReason
from tests.sessions.asking import Telemetry, asker, card_of, escalation, fresh, reachable, send_all
from tests.sessions.rescues import Clock, fleet, person, press

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("web_push_alone")]


def pressed_and_asked(clock: Clock) -> SupportSession:
    north = fleet()
    north.last_resort_email = "help@example.org"
    north.save()
    session = press("A1", now=clock())
    asker(Telemetry("alice", "bob"), clock).run_pass()
    return session


def sentences(session: SupportSession) -> list[str]:
    events = SessionEvent.objects.filter(session=session)
    return [asking_words.event_sentence(event.kind, event.detail, at=event.at) for event in events]


def test_card_and_record_say_that_no_message_could_be_sent(clock: Clock) -> None:
    for name in ("Alice", "Bob"):
        person(name)
    session = pressed_and_asked(clock)
    expected = "No message could be sent to Alice and Bob: they have no device, and no e-mail or SMS goes out to them."
    assert card_of(session)["asking"]["sentence"] == expected
    assert "The address of last resort could not be told: no e-mail or SMS goes out from here." in sentences(session)
    assert words.message_for_machine(fresh(session)) == asking_words.UNTOLD


def test_last_resort_that_gets_mail_was_told(clock: Clock, settings: Any) -> None:
    settings.NOTIFY_EMAIL_URL = "smtp://mail.example"
    for name in ("Alice", "Bob"):
        person(name)
    session = pressed_and_asked(clock)
    assert "The address of last resort was told that nobody has answered." in sentences(session)
    assert card_of(session)["asking"]["sentence"] == "The address of last resort was asked."
    expected = "Nobody has answered yet. Your request is kept, and somebody will look at this machine."
    assert words.message_for_machine(fresh(session)) == expected


def test_those_who_could_be_told_are_named_alone(clock: Clock) -> None:
    person("Alice")
    reachable("Bob")
    session = pressed_and_asked(clock)
    assert card_of(session)["asking"]["sentence"].startswith("Bob was asked")


def climb_to_the_end(session: SupportSession, clock: Clock, *, outcome: str) -> None:
    worker = asker(Telemetry("alice"), clock)
    for _ in range(5):
        worker.run_pass()
        send_all(clock, outcome=outcome)
        clock.tick(120)
    assert escalation(session).rung == "done"


def test_messages_that_all_failed_have_asked_nobody(cast: None, clock: Clock) -> None:
    session = press("A1", now=clock())
    worker = asker(Telemetry("alice", "bob"), clock)
    worker.run_pass()
    send_all(clock, outcome=Delivery.State.FAILED)
    expected = "No message got through to Alice; Bob is next."
    assert card_of(session)["asking"]["sentence"] == expected
    clock.tick(1)
    worker.run_pass()
    assert card_of(session)["asking"]["sentence"] == "Bob was asked; the supervisors are next."
    climb_to_the_end(session, clock, outcome=Delivery.State.FAILED)
    assert card_of(session)["asking"]["sentence"] == "No message got through to Alice, Bob and Sue."
    assert words.message_for_machine(fresh(session)) == asking_words.UNTOLD
    services.end(fresh(session), EndReason.UNANSWERED, now=clock.tick(1800))
    worker.run_pass()
    expected = "No message got through to Alice, Bob and Sue. Nobody came."
    assert card_of(session, "Sue")["asking"]["sentence"] == expected


def test_machine_is_told_when_everybody_was_asked_and_nobody_has_answered(cast: None, clock: Clock) -> None:
    session = press("A1", now=clock())
    asker(Telemetry("alice"), clock).run_pass()
    with CaptureQueriesContext(connection) as found:
        text = words.message_for_machine(SupportSession.objects.select_related("escalation").get(pk=session.pk))
    assert text.startswith("Help is on its way") and len(found) == 1, "a press reads nothing else"
    climb_to_the_end(session, clock, outcome=Delivery.State.SENT)
    expected = "Nobody has answered yet. Your request is kept, and somebody will look at this machine."
    assert words.message_for_machine(fresh(session)) == expected
    services.claim(fresh(session), user=person("Bob"), now=clock.tick(1))
    assert words.message_for_machine(fresh(session)) == "Bob is connecting. Please wait a moment."
    services.release(fresh(session), user=person("Bob"), now=clock.tick(1))
    assert words.message_for_machine(fresh(session)).startswith("Help is on its way"), "others are asked in a moment"


def test_machine_is_told_from_when_somebody_will_look_where_that_is_known(
    cast: None, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.at = clock.at.replace(year=2026, month=11, day=23, hour=3)
    monkeypatch.setattr("django.utils.timezone.now", clock)
    telemetry = Telemetry()
    telemetry.next_at = clock().replace(hour=6, minute=0)
    session = press("A1", now=clock())
    for _ in range(2):
        asker(telemetry, clock).run_pass()
        clock.tick(120)
    expected = "Nobody has answered yet. Somebody will look at this machine from 07:00."
    assert words.message_for_machine(fresh(session)) == expected


def test_person_who_gave_up_when_everybody_had_been_asked_was_missed(cast: None, clock: Clock) -> None:
    session = press("A1", now=clock())
    climb_to_the_end(session, clock, outcome=Delivery.State.SENT)
    services.cancel(fresh(session), now=clock())
    asker(Telemetry("alice"), clock).run_pass()
    assert escalation(session).missed_at == clock()
    card = card_of(session, "Sue")
    assert card["sentence"].endswith("nobody came, and they withdrew the request. Call the site.")
    assert card["asking"]["sentence"] == "Alice and Sue were asked. Nobody came."


@pytest.mark.parametrize("is_seen", [True, False])
def test_what_somebody_had_for_a_while_and_was_cancelled_is_not_missed(cast: None, clock: Clock, is_seen: bool) -> None:
    """Also where it was given back, and cancelled, before the asker looked again."""
    session = press("A1", now=clock())
    climb_to_the_end(session, clock, outcome=Delivery.State.SENT)
    services.claim(fresh(session), user=person("Bob"), now=clock.tick(1))
    services.release(fresh(session), user=person("Bob"), now=clock.tick(1))
    if is_seen:
        climb_to_the_end(session, clock, outcome=Delivery.State.SENT)
        assert escalation(session).round == 2
    services.cancel(fresh(session), now=clock.tick(1))
    asker(Telemetry("alice"), clock).run_pass()
    assert (escalation(session).settled_as, escalation(session).missed_at) == ("over", None)
