"""The live line of every page: lost, hung, blocked, and caught up with."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import WebSocketRoute, expect

from sessions import services
from sessions.models import SupportSession
from sessions.states import EndReason
from tests.portal.browser.conftest import Operator, until
from tests.portal.browser.test_queue import SignIn, at_queue, newer
from tests.sessions.rescues import machine, person, press

pytestmark = [pytest.mark.django_db(transaction=True)]

AWAY = {"status": 503, "detail": "The server is restarting."}


def listing(*cards: dict[str, Any]) -> dict[str, Any]:
    return {"count": len(cards), "next": None, "previous": None, "results": list(cards)}


def at_machine(sign_in: SignIn) -> tuple[Operator, dict[str, Any]]:
    """Alice at A1's page while a rescue waits there; her line is up."""
    press("A1")
    alice, [card] = at_queue(sign_in)
    alice.visit(f"/machines/{machine('A1').pk}/")
    expect(alice.page.locator("html")).to_have_attribute("data-live", "live")
    return alice, card


def test_machine_page_says_that_its_line_is_lost_and_catches_up(sign_in: SignIn) -> None:
    alice, card = at_machine(sign_in)
    banner, rescue = alice.page.locator(".connection"), alice.page.locator("[data-open-rescue]")
    expect(rescue).to_contain_text("Grinder jammed")
    expect(banner).to_be_hidden()
    alice.live.blocked = True
    alice.answer("GET", "/sessions/", 503, AWAY)
    alice.live.sockets[-1].close(code=1012)
    expect(banner).to_contain_text("What you see may be old")
    # What happened meanwhile: Bob has it.
    bob = {"id": person("Bob").pk, "name": "Bob"}
    alice.live.cards = [newer(card, operator=bob, claimed_at=card["requested_at"], may=["watch"])]
    alice.live.blocked = False
    expect(rescue).to_contain_text("Bob has it.")
    expect(banner).to_be_hidden()


def test_rescue_that_ends_moves_to_its_machine_s_list(sign_in: SignIn) -> None:
    alice, card = at_machine(sign_in)
    history = alice.page.locator("[data-live=history]")
    expect(history).to_contain_text("No rescue has ended here yet")
    services.cancel(SupportSession.objects.get())
    alice.live.tell(newer(card, state="closing"))
    expect(history).to_contain_text("Grinder jammed")
    expect(alice.page.locator("[data-open-rescue]")).to_be_empty()


def test_line_that_opens_and_says_nothing_is_replaced_by_asking(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    opened: list[WebSocketRoute] = []
    alice.page.route_web_socket(re.compile("/ws/live/"), lambda socket: opened.append(socket))
    second = newer(card, id="0b7b5f6e-0000-4000-8000-000000000007", problem={"code": "", "text": "By asking"})
    alice.answer("GET", "/sessions/", 200, listing(card, second))
    alice.page.clock.install()
    alice.visit("/")
    until(alice.page, lambda: opened)
    alice.page.clock.run_for(5500)
    expect(alice.page.locator("[data-section=waiting] .ticket")).to_have_count(2)
    expect(alice.page.locator("[data-part=live]")).to_have_text("Live, a little slower")


def test_line_that_dies_without_a_word_is_noticed_by_its_silence(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    opened: list[WebSocketRoute] = []

    def deaf(socket: WebSocketRoute) -> None:
        opened.append(socket)
        alice.live.open(socket)
        socket.on_message(lambda text: None)  # no pong ever again

    alice.page.route_web_socket(re.compile("/ws/live/"), deaf)
    alice.page.clock.install()
    alice.visit("/")
    expect(alice.page.locator("[data-part=live]")).to_have_text("Live")
    alice.live.cards = [newer(card, problem={"code": "", "text": "Caught up"})]
    alice.page.clock.run_for(22_000)
    until(alice.page, lambda: len(opened) > 1)
    expect(alice.page.locator(".ticket")).to_contain_text("Caught up")


def test_answer_from_before_the_line_came_back_changes_nothing(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    alice.live.blocked = True
    held: list[Any] = []
    alice.page.route(re.compile("state=open"), lambda route: held.append(route))
    alice.live.sockets[-1].close(code=1012)
    until(alice.page, lambda: held)
    fresh = newer(card, id="0b7b5f6e-0000-4000-8000-000000000008", problem={"code": "", "text": "Pressed since"})
    alice.live.cards = [card, fresh]
    alice.live.blocked = False
    expect(alice.page.locator(".ticket")).to_have_count(2)
    for route in held:
        route.fulfill(json=listing(card))
    alice.live.tell(newer(card, problem={"code": "", "text": "Said last"}))
    expect(alice.page.locator(".ticket").first).to_contain_text("Said last")
    expect(alice.page.locator(".ticket")).to_have_count(2)


def test_supervisor_looks_at_what_nobody_answered(sign_in: SignIn) -> None:
    session = press("A1")
    person("Sue", role="supervisor")
    sue = sign_in(person("Sue"))
    sue.visit("/")
    [card] = sue.state("queue-state")["sessions"]
    section = sue.page.locator("[data-section=missed]")
    expect(section).to_be_hidden()
    sue.live.cards = [card]
    asking: dict[str, Any] = {
        "sentence": "Bob was asked. Nobody came.",
        "people": [],
        "next": "",
        "next_at": None,
        "stood_in": "",
    }
    over = newer(card, state="closing", end_reason="unanswered", may=[], asking=asking)
    sue.answer("GET", "/sessions/missed/", 200, listing(over))
    sue.visit("/")
    expect(sue.page.locator("[data-part=live]")).to_have_text("Live")
    sue.live.tell(over)
    expect(section).to_contain_text("Bob was asked. Nobody came.")
    expect(section.locator("h3 .tag")).to_have_text("E17")
    expect(section.get_by_role("link")).to_have_attribute("href", f"/sessions/{session.pk}/")
    sue.answer("POST", "/looked-at/", 200, over)
    sue.answer("GET", "/sessions/missed/", 200, listing())
    section.get_by_role("button", name="Looked at").click()
    expect(section).to_be_hidden()
    assert len(sue.posted("/looked-at/")) == 1
    expect(sue.page.locator("#content")).to_be_focused()


def test_missed_rescue_is_marked_as_looked_at_on_its_own_page(sign_in: SignIn) -> None:
    """Where the message about it leads to."""
    session = press("A1")
    sue = sign_in(person("Sue", role="supervisor"))
    services.end(session, EndReason.UNANSWERED)
    sue.visit(f"/sessions/{session.pk}/")
    card = sue.state("rescue-state")["session"]
    at = card["requested_at"]
    missed: dict[str, Any] = {"at": at, "looked_at": None, "looked_by": None}
    button = sue.page.get_by_role("button", name="Looked at")
    expect(sue.page.locator("[data-summary]")).to_be_visible()
    expect(sue.page.locator("html")).to_have_attribute("data-live", "live")
    expect(button).to_be_hidden()
    sue.live.tell(newer(card, missed=missed))
    by = {"id": person("Sue").pk, "name": "Sue"}
    looked = newer(newer(card), missed=missed | {"looked_at": at, "looked_by": by})
    held: list[Any] = []
    sue.page.route("**/looked-at/", lambda route: held.append(route))
    button.dblclick()
    until(sue.page, lambda: held)
    sue.page.evaluate("fetch('/api/v1/causes/').then((answer) => answer.status)")  # a second call would be here by now
    assert len(held) == 1
    held[0].fulfill(json=looked)
    expect(sue.page.locator("[data-summary]")).to_contain_text("Sue looked at it")
    expect(button).to_be_hidden()
    assert len(held) == 1
