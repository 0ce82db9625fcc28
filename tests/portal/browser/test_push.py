"""Messages on real browsers: asked for with the page's own button, shown and claimed by the service worker."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone
from playwright.sync_api import APIResponse, Route, ViewportSize, expect, sync_playwright
from pytest_django.fixtures import Settings

from machines.models import User
from notifications import subscriptions
from notifications.channels.base import Parcel
from notifications.channels.web_push import payload_of
from notifications.models import Delivery, PushDevice
from sessions import services
from sessions.models import SupportSession
from tests.portal import devices
from tests.portal.browser.conftest import let_in, until
from tests.portal.browser.phones import SERVICE, Phone, front_door, switch_on
from tests.portal.devices import VAPID_PRIVATE_KEY
from tests.sessions.rescues import person, press

pytestmark = [pytest.mark.django_db(transaction=True)]

SMALL: ViewportSize = {"width": 360, "height": 780}
Phones = Callable[[User], Phone]


@pytest.fixture(autouse=True)
def _push(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, live_server: Any) -> Iterator[dict[str, Phone]]:
    """Alice's phone and Bob's, switched on once for all tests."""
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright, front_door() as flags:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        phones: dict[str, Phone] = {}
        for name in ("alice", "bob"):
            folder: Path = tmp_path_factory.mktemp(name)
            context = switch_on(playwright, folder, live_server.url, flags=flags, viewport=SMALL)
            phones[name] = Phone(context, live_server.url)
        yield phones
        for phone in phones.values():
            phone.context.close()


@pytest.fixture
def phone_of(both: dict[str, Phone]) -> Iterator[Phones]:
    """A person's phone, signed in, as good as new."""

    def make(user: User) -> Phone:
        phone = both[user.username]
        let_in(phone.context, user, phone.address)
        return phone

    yield make
    for phone in both.values():
        phone.context.set_offline(False)
        if phone.page.url.startswith(phone.address):
            # Its page asks nothing of the server: one of ours goes to the sign-in as soon as its cookies are gone.
            phone.visit("/offline/")
            phone.page.evaluate(
                """async () => {
                    const registration = await navigator.serviceWorker.getRegistration();
                    for (const shown of await registration?.getNotifications() ?? []) shown.close();
                    await (await registration?.pushManager.getSubscription())?.unsubscribe();
                    await caches.delete("device");
                }"""
            )
        phone.context.clear_cookies()
        for page in phone.context.pages[1:]:
            page.close()
        assert phone.complaints == []


def asked(session: SupportSession, **changes: Any) -> str:
    """What the server pushes when it asks somebody."""
    now = timezone.now()
    parcel = Parcel(
        id=uuid4(),
        kind="asked",
        title="Help at Stazione Centrale",
        body="A1, Milano · E17 Grinder jammed",
        url=f"/sessions/{session.pk}/",
        tag=f"rescue-{session.pk.hex}",
        expires_at=now + timedelta(hours=1),
        created_at=now,
        subject=str(session.pk),
        actions=("claim", "open"),
    )
    return payload_of(replace(parcel, **changes)).decode()


def says(phone: Phone, title: str) -> dict[str, Any]:
    """Returns the one notification when it says this."""
    until(phone.page, lambda: phone.told()[-1:] == [title])
    (shown,) = phone.shown()
    assert shown["title"] == title
    return shown


def ready(phone: Phone) -> Phone:
    """A phone with the worker there, at the page of its devices."""
    phone.visit("/account/devices/")
    phone.has_worker()
    return phone


def subscribe(phone: Phone) -> PushDevice:
    ready(phone)
    phone.page.get_by_role("button", name="Get messages on this device").click()
    expect(phone.page.locator("[data-here]")).to_contain_text("This device gets your messages")
    return PushDevice.objects.latest("pk")


def claimant(session: SupportSession) -> User | None:
    return SupportSession.objects.get(pk=session.pk).operator


def test_page_s_own_button_subscribes_this_browser_and_tries_it(phone_of: Phones) -> None:
    alice = phone_of(person("Alice"))
    device = subscribe(alice)
    assert (device.user.username, device.name) == ("alice", "Chrome on Linux")
    assert device.subscription.endpoint.startswith(SERVICE)
    row = alice.page.locator("[data-devices] li")
    expect(row).to_contain_text("this one")
    row.get_by_role("button", name="Send me one").click()
    expect(alice.page.locator(".toast")).to_contain_text("on its way")
    (delivery,) = Delivery.objects.all()
    assert (delivery.kind, delivery.device_id) == ("test", device.pk)
    alice.push(json.dumps({"v": 1, "kind": "test", "title": delivery.title, "tag": "test", "at": "2026-01-01T00:00Z"}))
    expect(alice.page.locator(".toast")).to_contain_text("It has arrived on this device")
    says(alice, delivery.title)


