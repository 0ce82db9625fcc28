"""The queue in a browser: live tickets, claims, and what happens when the line is cut."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from sessions import services
from tests.portal.browser.conftest import PHONE, Operator
from tests.sessions.rescues import person, press

pytestmark = [pytest.mark.django_db(transaction=True)]

SignIn = Callable[..., Operator]


def at_queue(sign_in: SignIn, **options: Any) -> tuple[Operator, list[dict[str, Any]]]:
    """Alice at the queue, her live line up, with the cards that are open."""
    alice = sign_in(person("Alice"), **options)
    alice.visit("/")
    cards = alice.state("queue-state")["sessions"]
    alice.live.cards = cards
    alice.visit("/")
    expect(alice.page.locator("[data-part=live]")).to_have_text("Live")
    return alice, cards


def newer(card: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = copy.deepcopy(card)
    changed.update(version=card["version"] + 1, **changes)
    return changed


def test_press_shows_as_a_ticket_at_once(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    expect(alice.page).to_have_title("(1) Queue · Portafilter")
    other = newer(card, id="0b7b5f6e-0000-4000-8000-000000000001", problem={"code": "", "text": "Milk too cold"})
    alice.live.tell(other)
    waiting = alice.page.locator("[data-section=waiting] .ticket")
    expect(waiting).to_have_count(2)
    expect(waiting.nth(1)).to_contain_text("Milk too cold")
    expect(alice.page).to_have_title("(2) Queue · Portafilter")
    expect(alice.page.locator("[role=status][aria-live=polite]")).to_contain_text("New request: Milk too cold")


def test_browser_of_another_tongue_mixes_none_of_its_words_in(sign_in: SignIn) -> None:
    press("A1")
    alice, _ = at_queue(sign_in, locale="de-DE")
    expect(alice.page.locator("[data-section=waiting] .ticket")).to_contain_text("Italy")


def test_ticket_moves_to_its_claimer_and_goes_at_the_end(sign_in: SignIn) -> None:
    press("A1")
    bob = person("Bob")
    alice, [card] = at_queue(sign_in)
    claimed = newer(card, operator={"id": bob.pk, "name": "Bob"}, claimed_at=card["requested_at"], may=["watch"])
    alice.live.tell(claimed)
    colleagues = alice.page.locator("[data-section=colleagues] .ticket")
    expect(colleagues).to_have_count(1)
    expect(colleagues).to_contain_text("Bob")
    expect(colleagues.get_by_role("link", name="Watch")).to_have_attribute("href", f"/sessions/{card['id']}/")
    expect(alice.page.get_by_text("Nobody is waiting")).to_be_visible()
    alice.live.tell(newer(claimed, state="closing", end_reason="resolved", may=[]))
    expect(colleagues).to_have_count(0)


def test_older_news_never_replace_newer(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    alice.live.tell(newer(newer(card), state_label="Screen ready"))
    alice.live.tell(newer(card, state_label="Gateway starting"))
    later = newer(card, id="0b7b5f6e-0000-4000-8000-000000000003", problem={"code": "", "text": "Told afterwards"})
    alice.live.tell(later)
    tickets = alice.page.locator(".ticket")
    expect(tickets).to_have_count(2)
    expect(tickets.first).to_contain_text("Screen ready")


def test_claim_opens_the_rescue(sign_in: SignIn) -> None:
    session = press("A1")
    alice, [card] = at_queue(sign_in)
    alice.answer("POST", "/claim/", 200, card)
    alice.page.get_by_role("button", name="Claim").click()
    alice.page.wait_for_url(re.compile(f"/sessions/{session.pk}/"))
    assert alice.posted("/claim/") == [{}]


def test_loser_of_a_claim_is_told_who_won_on_the_ticket(sign_in: SignIn) -> None:
    session = press("A1")
    alice, [card] = at_queue(sign_in)
    bob = person("Bob")
    services.claim(session, user=bob)
    problem = {
        "status": 409, "code": "already_claimed", "detail": "Bob has already claimed this rescue. You can watch.",
        "operator": {"id": bob.pk, "name": "Bob"}, "claimed_at": "2026-01-01T10:00:00Z",
    }  # fmt: skip
    alice.answer("POST", "/claim/", 409, problem)
    taken = newer(card, operator=problem["operator"], claimed_at=problem["claimed_at"], may=["watch"])
    alice.answer("GET", f"/sessions/{session.pk}/", 200, taken)
    alice.page.get_by_role("button", name="Claim").click()
    ticket = alice.page.locator("[data-section=waiting] .ticket")
    expect(ticket.locator(".note")).to_contain_text("Bob claimed it just before you")
    watch = ticket.get_by_role("link", name="Watch")  # the ticket's own, and no second one
    expect(watch).to_be_focused()
    assert watch.get_attribute("href") == f"/sessions/{session.pk}/"
    assert alice.page.url.endswith("/")


def test_queue_stays_live_where_websockets_are_blocked(sign_in: SignIn) -> None:
    press("A1")
    alice = sign_in(person("Alice"))
    alice.live.blocked = True
    alice.visit("/")
    [card] = alice.state("queue-state")["sessions"]
    second = newer(card, id="0b7b5f6e-0000-4000-8000-000000000002", problem={"code": "", "text": "By asking"})
    alice.answer("GET", "/sessions/", 200, {"count": 2, "next": None, "previous": None, "results": [card, second]})
    expect(alice.page.locator("[data-section=waiting] .ticket")).to_have_count(2)
    expect(alice.page.locator("[data-part=live]")).to_have_text("Live, a little slower")
    expect(alice.page.locator(".connection")).to_be_hidden()


def test_lost_line_is_said_and_comes_back_by_itself(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    alice.live.blocked = True
    problem = {"status": 503, "detail": "The server is restarting."}
    alice.answer("GET", "/sessions/", 503, problem)
    alice.live.sockets[-1].close(code=1012)
    expect(alice.page.locator(".connection")).to_contain_text("What you see may be old")
    alice.live.blocked = False
    alice.live.cards = [newer(card, problem={"code": "", "text": "Caught up"})]
    expect(alice.page.locator(".ticket")).to_contain_text("Caught up")
    expect(alice.page.locator(".connection")).to_be_hidden()


def test_ended_login_leads_to_sign_in_and_back(sign_in: SignIn) -> None:
    press("A1")
    alice, _ = at_queue(sign_in)
    alice.page.context.clear_cookies()
    alice.live.sockets[-1].close(code=4401)
    alice.page.wait_for_url(re.compile(r"/accounts/login/\?next=%2F"))


def test_keyboard_alone_claims(sign_in: SignIn) -> None:
    session = press("A1")
    alice, [card] = at_queue(sign_in)
    alice.answer("POST", "/claim/", 200, card)
    alice.page.keyboard.press("Tab")
    expect(alice.page.locator(".skip")).to_be_focused()
    alice.page.keyboard.press("Enter")
    expect(alice.page.locator("#content")).to_be_focused()
    alice.page.keyboard.press("Tab")
    expect(alice.page.get_by_role("switch", name="Sound")).to_be_focused()
    alice.page.keyboard.press("Tab")
    expect(alice.page.get_by_role("button", name="Claim")).to_be_focused()
    alice.page.keyboard.press("Enter")
    alice.page.wait_for_url(re.compile(f"/sessions/{session.pk}/"))


def test_what_was_refused_is_brought_into_sight(sign_in: SignIn) -> None:
    alice = sign_in(person("Alice"), viewport=PHONE)
    alice.visit("/account/availability/")
    alice.page.get_by_label("Sunday from", exact=True).fill("08:00")
    alice.page.get_by_role("button", name="Save hours").click()
    expect(alice.page.get_by_text("found a beginning without an end")).to_be_in_viewport()
    expect(alice.page.get_by_label("Sunday until", exact=True)).to_be_focused()


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/machines/",
        "/machines/{machine}/",
        "/sessions/{session}/",
        "/accounts/",
        "/accounts/2fa/",
        "/account/availability/",
    ],
)
def test_phone_needs_no_sideways_scrolling_and_has_room_for_thumbs(sign_in: SignIn, path: str) -> None:
    session = press("A1")
    type(session).objects.filter(pk=session.pk).update(problem_text="Averylongwordwithoutanyspaces" * 8)
    alice = sign_in(person("Alice"), viewport=PHONE)
    alice.visit(path.format(machine=session.machine_id, session=session.pk))
    alice.page.wait_for_load_state("networkidle")
    width = alice.page.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"]
    small = alice.page.evaluate(
        """[...document.querySelectorAll('a:not(.skip), button, summary, input:not([type=hidden])')]
            .filter((node) => {
                // A box is switched by its words, too.
                const { width, height } = (node.closest('label') ?? node).getBoundingClientRect();
                return node.checkVisibility() && Math.min(width, height) < 43.5;
            }).map((node) => node.outerHTML.slice(0, 80))"""
    )
    assert small == []
