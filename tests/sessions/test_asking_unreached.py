"""What is said where there is no way to tell anybody: not that they were asked."""

from __future__ import annotations

from typing import Any

import pytest

from sessions import asking_words, words
from sessions.models import SessionEvent, SupportSession
from tests.sessions.asking import Telemetry, asker, card_of, fresh, reachable
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
    expected = "No message could be sent: Alice and Bob have no device, e-mail or SMS for it here."
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
    assert words.message_for_machine(fresh(session)).startswith("Help is on its way")


def test_those_who_could_be_told_are_named_alone(clock: Clock) -> None:
    person("Alice")
    reachable("Bob")
    session = pressed_and_asked(clock)
    assert card_of(session)["asking"]["sentence"].startswith("Bob was asked")
