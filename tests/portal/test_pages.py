"""The pages as the server gives them: who sees what, the first state, and nothing inline."""

from __future__ import annotations

import json
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.test import Client, RequestFactory
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines.models import Machine, User
from portal import views
from sessions import attachments, services
from sessions.models import Attachment, Gateway, GuacamoleConnection, SupportSession
from sessions.states import EndReason
from tests.sessions.asking import device
from tests.sessions.clients import client_of
from tests.sessions.rescues import machine, person, press

pytestmark = pytest.mark.django_db

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'"


@pytest.fixture
def alice() -> Client:
    return client_of(person("Alice"))


@pytest.fixture
def charlie() -> Client:
    return client_of(person("Charlie", of="South"))


class _Page(HTMLParser):
    """Collects what a strict content security policy forbids, and the page's JSON states."""

    def __init__(self, response: Any) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.states: dict[str, Any] = {}
        self._json = ""
        self.feed(response.content.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.inline.append(f"<{tag} {name}={value!r}>")
            if name in {"href", "src", "action"} and (value or "").lower().startswith("javascript:"):
                self.inline.append(f"<{tag} {name}={value!r}>")
        if tag == "style" or (tag == "script" and "src" not in given and given.get("type") != "application/json"):
            self.inline.append(f"<{tag}>")
        if tag == "script" and given.get("type") == "application/json":
            self._json = given.get("id") or ""

    def handle_data(self, data: str) -> None:
        if self._json:
            self.states[self._json] = json.loads(data)
            self._json = ""


def addresses(found: Machine, session_id: object) -> list[str]:
    return ["/", f"/sessions/{session_id}/", "/machines/", f"/machines/{found.pk}/", "/accounts/"]


def test_strangers_are_sent_to_sign_in_from_every_page() -> None:
    session = press()
    for address in addresses(session.machine, session.pk):
        response = Client().get(address)
        assert response.status_code == 302
        assert response["Location"].startswith("/accounts/login/"), address


def test_account_is_found_without_what_stands_below_it(alice: Client) -> None:
    assert alice.get("/account/")["Location"] == "/accounts/"


@pytest.mark.parametrize("state", ["none", "given up", "on"])
def test_queue_offers_messages_to_who_gets_them_nowhere(alice: Client, settings: Settings, state: str) -> None:
    settings.VAPID_PRIVATE_KEY = "one"
    if state != "none":
        phone = device(person("Alice"))
        phone.disabled_at = timezone.now() if state == "given up" else None
        phone.save()
    page = alice.get("/").content.decode()
    assert ("so that a request reaches you when this page is closed." in page) == (state != "on")
    settings.VAPID_PRIVATE_KEY = ""
    assert 'data-part="no-device"' not in alice.get("/").content.decode(), "where there are none, none are offered"


def test_pages_that_need_javascript_claim_nothing_without_it(alice: Client) -> None:
    class Claims(HTMLParser):
        shown: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            if ("data-none" in given or "empty" in (given.get("class") or "").split()) and "hidden" not in given:
                self.shown.append(f"<{tag} {given}>")

    for path, words in (("/", "Nobody is waiting"), ("/account/devices/", "None yet")):
        page = alice.get(path).content.decode()
        assert words in page
        claims = Claims()
        claims.feed(page)
        assert claims.shown == []


def test_queue_begins_with_the_open_rescues_of_ones_own_fleets(alice: Client, charlie: Client) -> None:
    session = press()
    state = _Page(alice.get("/")).states["queue-state"]
    assert [card["id"] for card in state["sessions"]] == [str(session.pk)]
    assert "claim" in state["sessions"][0]["may"]
    assert state["me"]["name"] == "Alice"
    assert _Page(charlie.get("/")).states["queue-state"]["sessions"] == []


def test_what_belongs_to_another_fleet_is_not_there(alice: Client, charlie: Client) -> None:
    session = press("North-only-1")  # longer than what a page's random token may hold by chance
    for address in (f"/sessions/{session.pk}/", f"/machines/{session.machine_id}/"):
        assert alice.get(address).status_code == 200
        assert charlie.get(address).status_code == 404
    assert session.machine.serial in alice.get("/machines/").content.decode()
    assert session.machine.serial not in charlie.get("/machines/").content.decode()


def test_who_is_no_operator_is_told_whom_to_ask() -> None:
    response = client_of(User.objects.create_user("nobody")).get("/")
    assert response.status_code == 403
    assert "Ask your fleet manager" in response.content.decode()


def test_ended_rescue_still_has_its_page(alice: Client) -> None:
    session = press()
    user = person("Alice")
    services.close(
        services.claim(session, user=user), user=user, outcome=EndReason.RESOLVED, cause="Beans", fix="Shaken"
    )
    card = _Page(alice.get(f"/sessions/{session.pk}/")).states["rescue-state"]["session"]
    assert card["state"] in {"closing", "closed"}
    assert (card["cause"], card["fix"], card["end_reason"]) == ("Beans", "Shaken", "resolved")


def test_search_wants_every_word_somewhere(alice: Client) -> None:
    machine("A1")
    machine("Spare-B2")  # longer than what a page's random token may hold by chance
    assert "Spare-B2" not in alice.get("/machines/", {"q": "a1 milano"}).content.decode()
    nothing = alice.get("/machines/", {"q": "a1 tokyo"}).content.decode()
    assert "No machine matches" in nothing
    assert "a1 tokyo" in nothing


@pytest.mark.parametrize(
    "address", ["/machines/?page=99", "/machines/?page=x", "/machines/?q=%00", "/machines/?q=%27--"]
)
def test_odd_questions_get_a_plain_list(alice: Client, address: str) -> None:
    machine("A1")
    assert alice.get(address).status_code == 200


def test_machine_page_tells_its_history(alice: Client) -> None:
    now = timezone.now()
    session = press(now=now - timedelta(minutes=10))
    user = person("Alice")
    session = services.claim(session, user=user)
    services.close(
        session, user=user, outcome=EndReason.NOT_RESOLVED,
        cause="Worn pump", fix="Restarted it", note="Technician due", now=now - timedelta(minutes=3),
    )  # fmt: skip
    page = alice.get(f"/machines/{session.machine_id}/").content.decode()
    for words in ("Grinder jammed", "Not resolved", "Worn pump", "Restarted it", "Technician due", "7 min", "Alice"):
        assert words in page


def test_open_rescue_is_no_history(alice: Client) -> None:
    session = press()
    response = alice.get(f"/machines/{session.machine_id}/")
    assert _Page(response).states["machine-state"]["open_session"]["id"] == str(session.pk)
    assert "No rescue has ended here yet" in response.content.decode()


def test_what_a_machine_says_is_never_markup(alice: Client) -> None:
    session = press()
    session.machine.faults = [HOSTILE, {"code": HOSTILE}]
    session.machine.software = HOSTILE[:80]
    session.machine.save()
    type(session).objects.filter(pk=session.pk).update(problem_text=HOSTILE)
    user = person("Alice")
    for _ in range(2):
        for address in addresses(session.machine, session.pk):
            response = alice.get(address)
            assert "<script>alert" not in response.content.decode(), address
            assert "<img src=x" not in response.content.decode(), address
            assert _Page(response).inline == [], address
        session.refresh_from_db()
        if session.is_open:
            session = services.claim(session, user=user)
            services.close(session, user=user, outcome=EndReason.RESOLVED, cause=HOSTILE, fix=HOSTILE, note=HOSTILE)


def test_nothing_is_inline_on_any_page(alice: Client) -> None:
    session = press()
    person("Alice")
    mine = [
        *addresses(session.machine, session.pk),
        "/account/devices/",
        "/accounts/2fa/",
        "/accounts/2fa/webauthn/",
        "/accounts/password/change/",
        "/accounts/email/",
        "/accounts/logout/",
        "/accounts/reauthenticate/",
        "/nothing/here/",
    ]
    strangers = ["/accounts/login/", "/accounts/signup/", "/offline/"]
    for client, pages in ((alice, mine), (Client(), strangers)):
        for address in pages:
            response = client.get(address)
            assert response.status_code in {200, 404}, address
            assert _Page(response).inline == [], address
            assert "script-src 'self' 'unsafe" not in response["Content-Security-Policy"]
            assert "default-src 'self'" in response["Content-Security-Policy"]


def test_nobody_signs_up_alone() -> None:
    client = Client()
    assert "Accounts are made by fleet managers" in client.get("/accounts/signup/").content.decode()
    values = {"email": "eve@example.com", "username": "eve", "password1": "correct-horse-battery"}
    client.post("/accounts/signup/", values)
    assert not User.objects.filter(username="eve").exists()


def test_forgotten_password_leads_to_the_words_that_say_whom_to_ask() -> None:
    page = Client().get("/accounts/password/reset/", follow=True)
    assert page.redirect_chain == [("/accounts/login/", 302)]
    assert "Your fleet manager gives you a new one" in page.content.decode()


def test_admin_signs_in_where_everybody_does() -> None:
    response = Client().get("/admin/login/?next=/admin/")
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


def test_admin_wears_our_name() -> None:
    chief = User.objects.create_superuser("chief")
    page = client_of(chief).get("/admin/").content.decode()
    assert "admin.css" in page
    assert "Portafilter" in page


def test_old_form_is_explained() -> None:
    response = Client(enforce_csrf_checks=True).post("/accounts/login/", {"login": "alice", "password": "x"})
    assert response.status_code == 403
    assert "This form was too old" in response.content.decode()


def test_unknown_address_helps_on(alice: Client) -> None:
    response = alice.get("/nothing/here/")
    assert response.status_code == 404
    assert "There is nothing at this address" in response.content.decode()
    assert "Back to the queue" in response.content.decode()


def test_failure_page_needs_no_database(django_assert_num_queries: Any) -> None:
    request = RequestFactory().get("/")
    with django_assert_num_queries(0):
        response = views.server_error(request)
    assert response.status_code == 500
    assert "Something broke on our side" in response.content.decode()


def test_pages_only_answer_reading(alice: Client) -> None:
    session = press()
    for address in addresses(session.machine, session.pk):
        assert alice.post(address).status_code == 405, address


def hold(session: SupportSession) -> None:
    """A keeper holds the desktop, as the rows say."""
    gateway = Gateway.objects.create(session=session, driver="local")
    GuacamoleConnection.objects.create(session=session, gateway=gateway, hostname="127.64.0.1", port=3389)


def test_page_of_a_held_desktop_brings_its_ticket_and_is_kept_by_no_cache(alice: Client) -> None:
    session = services.desktop_ready(services.begin_starting(press(), now=timezone.now()))
    hold(session)
    user = person("Alice")
    watching = _Page(alice.get(f"/sessions/{session.pk}/")).states["rescue-state"]["ticket"]
    services.claim(session, user=user)

    response = alice.get(f"/sessions/{session.pk}/")

    ticket = _Page(response).states["rescue-state"]["ticket"]
    assert (watching["role"], ticket["role"]) == ("watcher", "controller")
    assert "no-store" in response["Cache-Control"]
    redeemed = attachments.redeem_ticket(ticket["ticket"], session_id=session.pk, user=user)
    assert redeemed.role == "controller"


def test_page_brings_no_ticket_where_there_is_nothing_to_join_or_nobody_looks(alice: Client) -> None:
    waiting = services.begin_starting(press(), now=timezone.now())
    assert _Page(alice.get(f"/sessions/{waiting.pk}/")).states["rescue-state"]["ticket"] is None
    session = services.desktop_ready(waiting)
    hold(session)

    ahead = alice.get(f"/sessions/{session.pk}/", headers={"Sec-Purpose": "prefetch"})

    assert _Page(ahead).states["rescue-state"]["ticket"] is None
    alice.head(f"/sessions/{session.pk}/")
    assert not Attachment.objects.exists()


@pytest.mark.parametrize("address", ["/accounts/email/", "/accounts/password/change/", "/accounts/reauthenticate/"])
def test_no_page_promises_a_mail_that_is_never_sent(alice: Client, address: str) -> None:
    page = alice.get(address, follow=True).content.decode()
    assert "/password/reset/" not in page
    assert "action_send" not in page


def test_script_that_is_kept_is_used_while_the_new_one_is_asked_for(settings: Any, tmp_path: Path) -> None:
    settings.STATICFILES_DIRS, settings.WHITENOISE_AUTOREFRESH = [tmp_path], True
    (tmp_path / "rescue.js").write_text("// nothing")
    response = Client().get("/static/rescue.js")
    assert response.status_code == 200
    assert response["Cache-Control"] == "max-age=60, stale-while-revalidate=600, public"
