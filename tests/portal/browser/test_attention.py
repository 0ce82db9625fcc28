"""What calls somebody who looks elsewhere: the sound, the count in title and navigation, the dot on the icon."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import BrowserContext, expect

from tests.portal.browser.conftest import Operator, until
from tests.portal.browser.test_queue import SignIn, at_queue, newer
from tests.sessions.rescues import machine, person, press

pytestmark = [pytest.mark.django_db(transaction=True)]

ANOTHER = "0b7b5f6e-0000-4000-8000-00000000000"
WISHED = "localStorage.setItem('portafilter.sound', 'on')"
# The rule that this browser is told to do without: no sound before somebody has done something on the page.
# Its own count of what people did goes up with what the tests look at, too.
SILENT = """const Free = window.AudioContext;
let isTouched = false;
addEventListener('pointerdown', () => { isTouched = true; }, true);
window.AudioContext = class extends Free {
  get state() { return this.may ? super.state : 'suspended'; }
  async resume() {
    if (!isTouched) return new Promise(() => {});
    this.may = true;
    await super.resume();
    this.dispatchEvent(new Event('statechange'));
  }
};"""
# A device that is there when the test says so.
LATE = """const Free = window.AudioContext;
const comes = new Promise((isThere) => { window.deviceComes = isThere; });
window.AudioContext = class extends Free {
  get state() { return this.isThere ? super.state : 'suspended'; }
  async resume() {
    await comes;
    this.isThere = true;
    await super.resume();
    this.dispatchEvent(new Event('statechange'));
  }
};"""
COUNTED = """const start = OscillatorNode.prototype.start;
OscillatorNode.prototype.start = function (...when) {
  if (Math.round(this.frequency.value) === 988) window.rang(); // the first tone of each ring
  return start.apply(this, when);
};"""


def count_rings(context: BrowserContext) -> list[int]:
    """Grows by one with each ring in any tab; to be called before pages open."""
    rings: list[int] = []
    context.expose_function("rang", lambda: rings.append(1))
    context.add_init_script(COUNTED)
    return rings


def about(card: dict[str, Any], number: int, asked: str) -> dict[str, Any]:
    """A new request like this one, about which somebody was asked just now."""
    user = person(asked)
    people = [
        {"id": user.pk, "name": asked, "at": timezone.now().isoformat(), "rung": "operators", "reached": "reached"}
    ]
    asking = {"sentence": f"{asked} was asked.", "people": people, "next": "", "next_at": None, "stood_in": ""}
    return newer(card, id=f"{ANOTHER}{number}", asking=asking)


def click_somewhere(operator: Operator) -> None:
    operator.page.locator(".page-head h1").click()


def test_sound_rings_once_in_three_tabs_and_for_the_one_who_is_asked(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    rings = count_rings(alice.page.context)
    alice.visit("/")
    alice.page.get_by_role("switch", name="Sound").check()
    until(alice.page, lambda: len(rings) == 1)  # so that one knows it
    tabs = [alice, *(Operator(alice.page.context, alice.address) for _ in range(2))]
    for tab in tabs[1:]:
        tab.live.cards = [card]
        tab.visit("/")
        expect(tab.page.get_by_role("switch", name="Sound")).to_be_checked()
        click_somewhere(tab)
    for_bob, for_alice = about(card, 1, "Bob"), about(card, 2, "Alice")
    for tab in tabs:
        tab.live.tell(for_bob)
        tab.live.tell(for_alice)
        expect(tab.page.locator("[data-section=waiting] .ticket")).to_have_count(3)
    until(alice.page, lambda: len(rings) == 2)
    tabs[1].live.cards = [card, for_bob, for_alice]
    tabs[1].page.reload()
    expect(tabs[1].page.locator("[data-section=waiting] .ticket")).to_have_count(3)
    click_somewhere(tabs[1])
    # Rings come one after the other: that of a last request is heard after all that there were before.
    last = about(card, 3, "Alice")
    for tab in tabs:
        tab.live.tell(last)
    until(alice.page, lambda: "3 " in (alice.page.evaluate("localStorage.getItem('portafilter.rung')") or ""))
    until(alice.page, lambda: len(rings) >= 3)
    assert len(rings) == 3


def test_browser_that_keeps_the_page_silent_is_explained_and_rings_after_a_click(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    rings = count_rings(alice.page.context)
    alice.page.context.add_init_script(WISHED)
    alice.page.context.add_init_script(SILENT)
    alice.visit("/")
    words = alice.page.locator("[data-part=sound-blocked]")
    expect(words).to_contain_text("Click anywhere")
    expect(alice.page.locator("[data-part=live]")).to_have_text("Live")
    alice.live.tell(about(card, 1, "Alice"))
    expect(alice.page.locator("[data-section=waiting] .ticket")).to_have_count(2)
    assert rings == []
    click_somewhere(alice)
    until(alice.page, lambda: rings == [1])
    expect(words).to_be_hidden()


def test_sound_that_was_switched_on_is_made_known_however_late_its_device_comes(sign_in: SignIn) -> None:
    alice, _ = at_queue(sign_in)
    rings = count_rings(alice.page.context)
    alice.page.context.add_init_script(LATE)
    alice.page.clock.install()
    alice.visit("/")
    alice.page.get_by_role("switch", name="Sound").check()
    expect(alice.page.locator("[data-part=sound-blocked]")).to_be_visible()
    alice.page.clock.run_for(2000)  # longer than any page waits for it
    alice.page.evaluate("deviceComes()")
    until(alice.page, lambda: rings == [1])


def test_everybody_with_an_open_page_hears_what_nobody_was_asked_about(sign_in: SignIn) -> None:
    press("A1")
    alice, [card] = at_queue(sign_in)
    rings = count_rings(alice.page.context)
    alice.page.clock.install()
    alice.visit("/")
    alice.page.get_by_role("switch", name="Sound").check()
    until(alice.page, lambda: rings == [1])
    alice.live.tell(newer(card, id=f"{ANOTHER}1", asking=None))
    expect(alice.page.locator("[data-section=waiting] .ticket")).to_have_count(2)
    alice.page.clock.run_for(4000)
    until(alice.page, lambda: rings == [1, 1])


@pytest.mark.parametrize("path", ["/machines/{machine}/", "/accounts/", "/sessions/{session}/"])
def test_count_of_those_who_wait_follows_on_every_page(sign_in: SignIn, path: str) -> None:
    session = press("A1")
    alice, [card] = at_queue(sign_in)
    alice.answer("GET", f"/sessions/{session.pk}/", 200, card)
    alice.visit(path.format(machine=machine("A1").pk, session=session.pk))
    count = alice.page.locator("nav [data-waiting-count]")
    expect(count).to_have_text("1 waiting")
    title = alice.page.title()
    assert title.startswith("(1) ")
    expect(alice.page.locator("link[rel=icon]")).to_have_attribute("href", "/static/img/mark-waiting.svg")
    taken = newer(card, operator={"id": 0, "name": "Bob"}, claimed_at=card["requested_at"], may=["watch"])
    alice.live.tell(taken)
    expect(alice.page).to_have_title(title.removeprefix("(1) "))
    expect(count).to_be_hidden()
    expect(alice.page.locator("link[rel=icon]")).to_have_attribute("href", "/static/img/mark.svg")
