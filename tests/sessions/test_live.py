"""The live line of an open page."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
from django.conf import settings as django_settings
from websockets.exceptions import InvalidStatus

from machines.models import Operator, User
from notifications import live
from sessions import live_line, services
from sessions.models import SupportSession
from tests.sessions.portal_server import Browser, serving, signed_in
from tests.sessions.rescues import fleet, person, press

pytestmark = pytest.mark.django_db(transaction=True)
PATH = "/ws/live/"


@pytest.fixture
def port() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture
def alice() -> User:
    return person("Alice")


def _until_card(browser: Browser, session: SupportSession, **values: object) -> dict[str, object]:
    def fits(message: dict[str, dict[str, object]]) -> bool:
        card = message.get("session", {})
        return card.get("id") == str(session.pk) and all(card[name] == value for name, value in values.items())

    return browser.until_message(fits, f"the card with {values}")["session"]  # type: ignore[no-any-return]


def _until_snapshot(browser: Browser) -> dict[str, object]:
    return browser.until_message(lambda message: message["type"] == "snapshot", "the snapshot")


def test_line_begins_with_what_is_open_the_longest_waiting_first(port: int, alice: User) -> None:
    first, second, closed = press("A1"), press("A2"), press("A3")
    services.cancel(closed)
    with Browser(port, PATH, login=signed_in(alice)) as browser:
        snapshot = _until_snapshot(browser)
        assert browser.messages[0] == snapshot
        assert [card["id"] for card in snapshot["sessions"]] == [str(first.pk), str(second.pk)]  # type: ignore[attr-defined]
        assert snapshot["me"] == {
            "id": alice.pk,
            "name": "Alice",
            "role": "operator",
            "time_zone": "UTC",
            "fleets": [{"id": fleet().pk, "name": "North"}],
        }


def test_every_change_reaches_the_page_until_the_close(port: int, alice: User) -> None:
    with Browser(port, PATH, login=signed_in(alice)) as browser:
        _until_snapshot(browser)
        session = press("A1")
        _until_card(browser, session, state="requested", may=["watch", "claim"])
        services.claim(session, user=alice)
        _until_card(browser, session, operator={"id": alice.pk, "name": "Alice"})
        services.cancel(session)
        _until_card(browser, session, state="closing", end_reason="cancelled")


def test_colleague_of_another_fleet_hears_nothing(port: int, alice: User) -> None:
    charlie = person("Charlie", of="South")
    with Browser(port, PATH, login=signed_in(charlie)) as his, Browser(port, PATH, login=signed_in(alice)) as hers:
        _until_snapshot(his)
        _until_snapshot(hers)
        theirs = press("A1")
        own = press("C1", of="South")
        _until_card(hers, theirs)
        _until_card(his, own)
        assert str(theirs.pk) not in "".join(his.frames)
        assert str(own.pk) not in "".join(hers.frames)


def test_change_whose_message_was_lost_is_found_by_looking(
    port: int, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_line, "LOOK_S", 0.2)
    monkeypatch.setattr(live, "session_changed", lambda **_: None)
    with Browser(port, PATH, login=signed_in(alice)) as browser:
        _until_snapshot(browser)
        session = press("A1")
        _until_card(browser, session, state="requested")
        services.cancel(session)
        _until_card(browser, session, state="closing")
        count = len(browser.frames)
        services.claim(press("A2"), user=alice)
        browser.until(lambda: len(browser.frames) > count, "the next change")
        assert sum(str(session.pk) in frame for frame in browser.frames) == 2


def test_line_ends_with_the_login(port: int, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_line, "LOOK_S", 0.1)
    login = signed_in(alice)
    with Browser(port, PATH, login=login) as signed_out, Browser(port, PATH, login=signed_in(alice)) as deactivated:
        _until_snapshot(signed_out)
        _until_snapshot(deactivated)
        import_module(django_settings.SESSION_ENGINE).SessionStore(login).delete()
        signed_out.until(lambda: signed_out.closing[0] == 4401, "the line of the login that ended is closed")
        assert deactivated.closing[0] is None
        User.objects.filter(pk=alice.pk).update(is_active=False)
        deactivated.until(lambda: deactivated.closing[0] == 4401, "the deactivated person's line is closed")


def test_new_fleet_begins_the_line_anew(port: int, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_line, "LOOK_S", 0.1)
    old, new = press("A1"), press("C1", of="South")
    with Browser(port, PATH, login=signed_in(alice)) as browser:
        assert str(new.pk) not in str(_until_snapshot(browser))
        operator = Operator.objects.get(user=alice)
        operator.fleets.set([fleet("South")])
        browser.until_message(
            lambda message: message["type"] == "snapshot" and str(new.pk) in str(message), "the new fleet's snapshot"
        )
        count = len(browser.frames)
        services.cancel(old)
        services.cancel(new)
        _until_card(browser, new, state="closing")
        assert str(old.pk) not in "".join(browser.frames[count:])


def test_pings_go_both_ways(port: int, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_line, "PING_S", 0.1)
    with Browser(port, PATH, login=signed_in(alice)) as browser:
        browser.until_message(lambda message: message == {"type": "ping"}, "the server's ping")
        browser.socket.send('{"type":"pong"}')
        browser.socket.send('{"type":"ping"}')
        browser.until_message(lambda message: message == {"type": "pong"}, "the answer to ours")


@pytest.mark.parametrize("sent", ['{"type":"subscribe"}', "[]", "x", "", b"\x00", "[" * 60000])
def test_page_that_says_anything_else_is_closed(port: int, alice: User, sent: str | bytes) -> None:
    with Browser(port, PATH, login=signed_in(alice)) as browser:
        _until_snapshot(browser)
        browser.socket.send(sent)
        browser.until(lambda: browser.closing[0] == 4400, "the line is closed")


@pytest.mark.parametrize("login", ["", "invented"])
def test_stranger_gets_no_line(port: int, login: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        Browser(port, PATH, login=login)
    assert refused.value.response.status_code == 403