def test_list_that_was_asked_for_before_is_not_shown_over_a_newer_one(phone_of: Phones) -> None:
    alice = phone_of(person("Alice"))
    held: list[tuple[Route, APIResponse]] = []

    def hold_the_first(route: Route) -> None:
        if held or route.request.method != "GET":
            route.continue_()
        else:
            held.append((route, route.fetch()))

    alice.page.route("**/api/v1/devices/", hold_the_first)
    alice.visit("/account/devices/")
    until(alice.page, lambda: held)
    alice.page.get_by_role("button", name="Get messages on this device").click()
    expect(alice.page.locator("[data-devices] li")).to_have_count(1)
    ((route, response),) = held
    assert response.json()["results"] == []
    route.fulfill(response=response)
    alice.page.evaluate("fetch('/api/v1/me/').then((answer) => answer.text())")
    expect(alice.page.locator("[data-devices] li")).to_have_count(1)
    alice.page.unroute("**/api/v1/devices/")


def test_devices_are_named_and_removed_by_keyboard_alone(phone_of: Phones) -> None:
    alice = phone_of(person("Alice"))
    other = devices.subscribe(person("Alice"), name="Firefox on Linux")
    subscribe(alice)
    page, keyboard = alice.page, alice.page.keyboard
    expect(page.get_by_role("button", name="Send me one").last).to_be_focused()
    keyboard.press("Tab")
    keyboard.press("Enter")
    expect(page.get_by_label("Name")).to_be_focused()
    keyboard.press("Control+a")
    keyboard.type("  ")
    keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("1 to 60 characters")
    keyboard.type("My phone")
    keyboard.press("Enter")
    expect(page.get_by_role("heading", name="My phone")).to_be_visible()
    expect(page.locator("dialog")).to_have_count(0)
    page.locator(f'[data-id="{other.pk}"] [data-action=remove]').press("Enter")
    expect(page.get_by_role("dialog", name="Remove Firefox on Linux?")).to_be_visible()
    keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)  # shut is one thing, gone from the page another: a frame later
    page.locator(f'[data-id="{other.pk}"] [data-action=remove]').press("Enter")
    page.locator("[data-action=really-remove]").press("Enter")
    expect(page.locator("[data-devices] li")).to_have_count(1)
    assert [one.name for one in PushDevice.objects.all()] == ["My phone"]


def test_devices_fit_a_small_phone(phone_of: Phones) -> None:
    device = devices.subscribe(person("Alice"), name="Averylongnamewithoutanyspaces" * 2)
    PushDevice.objects.filter(pk=device.pk).update(last_problem="The push service is out of reach." * 4)
    alice = phone_of(person("Alice"))
    subscribe(alice)
    assert alice.page.evaluate(
        """[...document.querySelectorAll("main *")].filter((node) => node.checkVisibility() && (
            node.getBoundingClientRect().right > innerWidth - 16
            || (node.matches("a, button") && node.getBoundingClientRect().height < 43.5)
        )).map((node) => node.outerHTML.slice(0, 80))"""
    ) == []  # fmt: skip


def test_claim_on_the_notification_claims_and_the_second_phone_reads_who(phone_of: Phones) -> None:
    session = press("A1")
    alice, bob = ready(phone_of(person("Alice"))), ready(phone_of(person("Bob")))
    for phone in (alice, bob):
        phone.push(asked(session))
        shown = says(phone, "Help at Stazione Centrale")
        assert (shown["actions"], shown["silent"]) == (["Claim", "Open"], False)
    alice.press("claim", times=2)
    assert says(alice, "You have it. Tap to open.")["actions"] == []
    assert claimant(session) == person("Alice")
    assert alice.called("/claim/") == 1
    bob.press("claim")
    assert "Help at Stazione Centrale" in says(bob, "Alice has it.")["body"]
    assert claimant(session) == person("Alice")


