"""The supervisors' page of messages: whose they are, what failed in words, and where it leads."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.test import Client
from django.utils import timezone

from machines.models import User
from notifications.models import Delivery
from portal.message_words import advice
from tests.portal.test_pages import _Page
from tests.sessions.clients import client_of
from tests.sessions.rescues import fleet, person, press

pytestmark = pytest.mark.django_db

State, Channel, Kind = Delivery.State, Delivery.Channel, Delivery.Kind


def delivery(
    to: User | None,
    state: str = State.SENT,
    *,
    of: str = "North",
    channel: str = Channel.WEB_PUSH,
    outcome: str = "",
    subject: UUID | None = None,
    ago_s: int = 60,
    **values: Any,
) -> Delivery:
    at = timezone.now() - timedelta(seconds=ago_s)
    return Delivery.objects.create(
        fleet=fleet(of), subject=subject, recipient=to, channel=channel, state=state, outcome=outcome, key=str(uuid4()),
        created_at=at, next_try_at=at, expires_at=at, ended_at=None if state == State.PENDING else at,
        **{"kind": Kind.ASKED, "title": "Help at Station", "tries": 1, **values},
    )  # fmt: skip


def text(response: Any) -> str:
    return " ".join(response.content.decode().split())


@pytest.fixture
def sue() -> Client:
    return client_of(person("Sue", role="supervisor"))


def test_supervisor_reads_who_was_told_and_comes_to_the_rescue(sue: Client) -> None:
    session = press()
    delivery(person("Alice"), subject=session.pk, device_name="<b>Pixel</b>")
    page = text(sue.get("/messages/"))
    assert "Alice" in page
    assert "&lt;b&gt;Pixel" in page
    assert f'href="/sessions/{session.pk}/"' in page
    assert "Did not arrive" not in page


def test_what_failed_comes_first_once_with_what_to_do(sue: Client) -> None:
    alice = person("Alice")
    for _ in range(3):
        delivery(alice, State.FAILED, channel=Channel.EMAIL, outcome="The mail server refused the address (550).")
    delivery(alice, State.SENT, device_name="Pixel")
    page = text(sue.get("/messages/"))
    before, _, after = page.partition('class="tabs"')
    assert before.count("refused the address (550)") == 1
    assert "3 times" in before
    assert "Check with Alice" in before
    assert after.count("refused the address (550)") == 3
    failed = text(sue.get("/messages/", {"show": "failed"})).partition('class="tabs"')[2]
    assert failed.count("refused the address (550)") == 3
    assert "Pixel" not in failed


def test_nobody_reads_another_fleets_messages(sue: Client) -> None:
    delivery(person("Charlie", of="South"), State.FAILED, of="South", outcome="canary-south", title="canary-south")
    assert "canary-south" not in text(sue.get("/messages/"))
    assert "canary-south" not in text(sue.get("/messages/", {"show": "failed"}))
    theirs = client_of(person("Sara", of="South", role="supervisor"))
    assert "canary-south" in text(theirs.get("/messages/"))


def test_messages_are_for_supervisors_alone() -> None:
    response = client_of(person("Alice")).get("/messages/")
    assert response.status_code == 403
    assert "This is not open to you" in text(response)
    assert client_of(User.objects.create_user("nobody")).get("/messages/").status_code == 403
    assert Client().get("/messages/").status_code == 302


def test_pages_keep_the_filter(sue: Client) -> None:
    for at in range(51):
        delivery(person("Alice"), State.FAILED, outcome="No answer.", ago_s=at)
    first = text(sue.get("/messages/", {"show": "failed"}))
    assert "1–50 of 51" in first
    assert "?show=failed&amp;page=2" in first
    assert "51–51 of 51" in text(sue.get("/messages/", {"show": "failed", "page": "2"}))
    assert sue.get("/messages/", {"page": "x"}).status_code == 200


def test_what_only_cleared_a_screen_is_not_listed(sue: Client) -> None:
    delivery(person("Alice"), State.FAILED, kind=Kind.OVER, title="canary-over", outcome="canary-over")
    assert "canary-over" not in text(sue.get("/messages/"))


@pytest.mark.parametrize(
    ("state", "values", "said"),
    [
        (State.SENT, {}, ""),
        (State.PENDING, {}, ""),
        (State.EXPIRED, {"tries": 0}, "whether Portafilter's worker is running"),
        (State.FAILED, {"channel": Channel.SMS}, "number under Availability"),
        (State.FAILED, {}, "add a device again"),
        (
            State.FAILED,
            {"to": None, "address": "night@example.org", "channel": Channel.EMAIL},
            "address of last resort",
        ),
    ],
)
def test_every_failure_says_what_to_do(state: str, values: dict[str, Any], said: str) -> None:
    given = {"to": person("Alice"), **values}
    assert said in advice(delivery(given.pop("to"), state, **given))
    if not said:
        assert advice(delivery(person("Alice"), state)) == ""


def test_queue_has_the_missed_ones_for_supervisors_alone(sue: Client) -> None:
    assert _Page(sue.get("/")).states["queue-state"]["missed"] == []
    assert _Page(client_of(person("Alice")).get("/")).states["queue-state"]["missed"] is None
