"""Rescues over the public face: exactly one claims, the others are told who; every refusal says what to do next."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from sessions import services
from sessions.api.public import TicketThrottle
from sessions.models import Attachment, Gateway, GuacamoleConnection, RdpCredential, SupportSession
from sessions.states import EndReason
from tests.sessions.clients import client_of
from tests.sessions.rescues import PASSWORD, person, press

pytestmark = pytest.mark.django_db

PROBLEM = "application/problem+json"


@pytest.fixture
def alice() -> Client:
    return client_of(person("Alice"))


@pytest.fixture
def bob() -> Client:
    return client_of(person("Bob"))


@pytest.fixture
def supervisor() -> Client:
    return client_of(person("Sue", role="supervisor"))


def post(client: Client, session: SupportSession, verb: str, body: object = None, **kwargs: Any) -> Any:
    address = f"/api/v1/sessions/{session.pk}/{verb}/"
    return client.post(address, body if body is not None else {}, content_type="application/json", **kwargs)


def close(client: Client, session: SupportSession, **values: object) -> Any:
    return post(client, session, "close", {"outcome": "resolved", "cause": "Beans", "fix": "Shaken", **values})


def test_open_rescues_come_whole_with_the_longest_waiting_first(alice: Client) -> None:
    earlier = press("A1", now=timezone.now() - timedelta(minutes=5))
    later = press("A2")
    answer = alice.get("/api/v1/sessions/?state=open").json()
    assert [card["id"] for card in answer["results"]] == [str(earlier.pk), str(later.pk)]
    assert answer["count"] == 2 and answer["next"] is None
    only = alice.get(f"/api/v1/sessions/?state=open&machine={later.machine_id}").json()
    assert [card["id"] for card in only["results"]] == [str(later.pk)]


@pytest.mark.parametrize(
    ("parameters", "copy", "paste"),
    [({}, True, True), ({"disable-paste": "true"}, True, False), ({"disable-copy": "true"}, False, True)],
)
def test_card_says_what_the_clipboard_of_the_held_desktop_lets_through(
    alice: Client, parameters: dict[str, str], copy: bool, paste: bool
) -> None:
    session = press()
    GuacamoleConnection.objects.create(
        session=session,
        gateway=Gateway.objects.create(session=session, attempt=1, driver="local"),
        hostname="127.64.0.1",
        port=3389,
        parameters=parameters,
        connection_id="$1",
    )
    card = alice.get(f"/api/v1/sessions/{session.pk}/").json()
    assert card["clipboard"] == {"copy": copy, "paste": paste}


def test_ending_rescues_are_listed_as_closed_and_not_as_open(alice: Client) -> None:
    session = press()
    post(alice, session, "claim")
    close(alice, session)
    assert alice.get("/api/v1/sessions/?state=open").json()["count"] == 0
    assert alice.get("/api/v1/sessions/?state=closed").json()["results"][0]["end_reason"] == "resolved"


def test_loser_of_a_claim_is_told_who_won(alice: Client, bob: Client) -> None:
    session = press()
    won = post(alice, session, "claim")
    assert won.status_code == 200 and won.json()["operator"]["name"] == "Alice"
    lost = post(bob, session, "claim")
    assert lost.status_code == 409 and lost["Content-Type"] == PROBLEM
    assert lost.json()["code"] == "already_claimed"
    assert lost.json()["operator"] == {"id": person("Alice").pk, "name": "Alice"}
    assert lost.json()["claimed_at"] and "Alice" in lost.json()["detail"]


def test_claiming_what_one_has_already_changes_nothing(alice: Client) -> None:
    session = press()
    first = post(alice, session, "claim").json()
    again = post(alice, session, "claim")
    assert again.status_code == 200 and again.json()["version"] == first["version"]


def test_claim_of_a_closed_rescue_is_told_who_closed_it_and_when(alice: Client, bob: Client) -> None:
    session = press()
    post(alice, session, "claim")
    close(alice, session)
    late = post(bob, session, "claim")
    assert late.status_code == 409 and late.json()["code"] == "session_closed"
    assert late.json()["closed_by"]["name"] == "Alice"
    assert late.json()["closed_at"] and late.json()["end_reason"] == "resolved"


def test_close_keeps_cause_fix_and_note_and_erases_the_login(alice: Client) -> None:
    session = press()
    post(alice, session, "claim")
    answer = close(alice, session, note="Two lines:\nthe second.")
    assert answer.status_code == 200
    card = answer.json()
    assert (card["state"], card["cause"], card["fix"], card["note"]) == (
        "closing",
        "Beans",
        "Shaken",
        "Two lines:\nthe second.",
    )
    assert not RdpCredential.objects.filter(session=session).exists()
    assert close(alice, session).json() == card


def test_only_who_holds_a_rescue_or_a_supervisor_ends_it(alice: Client, bob: Client, supervisor: Client) -> None:
    session = press()
    post(alice, session, "claim")
    for verb, body in (
        ("close", {"outcome": "resolved"}),
        ("release", {}),
        ("handover", {"operator": person("Bob").pk}),
        ("attachments", {"role": "controller"}),
    ):
        refused = post(bob, session, verb, body)
        assert refused.status_code == 403 and refused.json()["code"] == "not_allowed", verb
    assert post(alice, session, "close", {"outcome": "forced"}).status_code == 403
    assert post(supervisor, session, "close", {"outcome": "forced"}).json()["end_reason"] == "forced"


def test_released_rescue_waits_again(alice: Client) -> None:
    session = press()
    post(alice, session, "claim")
    card = post(alice, session, "release").json()
    assert card["operator"] is None and "claim" in card["may"]


def test_rescue_is_handed_over_to_a_colleague(alice: Client, bob: Client) -> None:
    session = press()
    post(alice, session, "claim")
    people = alice.get(f"/api/v1/sessions/{session.pk}/colleagues/").json()["results"]
    chosen = next(found for found in people if found["id"] == person("Bob").pk)
    assert post(alice, session, "handover", {"operator": chosen["id"]}).json()["operator"] == chosen
    assert "control" in bob.get(f"/api/v1/sessions/{session.pk}/").json()["may"]


def test_supervisor_takes_over(alice: Client, supervisor: Client) -> None:
    session = press()
    post(alice, session, "claim")
    taken = post(supervisor, session, "handover", {"operator": person("Sue").pk})
    assert taken.status_code == 200 and taken.json()["operator"]["name"] == "Sue"


def test_hand_over_to_a_stranger_tells_nothing_of_them(alice: Client, bob: Client) -> None:
    session = press()
    post(alice, session, "claim")
    stranger = person("Charlie", of="South")
    answers = [post(alice, session, "handover", {"operator": number}) for number in (stranger.pk, 10**9)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json()["errors"][0]["expected"] == answers[1].json()["errors"][0]["expected"]
    assert "Charlie" not in answers[0].content.decode()


def test_tickets_are_for_ones_own_role_and_never_kept_readable(alice: Client, bob: Client) -> None:
    session = press()
    post(alice, session, "claim")
    given = post(alice, session, "attachments", {"role": "controller"})
    assert given.status_code == 201 and given.json()["expires_in_s"] == 30
    assert given["Cache-Control"] == "no-store"
    assert given.json()["ticket"] not in Attachment.objects.get().ticket_sha256
    assert post(bob, session, "attachments", {"role": "watcher"}).json()["role"] == "watcher"


def test_more_tickets_than_any_screen_needs_are_refused_for_a_while(
    alice: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.clear()
    monkeypatch.setattr(TicketThrottle, "rate", "2/min")
    session = press()
    answers = [post(alice, session, "attachments", {"role": "watcher"}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert int(answers[2]["Retry-After"]) > 0


def test_trail_is_told_in_words(alice: Client) -> None:
    session = press()
    post(alice, session, "claim")
    events = alice.get(f"/api/v1/sessions/{session.pk}/events/").json()["results"]
    assert [event["kind"] for event in events] == ["requested", "claimed"]
    assert events[1]["sentence"] == "Alice claimed the rescue."


def test_causes_used_in_ones_fleets_come_first(alice: Client) -> None:
    session = services.claim(press(), user=person("Alice"))
    session = services.close(
        session, user=person("Alice"), outcome=EndReason.RESOLVED, cause="A spoon", fix="Took it out"
    )
    services.machine_told(session)
    services.finish(session, now=timezone.now())
    assert alice.get("/api/v1/causes/").json()["causes"][0] == "A spoon"
    charlie = client_of(person("Charlie", of="South"))
    assert "A spoon" not in charlie.get("/api/v1/causes/").json()["causes"]


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("close", {}, "outcome"),
        ("close", {"outcome": "cancelled"}, "outcome"),
        ("close", {"outcome": "resolved", "cause": "x" * 201}, "cause"),
        ("close", {"outcome": "resolved", "fix": "a\nb"}, "fix"),
        ("close", {"outcome": "resolved", "fix": 7}, "fix"),
        ("close", {"outcome": "resolved", "note": "x" * 2001}, "note"),
        ("close", {"outcome": "resolved", "note": "\x00"}, "note"),
        ("close", {"outcome": "resolved", "state": "closed"}, "state"),
        ("handover", {"operator": "1"}, "operator"),
        ("handover", {"operator": True}, "operator"),
        ("handover", {"operator": 2**70}, "operator"),
        ("handover", {}, "operator"),
        ("attachments", {"role": "owner"}, "role"),
        ("attachments", [], "body"),
        ("claim", {"user": 1}, "user"),
        ("release", "now", "body"),
    ],
)
def test_bad_input_is_named_with_what_was_expected(alice: Client, verb: str, body: object, field: str) -> None:
    session = press()
    if verb != "claim":
        post(alice, session, "claim")
    answer = post(alice, session, verb, body)
    assert answer.status_code == 400 and answer["Content-Type"] == PROBLEM
    (error,) = answer.json()["errors"]
    assert error["field"] == field and error["expected"] and error["found"]
    session.refresh_from_db()
    assert session.is_open


def test_malformed_json_other_types_and_other_methods_are_problems(alice: Client) -> None:
    session = press()
    address = f"/api/v1/sessions/{session.pk}/claim/"
    for response, status in (
        (alice.post(address, "{", content_type="application/json"), 400),
        (alice.post(address, b"\xff", content_type="application/json"), 400),
        (alice.post(address, "a=b", content_type="application/x-www-form-urlencoded"), 415),
        (alice.get(address), 405),
        (alice.delete(address), 405),
        (alice.get("/api/v1/sessions/not-an-id/"), 404),
        (alice.get("/api/v1/nothing/"), 404),
        (alice.get("/api/v1/sessions/?state=lost"), 400),
        (alice.get("/api/v1/sessions/?machine=x"), 400),
        (alice.get("/api/v1/sessions/?page=0"), 404),
        (alice.get(f"/api/v1/machines/{2**80}/"), 404),
    ):
        assert response.status_code == status and response["Content-Type"] == PROBLEM, response.request["PATH_INFO"]
        assert response.json()["status"] == status


def test_write_without_csrf_token_is_refused() -> None:
    session = press()
    client = client_of(person("Alice"), enforce_csrf_checks=True)
    refused = post(client, session, "claim")
    assert refused.status_code == 403 and refused.json()["code"] == "csrf_failed"
    assert "Reload" in refused.json()["detail"]
    session.refresh_from_db()
    assert session.operator is None


def test_stranger_is_told_to_sign_in() -> None:
    answer = Client().get("/api/v1/me/")
    assert answer.status_code == 403 and answer.json()["code"] == "not_authenticated"
    assert "Sign in" in answer.json()["detail"]


def test_unexpected_error_shows_nothing_of_itself(alice: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise RuntimeError(PASSWORD)

    monkeypatch.setattr(services, "claim", broken)
    answer = post(alice, press(), "claim")
    assert answer.status_code == 500 and answer["Content-Type"] == PROBLEM
    assert PASSWORD not in answer.content.decode() and "Traceback" not in answer.content.decode()


def test_no_answer_holds_the_one_off_login(alice: Client) -> None:
    session = press()
    post(alice, session, "claim")
    for address in ("", "events/", "colleagues/"):
        assert PASSWORD not in alice.get(f"/api/v1/sessions/{session.pk}/{address}").content.decode()
    assert PASSWORD not in alice.get("/api/v1/machines/").content.decode()


@pytest.mark.parametrize("address", ["/api/v1/sessions/?state=open", "/api/v1/machines/"])
def test_longer_lists_need_no_more_queries(alice: Client, address: str) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as found:
            assert alice.get(address).status_code == 200
        return len(found)

    for number in range(2):
        services.claim(press(f"A{number}"), user=person("Alice"))
    few = queries()
    for number in range(2, 12):
        services.claim(press(f"A{number}"), user=person("Alice"))
    assert queries() == few
