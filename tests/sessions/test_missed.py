"""What nobody came to: supervisors find it until one of them has looked at it; nobody else does."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from sessions import services
from sessions.models import SupportSession
from sessions.states import EndReason
from tests.sessions.asking import Telemetry, asker, escalation, fresh, kinds
from tests.sessions.clients import client_of
from tests.sessions.rescues import Clock, person, press

pytestmark = pytest.mark.django_db


@pytest.fixture
def sue() -> Client:
    return client_of(person("Sue", role="supervisor"))


def missed_rescue(serial: str = "A1") -> SupportSession:
    clock = Clock()
    session = press(serial, now=clock())
    worker = asker(Telemetry("alice"), clock)
    worker.run_pass()
    services.end(fresh(session), EndReason.UNANSWERED, now=clock.tick(1800))
    worker.run_pass()
    return session


def listed(client: Client) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/sessions/missed/")
    assert answer.status_code == 200
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def look_at(client: Client, session: SupportSession) -> Any:
    return client.post(f"/api/v1/sessions/{session.pk}/looked-at/", {}, content_type="application/json")


def test_supervisor_finds_it_until_somebody_has_looked(sue: Client) -> None:
    person("Alice")
    session = missed_rescue()
    (card,) = listed(sue)
    assert card["id"] == str(session.pk)
    assert card["missed"] == {
        "at": escalation(session).missed_at.isoformat(),  # type: ignore[union-attr]
        "looked_at": None,
        "looked_by": None,
    }
    assert card["asking"]["sentence"] == (
        "No message could be sent to Alice and Sue: they have no device, and no e-mail or SMS goes out to them. "
        "Nobody came."
    )
    looked = look_at(sue, session).json()
    assert looked["missed"]["looked_by"]["name"] == "Sue" and looked["version"] > card["version"]
    assert listed(sue) == []


def test_the_first_who_looks_counts(sue: Client) -> None:
    session = missed_rescue()
    first = look_at(sue, session).json()
    again = look_at(client_of(person("Tom", role="supervisor")), session)
    assert again.status_code == 200 and again.json()["missed"] == first["missed"]
    assert kinds(session).count("looked_at") == 1


def test_operators_neither_find_nor_mark_it(sue: Client) -> None:
    session = missed_rescue()
    alice = client_of(person("Alice"))
    assert listed(alice) == []
    refused = look_at(alice, session)
    assert refused.status_code == 403 and refused.json()["code"] == "not_allowed"
    assert len(listed(sue)) == 1


@pytest.mark.parametrize("role", ["operator", "supervisor"])
def test_it_does_not_exist_for_another_fleet(sue: Client, role: str) -> None:
    session = missed_rescue()
    charlie = client_of(person("Charlie", of="South", role=role))
    assert listed(charlie) == []
    assert look_at(charlie, session).status_code == 404
    assert escalation(session).missed_looked_at is None


def test_open_rescue_and_one_that_somebody_had_are_no_missed_ones(sue: Client) -> None:
    for session in (press("A1"), services.claim(press("A2"), user=person("Alice"))):
        refused = look_at(sue, session)
        assert refused.status_code == 409 and refused.json()["code"] == "not_missed"
    assert listed(sue) == []


def test_more_missed_ones_need_no_more_queries(sue: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as found:
            listed(sue)
        return len(found)

    missed_rescue("A1")
    few = queries()
    for number in range(2, 6):
        missed_rescue(f"A{number}")
    assert queries() == few
