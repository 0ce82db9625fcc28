"""The rescue in a browser: joining, working, losing and finding the desktop again, and ending it."""

from __future__ import annotations

import base64
import copy
from collections.abc import Callable
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Route, expect

from sessions import selectors, services
from sessions.models import Gateway, GuacamoleConnection
from tests.portal.browser.conftest import PHONE, Operator, until
from tests.sessions.rescues import person, press

pytestmark = [pytest.mark.django_db(transaction=True)]

SignIn = Callable[..., Operator]
ALL = ["release", "control", "watch", "handover", "close"]


def at_rescue(
    sign_in: SignIn, *, name: str = "Alice", claim: bool = True, **options: Any
) -> tuple[Operator, dict[str, Any]]:
    """Somebody on the page of a rescue that Alice has claimed, its desktop not there yet."""
    session = press("A1")
    alice = person("Alice")
    if claim:
        services.claim(session, user=alice)
    who = sign_in(person(name), **options)
    who.visit(f"/sessions/{session.pk}/")
    card = who.state("rescue-state")["session"]
    who.live.cards = [card]
    who.answer("GET", f"/sessions/{session.pk}/", 200, card)
    who.visit(f"/sessions/{session.pk}/")  # now with a live line that knows the card
    expect(who.page.locator("html[data-live=live]")).to_have_count(1)
    return who, card


