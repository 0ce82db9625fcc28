"""The pages on the real REST face: a rescue claimed, lost to a colleague, handed over and closed by clicks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from machines.models import User
from sessions import services
from sessions.models import SupportSession
from tests.portal.browser.conftest import Operator
from tests.sessions.rescues import person, press

pytestmark = [pytest.mark.django_db(transaction=True)]

SignIn = Callable[..., Operator]


def on_the_real_face(sign_in: SignIn, user: User, path: str) -> Operator:
    """Signed in and at a page, with nobody playing the REST face; the live line is a played one still."""
    operator = sign_in(user)
    operator.page.unroute("**/api/v1/**")
    operator.visit(path)
    if path == "/":  # the played line's snapshot must hold what the page holds
        operator.live.cards = operator.state("queue-state")["sessions"]
        operator.visit(path)
    return operator


def test_second_claimer_is_told_on_the_ticket_who_was_first(sign_in: SignIn) -> None:
    session = press("A1")
    bob = on_the_real_face(sign_in, person("Bob"), "/")
    services.claim(session, user=person("Alice"))
    bob.page.locator("[data-action=claim]").click()
    expect(bob.page.locator(".ticket")).to_contain_text("Alice claimed it just before you")


def test_rescue_is_claimed_and_closed_by_clicks(sign_in: SignIn) -> None:
    session = press("A1")
    alice = on_the_real_face(sign_in, person("Alice"), "/")
    alice.page.locator("[data-action=claim]").click()
    alice.page.wait_for_url(f"**/sessions/{session.pk}/")
    alice.page.locator("[data-action=close]").click()
    for field in ("cause", "fix"):
        alice.page.locator(f"dialog [data-field={field}] .choice").first.click()
    alice.page.locator("[data-action=submit-close]").click()
    expect(alice.page.locator("[data-summary]")).to_contain_text("Alice closed it: resolved.")
    kept = SupportSession.objects.get()
    assert (kept.state, kept.end_reason, kept.closed_by) == ("closing", "resolved", person("Alice"))
    assert kept.cause and kept.fix


def test_rescue_is_handed_to_a_colleague_by_clicks(sign_in: SignIn) -> None:
    session = services.claim(press("A1"), user=person("Alice"))
    person("Bob")
    alice = on_the_real_face(sign_in, person("Alice"), f"/sessions/{session.pk}/")
    alice.page.locator("[data-action=handover]").click()
    alice.page.locator("dialog .choice", has_text="Bob").click()
    alice.page.locator("[data-action=submit-handover]").click()
    expect(alice.page.locator("dialog[open]")).to_have_count(0)
    session.refresh_from_db()
    assert session.operator == person("Bob")