@pytest.mark.parametrize(("place", "action", "expected"), [("/machines/", "open", "opens"), ("", "", "focuses")])
def test_open_opens_the_rescue_or_goes_to_its_tab(phone_of: Phones, place: str, action: str, expected: str) -> None:
    session = press("A1")
    alice = ready(phone_of(person("Alice")))
    alice.watch_windows()
    rescue = f"/sessions/{session.pk}/"
    alice.visit(place or rescue)
    alice.push(asked(session))
    says(alice, "Help at Stazione Centrale")
    alice.press(action)
    until(alice.page, lambda: alice.windows == [f"{expected} {rescue}"])
    until(alice.page, lambda: alice.shown() == [])


def test_replacement_is_silent_has_nothing_to_press_and_goes_by_itself(phone_of: Phones) -> None:
    session = press("A1")
    alice = ready(phone_of(person("Alice")))
    # Its time is up when the test has seen it.
    alice.worker.evaluate(
        """() => {
            const real = setTimeout;
            const up = new Promise((isUp) => { self.letTimePass = isUp; });
            self.setTimeout = (what, ms) => up.then(() => { self.passed = ms; self.setTimeout = real; what(); });
        }"""
    )
    alice.push(asked(session))
    says(alice, "Help at Stazione Centrale")
    alice.push(asked(session, kind="taken", title="Bob has it.", is_silent=True))
    shown = says(alice, "Bob has it.")
    assert (shown["actions"], shown["silent"], shown["renotify"]) == ([], True, False)
    alice.worker.evaluate("() => letTimePass()")
    until(alice.page, lambda: alice.shown() == [])
    assert alice.worker.evaluate("() => passed") == 6000


def test_claim_without_a_network_can_be_tried_again(phone_of: Phones) -> None:
    session = press("A1")
    alice = ready(phone_of(person("Alice")))
    alice.push(asked(session))
    says(alice, "Help at Stazione Centrale")
    alice.context.set_offline(True)
    alice.press("claim")
    assert says(alice, "No connection. Tap to try again.")["actions"] == ["Claim", "Open"]
    assert claimant(session) is None
    alice.context.set_offline(False)
    alice.press("")
    says(alice, "You have it. Tap to open.")
    assert claimant(session) == person("Alice")


def test_claim_says_what_else_is_in_its_way(phone_of: Phones) -> None:
    session, foreign = press("A1"), press("B1", of="South")
    alice = ready(phone_of(person("Alice")))
    services.cancel(session)
    alice.push(asked(session))
    says(alice, "Help at Stazione Centrale")
    alice.push(asked(session, tag="elsewhere", subject=str(foreign.pk), title="Help in the South"))
    until(alice.page, lambda: alice.told() == ["Help in the South"])
    alice.worker.evaluate(
        """async () => {
            for (const notification of await registration.getNotifications()) {
                dispatchEvent(new NotificationEvent("notificationclick", { notification, action: "claim" }));
            }
        }"""
    )
    until(alice.page, lambda: {*alice.told()[-2:]} == {"It is over.", "It is no longer in your fleets."})
    assert claimant(foreign) is None


def test_claim_of_one_who_is_signed_out_asks_for_the_sign_in(phone_of: Phones) -> None:
    session = press("A1")
    alice = ready(phone_of(person("Alice")))
    alice.push(asked(session))
    says(alice, "Help at Stazione Centrale")
    alice.context.clear_cookies()
    alice.press("claim")
    assert says(alice, "Sign in to claim it.")["actions"] == []
    alice.watch_windows()
    alice.press("")
    until(alice.page, lambda: alice.windows == [f"opens /sessions/{session.pk}/"])  # by way of the sign-in page


@pytest.mark.parametrize("text", ["", "no JSON"])
def test_push_that_cannot_be_read_still_shows_something(phone_of: Phones, text: str) -> None:
    alice = ready(phone_of(person("Alice")))
    alice.push(text)
    assert "Open the queue" in says(alice, "Portafilter")["body"]


def test_signing_out_ends_the_messages_in_this_browser(phone_of: Phones) -> None:
    alice = phone_of(person("Alice"))
    subscribe(alice)
    alice.push(asked(press("A1")))
    says(alice, "Help at Stazione Centrale")
    # It waits for a push service only so long; a busy computer may take longer than that for all of ours.
    alice.page.evaluate("() => { const real = setTimeout; window.setTimeout = (what, ms) => real(what, ms * 20); }")
    alice.page.locator("details.who summary").click()
    alice.page.get_by_role("button", name="Sign out").click()
    alice.page.wait_for_url(re.compile("/accounts/login/"))
    assert not PushDevice.objects.exists()
    until(alice.page, lambda: alice.shown() == [])
    left = alice.page.evaluate(
        "navigator.serviceWorker.ready.then((one) => one.pushManager.getSubscription()).then((found) => found !== null)"
    )
    assert left is False