def tell(who: Operator, card: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The server has a newer card, on the live line and by REST."""
    changed = copy.deepcopy(card)
    changed.update({"version": card["version"] + 1, **changes})
    who.live.cards = [changed] if changed["state"] not in {"closing", "closed"} else []
    who.answer("GET", f"/sessions/{card['id']}/", 200, changed)
    who.live.tell(changed)
    return changed


def connected(who: Operator, card: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The desktop is there and the page has joined it."""
    values = {"state": "ready", "state_label": "Screen ready", "desktop": True, "ready_at": card["requested_at"]}
    card = tell(who, card, **{**values, "may": ALL, **changes})
    expect(who.page.locator("html[data-desktop=connected][data-first-frame=yes]")).to_have_count(1)
    return card


def picture_box(who: Operator) -> Any:
    box = who.page.locator(".join > div").bounding_box()
    assert box is not None
    return box


def test_double_click_asks_as_a_single_one_does(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in, claim=True)
    connected(alice, card)
    alice.page.get_by_role("button", name="Release").dblclick()
    expect(alice.page.locator("dialog")).to_be_visible()
    alice.page.mouse.click(5, 5)
    expect(alice.page.locator("dialog")).to_have_count(0)
    assert alice.posted("/release/") == []


def test_double_click_opens_one_dialog_though_the_causes_come_late(sign_in: SignIn) -> None:
    person("Sue", role="supervisor")
    sue, card = at_rescue(sign_in, name="Sue")
    connected(sue, card, may=["watch", "close"])
    held: list[Route] = []
    sue.page.route("**/causes/", lambda route: held.append(route))
    sue.page.locator("[data-action=force]").dblclick()
    until(sue.page, lambda: held)
    for route in held:
        route.fulfill(json={"causes": [], "fixes": []})
    expect(sue.page.locator("dialog")).to_have_count(1)


def test_waiting_is_shown_as_steps_until_the_desktop_is_there(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    expect(alice.page.locator(".steps li")).to_have_count(4)
    expect(alice.page.locator(".steps [aria-current=step]")).to_have_text("Gateway")
    card = tell(alice, card, state="starting", notice="The first gateway did not answer; a second one is starting.")
    expect(alice.page.locator(".curtain")).to_contain_text("a second one is starting")
    assert alice.desktop.sockets == []
    connected(alice, card)
    expect(alice.page.locator(".curtain")).to_be_hidden()


def test_ticket_is_the_first_thing_sent_and_the_picture_is_drawn(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    assert alice.posted("/attachments/") == [{"role": "controller"}]
    assert alice.desktop.received[0] == ["", "ticket", "ticket-1"]
    assert alice.page.evaluate("performance.getEntriesByName('first-pixels').length") == 1
    pixel = alice.page.evaluate(
        "[...document.querySelector('.join canvas').getContext('2d').getImageData(5, 5, 1, 1).data]"
    )
    assert pixel == [200, 30, 30, 255]


def test_picture_is_shown_before_a_late_sync_but_not_the_pointer_alone(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    far = alice.desktop
    whole = far.picture()
    pointer = whole.replace("3.img,1.1,2.14,1.0,", "3.img,1.1,2.14,2.-1,")
    far.picture = lambda: pointer.replace("4.sync,4.1000;", "")  # type: ignore[method-assign]
    tell(alice, card, state="ready", desktop=True)
    until(alice.page, lambda: far.got("ticket") or ["", "ticket", "ticket-1"] in far.received)
    alice.page.evaluate("new Promise((done) => setTimeout(done, 100))")  # four times as long as a picture may pause
    expect(alice.page.locator("html[data-first-frame=yes]")).to_have_count(0)
    far.sockets[-1].send(whole.replace("4.sync,4.1000;", ""))
    expect(alice.page.locator("html[data-first-frame=yes]")).to_have_count(1)
    expect(alice.page.locator(".curtain")).to_be_hidden()


def test_picture_fits_the_window_and_clicks_land_where_they_are_meant(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)

    def fits() -> bool:
        room, box = alice.page.locator(".screen").bounding_box(), picture_box(alice)
        return room is not None and box["width"] == pytest.approx(min(room["width"], room["height"] * 2), abs=2)

    until(alice.page, fits)  # a page that has changed since is fitted with its next frame
    box = picture_box(alice)
    assert box["width"] == pytest.approx(box["height"] * 2, rel=0.01)
    alice.page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + box["height"] * 0.5)
    expect(alice.page.locator(".screen")).to_be_focused()
    alice.desktop.settle(alice.page)
    pressed = [mouse for mouse in alice.desktop.got("mouse") if mouse[2] == "1"]
    assert [abs(int(pressed[0][0]) - 250) <= 2, abs(int(pressed[0][1]) - 250) <= 2] == [True, True]
    alice.page.set_viewport_size({"width": 1000, "height": 620})
    until(
        alice.page,
        lambda: alice.page.evaluate("document.querySelector('.join > div').getBoundingClientRect().width < 700"),
    )


def test_keys_go_to_the_machine_only_while_the_desktop_has_the_focus(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    alice.page.locator("[data-part=clipboard]").focus()
    alice.page.keyboard.press("x")
    alice.desktop.settle(alice.page)
    assert alice.desktop.got("key") == []
    alice.page.locator(".screen").focus()
    alice.page.keyboard.press("a")
    alice.page.keyboard.press("Tab")
    alice.desktop.settle(alice.page)
    assert ["97", "1"] in alice.desktop.got("key")
    assert ["65289", "1"] in alice.desktop.got("key")
    expect(alice.page.locator(".screen")).to_be_focused()


def test_ctrl_alt_shift_brings_the_keyboard_back_and_leaves_no_key_down(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    alice.page.locator(".screen").focus()
    for key in ("Control", "Alt", "Shift"):
        alice.page.keyboard.down(key)
    expect(alice.page.locator("[data-part=keys]")).to_be_focused()
    for key in ("Shift", "Alt", "Control"):
        alice.page.keyboard.up(key)
    alice.desktop.settle(alice.page)
    down: set[str] = set()
    for keysym, pressed in alice.desktop.got("key"):
        (down.add if pressed == "1" else down.discard)(keysym)
    assert down == set()


def test_toolbar_is_one_stop_with_arrows_inside(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    first = alice.page.get_by_role("button", name="Ctrl-Alt-Del")
    first.focus()
    alice.page.keyboard.press("ArrowRight")
    expect(alice.page.get_by_role("button", name="Alt-Tab")).to_be_focused()
    alice.page.keyboard.press("End")
    expect(alice.page.get_by_role("button", name="Details")).to_be_focused()
    alice.page.keyboard.press("Tab")
    expect(alice.page.locator(".screen")).to_be_focused()
    expect(alice.page.locator(".tools [tabindex='0']")).to_have_count(1)


def test_buttons_press_what_a_browser_keeps_for_itself(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    alice.page.get_by_role("button", name="Ctrl-Alt-Del").click()
    alice.page.locator("[data-part=keys]").click()
    alice.page.locator("[data-key=f5]").click()
    alice.desktop.settle(alice.page)
    keys = alice.desktop.got("key")
    assert keys[:3] == [["65507", "1"], ["65513", "1"], ["65535", "1"]]
    assert keys[3:6] == [["65535", "0"], ["65513", "0"], ["65507", "0"]]
    assert keys[6:] == [["65474", "1"], ["65474", "0"]]


def test_lost_desktop_is_joined_again_with_a_new_ticket(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    alice.answer("POST", "/attachments/", 201, {"ticket": "ticket-2", "expires_in_s": 30, "role": "controller"})
    alice.desktop.silent = True
    alice.desktop.end("The gateway was too slow.", 513)
    expect(alice.page.locator(".curtain")).to_contain_text("The gateway was too slow.")
    # The last picture stays behind the words.
    expect(alice.page.locator(".join canvas").first).to_be_attached()
    until(alice.page, lambda: ["", "ticket", "ticket-2"] in alice.desktop.received)
    alice.desktop.silent = False
    alice.desktop.end("", 513)
    expect(alice.page.locator("html[data-desktop=connected]")).to_have_count(1)
    expect(alice.page.locator(".join")).to_have_count(1)


def test_ticket_that_came_with_the_page_is_used_once(sign_in: SignIn) -> None:
    session = services.claim(press("A1"), user=person("Alice"))
    session = services.desktop_ready(services.begin_starting(session, now=timezone.now()))
    gateway = Gateway.objects.create(session=session, driver="local")
    GuacamoleConnection.objects.create(session=session, gateway=gateway, hostname="127.64.0.1", port=3389)
    alice = sign_in(person("Alice"))
    alice.live.cards = [selectors.card(session, viewer=person("Alice"))]
    alice.answer("GET", f"/sessions/{session.pk}/", 200, alice.live.cards[0])
    alice.visit(f"/sessions/{session.pk}/")
    expect(alice.page.locator("html[data-first-frame=yes][data-live=live]")).to_have_count(1)
    assert alice.posted("/attachments/") == []
    assert alice.desktop.received[0] == ["", "ticket", alice.state("rescue-state")["ticket"]["ticket"]]
    alice.desktop.sockets[-1].close(code=1001)
    until(alice.page, lambda: ["", "ticket", "ticket-1"] in alice.desktop.received)
    assert alice.posted("/attachments/") == [{"role": "controller"}]


def test_silent_cut_is_joined_again(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    alice.desktop.sockets[-1].close(code=1001)
    until(alice.page, lambda: len(alice.posted("/attachments/")) == 2)
    expect(alice.page.locator("html[data-desktop=connected]")).to_have_count(1)
    assert len(alice.posted("/attachments/")) == 2


def test_lost_gateway_shows_the_steps_and_joins_when_the_card_says_so(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    card = connected(alice, card)
    changes = {
        "state": "starting",
        "state_label": "Gateway starting",
        "desktop": False,
        "notice": "The gateway was lost; a new one is starting.",
    }
    card = tell(alice, card, **changes)
    expect(alice.page.locator(".curtain")).to_contain_text("Bringing the desktop back")
    expect(alice.page.locator(".curtain")).to_contain_text("a new one is starting")
    tickets = len(alice.posted("/attachments/"))
    connected(alice, card, notice="")
    assert len(alice.posted("/attachments/")) == tickets + 1


def test_idle_end_waits_for_the_person(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    alice.desktop.end("Nothing happened here for 30 minutes, so this screen was let go.", 522)
    expect(alice.page.locator(".curtain")).to_contain_text("this screen was let go")
    tell(alice, card, state="ready", desktop=True, may=ALL, version=card["version"] + 5, notice="Told since.")
    expect(alice.page.locator("[data-part=notice]")).to_have_text("Told since.")
    assert len(alice.posted("/attachments/")) == 1
    alice.page.get_by_role("button", name="Join again").click()
    expect(alice.page.locator("html[data-desktop=connected]")).to_have_count(1)
    assert len(alice.posted("/attachments/")) == 2


def test_watcher_sees_but_sends_nothing(sign_in: SignIn) -> None:
    bob, card = at_rescue(sign_in, name="Bob")
    # How good the line is goes by what a message takes there and back: here no time, however busy the computer.
    bob.page.add_init_script("performance.now = () => 1;")
    bob.visit(f"/sessions/{card['id']}/")
    expect(bob.page.locator("html[data-live=live]")).to_have_count(1)
    connected(bob, card, may=["watch"])
    assert bob.posted("/attachments/") == [{"role": "watcher"}]
    box = picture_box(bob)
    bob.page.mouse.click(box["x"] + 20, box["y"] + 20)
    bob.page.keyboard.press("a")
    bob.desktop.settle(bob.page)
    assert bob.desktop.got("mouse") == []
    assert bob.desktop.got("key") == []
    expect(bob.page.get_by_role("button", name="Ctrl-Alt-Del")).to_be_disabled()
    expect(bob.page.locator("[data-part=quality] .word")).to_have_text("Watching, good")
    expect(bob.page.locator("[data-action=close]")).to_have_count(0)


def test_hand_over_makes_a_watcher_of_the_operator(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    card = connected(alice, card)
    bob = person("Bob")
    alice.answer("GET", "/colleagues/", 200, {"results": [{"id": bob.pk, "name": "Bob"}]})
    theirs = copy.deepcopy(card)
    theirs.update(version=card["version"] + 1, operator={"id": bob.pk, "name": "Bob"}, may=["watch"])
    alice.answer("POST", "/handover/", 200, theirs)
    alice.answer("GET", f"/sessions/{card['id']}/", 200, theirs)
    alice.page.locator("[data-action=handover]").click()
    alice.page.get_by_text("Bob", exact=True).click()
    alice.page.locator("[data-action=submit-handover]").click()
    expect(alice.page.locator(".toast")).to_contain_text("Bob has this rescue now")
    expect(alice.page.locator("[data-action=close]")).to_have_count(0)
    assert alice.posted("/handover/") == [{"operator": bob.pk}]
    until(alice.page, lambda: alice.posted("/attachments/")[-1] == {"role": "watcher"})


def test_close_takes_two_taps_and_shows_the_record(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    card = connected(alice, card)
    ended = copy.deepcopy(card)
    ended.update(
        version=card["version"] + 1, state="closing", state_label="Closing", end_reason="resolved", may=[],
        desktop=False, cause="Beans", fix="Sieved them", closing_at=card["requested_at"],
        sentence="Alice closed this rescue as resolved.",
    )  # fmt: skip
    alice.answer("POST", "/close/", 200, ended)
    alice.answer("GET", "/events/", 200, {"results": [{"at": card["requested_at"], "sentence": "Help was pressed."}]})
    alice.page.locator("[data-action=close]").click()
    expect(alice.page.get_by_label("Resolved", exact=True)).to_be_focused()
    alice.page.locator("[data-action=submit-close]").click()
    expect(alice.page.get_by_text("Choose the cause")).to_be_visible()
    assert alice.posted("/close/") == []
    alice.page.get_by_text("Beans", exact=True).click()
    alice.page.locator("[data-field=fix]").get_by_text("Something else").click()
    alice.page.get_by_label("What fixed it?, in your words").fill("Sieved them")
    alice.page.locator("[data-action=submit-close]").click()
    expect(alice.page.locator("[data-summary]")).to_contain_text("Alice closed this rescue as resolved.")
    expect(alice.page.locator("[data-summary]")).to_contain_text("Help was pressed.")
    assert alice.posted("/close/") == [{"outcome": "resolved", "cause": "Beans", "fix": "Sieved them", "note": ""}]
    expect(alice.page.locator("html[data-desktop=closed]")).to_have_count(1)


def test_end_from_elsewhere_is_said_in_one_sentence(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    card = connected(alice, card)
    sentence = "The person at the machine cancelled. Nothing is left open."
    ended = copy.deepcopy(card)
    ended.update(
        version=card["version"] + 1, state="closed", end_reason="cancelled", sentence=sentence, may=[], desktop=False
    )
    alice.answer("GET", f"/sessions/{card['id']}/", 200, ended)
    alice.page.clock.install()
    alice.desktop.end("This rescue has ended.", 523)
    expect(alice.page.locator("[data-summary]")).to_contain_text(sentence)
    alice.page.clock.fast_forward(10_000)  # past the longest pause before a try to join again: it would be made now
    alice.page.evaluate("fetch('/api/v1/causes/').then((answer) => answer.status)")  # and be there before this answer
    assert len(alice.posted("/attachments/")) == 1


def test_text_the_machine_copied_is_offered_here(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in, permissions=["clipboard-read", "clipboard-write"])
    connected(alice, card)
    alice.desktop.send("clipboard", 3, "text/plain")
    alice.desktop.send("blob", 3, base64.b64encode("Fehler 17 · Mühle".encode()).decode())
    alice.desktop.send("end", 3)
    alice.page.locator(".toast").get_by_text("Copy it here").click()
    until(
        alice.page,
        lambda: alice.page.evaluate("navigator.clipboard.readText().then((text) => text === 'Fehler 17 · Mühle')"),
    )
    alice.page.locator("[data-part=clipboard]").click()
    expect(alice.page.get_by_label("From the machine", exact=True)).to_have_value("Fehler 17 · Mühle")


def test_text_goes_to_the_machine_by_clipboard_or_as_keys(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card)
    alice.page.locator("[data-part=clipboard]").click()
    alice.page.get_by_label("To the machine", exact=True).fill("aé€")
    alice.page.locator("[data-action=send-clipboard]").click()
    alice.page.locator("[data-action=type-text]").click()
    alice.desktop.settle(alice.page)
    assert [mime for _, mime in alice.desktop.got("clipboard")] == ["text/plain"]
    blob = "".join(data for _, data in alice.desktop.got("blob"))
    assert base64.b64decode(blob).decode() == "aé€"
    assert [keysym for keysym, pressed in alice.desktop.got("key") if pressed == "1"] == ["97", "233", str(0x010020AC)]


def test_where_pasting_is_not_allowed_only_typing_is_offered_and_why(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in)
    connected(alice, card, clipboard={"copy": False, "paste": False})
    alice.page.locator("[data-part=clipboard]").click()
    dialog = alice.page.locator("dialog")
    expect(dialog).to_contain_text("its connection profile does not allow pasting")
    expect(dialog).to_contain_text("its connection profile does not allow copying")
    expect(alice.page.locator("[data-action=send-clipboard]")).to_have_count(0)
    alice.page.get_by_label("To the machine", exact=True).fill("a")
    alice.page.locator("[data-action=type-text]").click()
    alice.desktop.settle(alice.page)
    assert alice.desktop.got("clipboard") == []
    assert ["97", "1"] in alice.desktop.got("key")


def test_lost_claim_says_who_was_first(sign_in: SignIn) -> None:
    bob, _ = at_rescue(sign_in, name="Bob", claim=False)
    lost = {"status": 409, "code": "already_claimed", "detail": "Alice claimed it at 10:00."}
    bob.answer("POST", "/claim/", 409, lost)
    bob.page.locator("[data-action=claim]").click()
    expect(bob.page.locator("[data-part=refusal]")).to_have_text("Alice claimed it at 10:00.")


def test_supervisor_takes_over_or_ends_by_force(sign_in: SignIn) -> None:
    supervisor = person("Sue", role="supervisor")
    sue, card = at_rescue(sign_in, name="Sue")
    card = connected(sue, card, may=["watch", "take_over", "close"])
    mine = copy.deepcopy(card)
    mine.update(version=card["version"] + 1, operator={"id": supervisor.pk, "name": "Sue"}, may=ALL)
    sue.answer("POST", "/handover/", 200, mine)
    sue.answer("POST", "/close/", 409, {"status": 409, "code": "session_closed", "detail": "Closed by Alice at 10:00."})
    sue.page.locator("[data-action=force]").click()
    sue.page.get_by_label("Why? The operator reads it, and the record keeps it.").fill("Wrong machine")
    sue.page.locator("[data-action=submit-close]").click()
    expect(sue.page.locator("dialog")).to_contain_text("Closed by Alice at 10:00.")
    assert sue.posted("/close/") == [{"outcome": "forced", "cause": "", "fix": "", "note": "Wrong machine"}]
    sue.page.keyboard.press("Escape")
    expect(sue.page.locator("dialog")).to_have_count(0)
    sue.page.locator("[data-action=take-over]").click()
    sue.page.locator("[data-action=confirm-take-over]").click()
    expect(sue.page.locator("[data-action=close]")).to_be_visible()
    assert sue.posted("/handover/") == [{"operator": supervisor.pk}]


def test_leaving_is_guarded_only_while_the_rescue_is_mine(sign_in: SignIn) -> None:
    ask = """() => {
        const event = new Event('beforeunload', { cancelable: true });
        dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    alice, card = at_rescue(sign_in)
    card = connected(alice, card)
    assert alice.page.evaluate(ask) is True
    tell(alice, card, operator=None, may=["claim", "watch"])
    expect(alice.page.locator("[data-action=claim]")).to_be_visible()
    assert alice.page.evaluate(ask) is False


def test_phone_taps_and_types(sign_in: SignIn) -> None:
    alice, card = at_rescue(sign_in, viewport=PHONE)
    connected(alice, card)
    box = picture_box(alice)
    alice.page.touchscreen.tap(box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5)
    until(alice.page, lambda: any(mouse[2] == "1" for mouse in alice.desktop.got("mouse")))
    pressed = [mouse for mouse in alice.desktop.got("mouse") if mouse[2] == "1"]
    assert abs(int(pressed[0][0]) - 500) <= 4
    alice.page.locator("[data-part=keyboard]").click()
    expect(alice.page.locator(".sink")).to_be_focused()
    alice.page.keyboard.insert_text("ok")  # as a phone's keyboard does: input events, no keys
    alice.desktop.settle(alice.page)
    assert [keysym for keysym, down in alice.desktop.got("key") if down == "1"] == ["111", "107"]
