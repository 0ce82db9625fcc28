"""The page on which people say when they may be asked, and the switch in the menu."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from machines import availability
from machines.models import Absence, Operator, Shift, User
from tests.sessions.clients import client_of
from tests.sessions.rescues import fleet, person

pytestmark = pytest.mark.django_db

PAGE = "/account/availability/"
NOON_MONDAY = datetime(2026, 11, 23, 12, tzinfo=UTC)  # 13:00 in Rome


@pytest.fixture
def alice() -> Operator:
    operator = Operator.objects.get(user=person("Alice"))
    operator.time_zone = "Europe/Rome"
    operator.save()
    return operator


@pytest.fixture
def client(alice: Operator) -> Client:
    return client_of(alice.user)


@pytest.fixture
def at_noon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: NOON_MONDAY)


def words(response: Any) -> str:
    return " ".join(response.content.decode().split())


def send(client: Client, form: str, **values: str) -> Any:
    return client.post(PAGE, {"form": form, **values}, follow=True)


def test_switch_is_thrown_and_taken_back(client: Client, alice: Operator) -> None:
    assert "Available" in words(client.get(PAGE))
    told = words(send(client, "away", away="open"))
    assert "Nobody asks you until you are back" in told
    assert not availability.is_available_at(alice, timezone.now())
    assert "You are available" in words(send(client, "back"))
    assert availability.is_available_at(alice, timezone.now())


@pytest.mark.parametrize(
    ("given", "until"),
    [
        ({"away": "hour"}, NOON_MONDAY + timedelta(hours=1)),
        ({"away": "day"}, datetime(2026, 11, 23, 23, tzinfo=UTC)),
        ({"away": "until", "until": "2026-11-24T07:30"}, datetime(2026, 11, 24, 6, 30, tzinfo=UTC)),
    ],
)
def test_away_ends_by_itself_by_the_persons_own_clock(
    client: Client, alice: Operator, at_noon: None, given: dict[str, str], until: datetime
) -> None:
    assert client.post(PAGE, {"form": "away", **given}).status_code == 302
    alice.refresh_from_db()
    assert (alice.is_available, alice.away_until) == (False, until)


@pytest.mark.parametrize(
    ("until", "said"),
    [
        ("", "Say until when"),
        ("soon", "Type a day and a time"),
        ("2020-01-01T08:00", "Found 2020-01-01 08:00, which is over"),
    ],
)
def test_time_that_cannot_be_is_refused_in_words(client: Client, alice: Operator, until: str, said: str) -> None:
    response = client.post(PAGE, {"form": "away", "away": "until", "until": until})
    assert response.status_code == 400
    assert said in words(response)
    alice.refresh_from_db()
    assert alice.is_available


def test_working_hours_are_kept_with_their_break_and_zone(client: Client, alice: Operator) -> None:
    send(client, "hours", time_zone="Asia/Tokyo", from_0_0="08:00", to_0_0="12:00", from_0_1="13:00", to_0_1="17:30",
         from_4_0="22:00", to_4_0="06:00")  # fmt: skip
    rows = list(alice.working_hours.values_list("weekday", "starts", "ends"))
    assert rows == [(0, time(8), time(12)), (0, time(13), time(17, 30)), (4, time(22), time(6))]
    alice.refresh_from_db()
    assert alice.time_zone == "Asia/Tokyo"
    again = words(client.get(PAGE))
    assert 'name="from_0_1" value="13:00"' in again
    send(client, "hours", time_zone="Asia/Tokyo")
    assert not alice.working_hours.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"from_1_0": "08:00"}, "Tuesday: found a beginning without an end"),
        ({"from_1_0": "8 o'clock", "to_1_0": "12:00"}, "found what is no time"),
        ({"from_1_0": "08:00", "to_1_0": "12:00", "from_1_1": "11:00", "to_1_1": "13:00"}, "overlap"),
        ({"time_zone": "Mars/Base"}, "Choose a time zone of the list"),
    ],
)
def test_hours_that_cannot_be_change_nothing(client: Client, alice: Operator, given: dict[str, str], said: str) -> None:
    response = client.post(PAGE, {"form": "hours", "time_zone": "Europe/Rome", **given})
    assert response.status_code == 400
    assert said in words(response)
    assert not alice.working_hours.exists()


def test_absence_is_added_shown_and_removed_by_its_owner_alone(client: Client, alice: Operator, at_noon: None) -> None:
    told = words(
        send(client, "absence", starts_at="2026-12-24T00:00", ends_at="2026-12-27T00:00", note="<b>Holiday</b>")
    )
    assert "24 December 00:00" in told
    assert "&lt;b&gt;Holiday" in told
    row = alice.absences.get()
    assert row.starts_at == datetime(2026, 12, 23, 23, tzinfo=UTC)
    charlie = client_of(person("Charlie", of="South"))
    assert "not there any more" in words(send(charlie, "remove-absence", absence=str(row.pk)))
    assert Absence.objects.filter(pk=row.pk).exists()
    assert "is removed" in words(send(client, "remove-absence", absence=str(row.pk)))
    assert not alice.absences.exists()


def test_ways_and_languages_are_kept_by_name_or_code(client: Client, alice: Operator) -> None:
    send(client, "ways", languages="Italian, en pl", wants_sms="on", phone="+390212345678")
    alice.refresh_from_db()
    assert alice.languages == ["it", "en", "pl"]
    assert (alice.wants_email, alice.wants_sms, alice.phone) == (False, True, "+390212345678")
    response = client.post(PAGE, {"form": "ways", "languages": "Klingon", "wants_sms": "on", "phone": ""})
    assert response.status_code == 400
    assert "Found klingon, expected names or codes of languages, as in Italian, en." in words(response)
    assert "there must be a phone number" in words(response)


def test_page_says_what_the_rota_has_for_one_this_week(client: Client, alice: Operator, at_noon: None) -> None:
    Shift.objects.create(fleet=fleet(), operator=alice, weekdays="01234", starts=time(8), ends=time(18))
    told = words(client.get(PAGE))
    assert "Mon 23 to Fri 27 Nov, 08:00–18:00" in told
    assert "asked first" in told
    assert "The rota has nothing for you" in words(client_of(person("Bob")).get(PAGE))


def test_who_is_no_operator_has_no_availability() -> None:
    nobody = client_of(User.objects.create_user("nobody"))
    assert nobody.get(PAGE).status_code == 403
    assert nobody.post(PAGE, {"form": "away", "away": "open"}).status_code == 403
    assert Client().get(PAGE).status_code == 302


def test_unknown_form_is_refused(client: Client) -> None:
    assert client.post(PAGE, {"form": "everything"}).status_code == 400


def test_switch_in_the_menu_leads_back_to_the_page_one_was_on_and_nowhere_else(client: Client) -> None:
    assert client.post(PAGE, {"form": "away", "away": "open", "next": "/machines/"})["Location"] == "/machines/"
    for elsewhere in ("https://evil.example/", "//evil.example/", "javascript:alert(1)"):
        assert client.post(PAGE, {"form": "back", "next": elsewhere})["Location"] == PAGE
    assert "Away" not in words(client.get("/machines/")).partition("<main")[0].partition("</summary>")[0]
    send(client, "away", away="open")
    assert "Away" in words(client.get("/machines/")).partition("<main")[0].partition("</summary>")[0]