def test_next_person_in_this_browser_gets_messages_only_when_they_ask(phone_of: Phones) -> None:
    alice = phone_of(person("Alice"))
    device = subscribe(alice)
    let_in(alice.context, person("Bob"), alice.address)
    alice.visit("/account/devices/")
    expect(alice.page.locator("[data-here]")).to_contain_text("Somebody else gets messages in this browser")
    expect(alice.page.locator("[data-none]")).to_be_visible()
    device.refresh_from_db()
    assert device.user.username == "alice"
    alice.page.get_by_role("button", name="Get mine instead").click()
    expect(alice.page.locator("[data-here]")).to_contain_text("This device gets your messages")
    assert [one.user.username for one in PushDevice.objects.all()] == ["bob"]


@pytest.mark.parametrize("how", ["removed", "given up"])
def test_device_that_was_removed_or_given_up_asks_anew(phone_of: Phones, how: str) -> None:
    alice = phone_of(person("Alice"))
    device = subscribe(alice)
    if how == "removed":
        subscriptions.remove(device.user, device.pk)
    else:
        PushDevice.objects.update(disabled_at=timezone.now(), last_problem="The push service no longer knows it.")
    alice.page.reload()
    button = "Get messages on this device" if how == "removed" else "Get messages again"
    alice.page.get_by_role("button", name=button).click()
    expect(alice.page.locator("[data-here]")).to_contain_text("This device gets your messages")
    until(alice.page, lambda: PushDevice.objects.count() == 1)  # the old one goes after the new one has come
    renewed = PushDevice.objects.get()
    assert renewed.endpoint_sha256 != device.endpoint_sha256
    assert (renewed.name, renewed.disabled_at) == (device.name, None)


def test_lost_subscription_is_renewed_for_its_own_person_and_nobody_else(phone_of: Phones) -> None:
    alice = phone_of(person("Alice"))
    before = subscribe(alice)
    take_away = """navigator.serviceWorker.ready.then((one) => one.pushManager.getSubscription())
        .then((found) => found.unsubscribe())"""
    alice.page.evaluate(take_away)
    alice.page.reload()  # the page asks the worker for a look
    until(alice.page, lambda: PushDevice.objects.exclude(endpoint_sha256=before.endpoint_sha256).count() == 1)
    until(alice.page, lambda: PushDevice.objects.count() == 1)
    assert PushDevice.objects.get().name == before.name
    alice.page.evaluate(take_away)
    let_in(alice.context, person("Bob"), alice.address)
    with alice.page.expect_request("**/api/v1/devices/"):
        alice.page.reload()
    alice.worker.evaluate(
        """async () => {
            let work = null;
            const waitUntil = (given) => { work = given; };
            dispatchEvent(Object.assign(new Event("pushsubscriptionchange"), { waitUntil }));
            await work;
        }"""
    )
    expect(alice.page.locator("[data-here]")).to_contain_text("Not on this device yet")
    assert [one.user.username for one in PushDevice.objects.all()] == ["alice"]


def test_page_without_a_network_is_ours_and_all_that_is_kept(phone_of: Phones) -> None:
    session = press("A1")
    alice = ready(phone_of(person("Alice")))
    alice.visit(f"/sessions/{session.pk}/")
    alice.visit("/")
    alice.context.set_offline(True)
    alice.visit("/machines/")
    expect(alice.page.get_by_role("heading")).to_have_text("Portafilter cannot be reached from here")
    width = alice.page.evaluate("getComputedStyle(document.querySelector('.button')).minHeight")
    assert width == "44px"  # its style sheet came along
    alice.context.set_offline(False)
    alice.page.get_by_role("link", name="Try again").click()
    expect(alice.page.get_by_role("heading", level=1)).to_have_text("Machines")
    kept = alice.page.evaluate(
        """async () => {
            const found = [];
            for (const name of await caches.keys()) {
                for (const { url } of await (await caches.open(name)).keys()) found.push(new URL(url).pathname);
            }
            return found;
        }"""
    )
    assert sorted(kept) == ["/offline/", "/static/offline.css", "/static/offline.js"]
