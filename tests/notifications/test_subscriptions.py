"""Browsers are their owners' alone: nobody else takes, reads, tries or removes them (T17)."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines.models import User
from notifications import outbox, subscriptions
from notifications.errors import NoWebPush, SubscriptionRefused, SubscriptionTaken, TooManyDevices
from notifications.models import Delivery, PushDevice
from tests.fakes.push_service import encode
from tests.notifications.posting import VAPID_PRIVATE_KEY, VAPID_PUBLIC_KEY, post
from tests.sessions.clients import client_of, manager_of_north
from tests.sessions.rescues import fleet, person

pytestmark = pytest.mark.django_db

ENDPOINT = "https://fcm.googleapis.com/fcm/send/alices"
SubscriptionInfo = apps.get_model("webpush", "SubscriptionInfo")


@pytest.fixture(autouse=True)
def _has_web_push(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY


def keys() -> dict[str, str]:
    """A browser's: any point of the curve does."""
    return {"p256dh": VAPID_PUBLIC_KEY, "auth": encode(secrets.token_bytes(16))}


def subscribe(user: User, endpoint: str = ENDPOINT, name: str = "phone", **about: Any) -> PushDevice:
    return subscriptions.subscribe(
        user, **{"endpoint": endpoint, **keys(), "browser": "Firefox", "user_agent": "Tests", "name": name, **about}
    )


def test_browser_subscribes_once_however_often_it_says_so() -> None:
    alice = person("Alice")
    same = keys()
    first = subscribe(alice, **same)
    again = subscribe(alice, name="my phone", **same)
    assert again.pk == first.pk
    assert [device.name for device in subscriptions.devices_of(alice)] == ["my phone"]
    assert SubscriptionInfo.objects.count() == 1


def test_own_browser_with_new_keys_is_still_the_same_device() -> None:
    alice = person("Alice")
    subscribe(alice)
    new = keys()
    PushDevice.objects.update(failures=5, disabled_at=timezone.now(), last_problem="Switched off")
    device = subscribe(alice, **new)
    assert SubscriptionInfo.objects.get().auth == new["auth"]
    device.refresh_from_db()
    assert (device.failures, device.disabled_at, device.last_problem) == (0, None, "")


def test_somebody_elses_subscription_is_not_taken_with_its_address_alone() -> None:
    alice, charlie = person("Alice"), person("Charlie", of="South")
    device = subscribe(alice)
    before = SubscriptionInfo.objects.values().get()
    with pytest.raises(SubscriptionTaken, match="somebody else"):
        subscribe(charlie)
    half = {"p256dh": before["p256dh"], "auth": encode(secrets.token_bytes(16))}
    with pytest.raises(SubscriptionTaken):
        subscribe(charlie, **half)
    assert SubscriptionInfo.objects.values().get() == before
    assert PushDevice.objects.get(pk=device.pk).user == alice


def test_browser_that_changed_hands_is_its_new_users_alone() -> None:
    alice, bob = person("Alice"), person("Bob")
    same = keys()
    device = subscribe(alice, **same)
    (for_alice,) = post(alice)
    subscribe(bob, name="counter", **same)
    device.refresh_from_db()
    assert (device.user, device.name) == (bob, "counter")
    assert not subscriptions.devices_of(alice).exists()
    for_alice.refresh_from_db()
    assert for_alice.state == "withdrawn"


def test_nobody_reads_names_tries_or_removes_what_is_somebody_elses() -> None:
    alice, charlie = person("Alice"), person("Charlie", of="South")
    device = subscribe(alice)
    assert list(subscriptions.devices_of(charlie)) == []
    for act in (
        lambda: subscriptions.rename(charlie, device.pk, "mine"),
        lambda: subscriptions.remove(charlie, device.pk),
        lambda: subscriptions.send_test(charlie, device.pk),
    ):
        with pytest.raises(PushDevice.DoesNotExist):
            act()
    assert subscriptions.remove_endpoint(charlie, ENDPOINT) is False
    assert PushDevice.objects.get().name == "phone"
    assert not Delivery.objects.exists()


def test_removed_device_leaves_no_subscription_behind() -> None:
    alice = person("Alice")
    subscriptions.remove(alice, subscribe(alice).pk)
    assert not SubscriptionInfo.objects.exists() and not PushDevice.objects.exists()
    subscribe(alice)
    assert subscriptions.remove_endpoint(alice, ENDPOINT) is True
    assert not SubscriptionInfo.objects.exists() and not PushDevice.objects.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint": "http://169.254.169.254/latest/"},
        {"endpoint": "https://localhost/x"},
        {"p256dh": ""},
        {"p256dh": "BA" + "A" * 85},
        {"p256dh": VAPID_PUBLIC_KEY + "\n"},
        {"p256dh": "A" * 5000},
        {"auth": ""},
        {"auth": "AAAA"},
        {"auth": "é" * 22},
    ],
    ids=lambda wrong: next(iter(wrong)),  # a key is another one in each process
)
def test_subscription_that_cannot_work_is_refused_in_words(wrong: dict[str, str]) -> None:
    with pytest.raises(SubscriptionRefused) as refused:
        subscribe(person("Alice"), **wrong)
    assert str(refused.value).endswith(".")
    assert not SubscriptionInfo.objects.exists()


def test_twenty_devices_are_enough() -> None:
    alice, bob = person("Alice"), person("Bob")
    of_bob = keys()
    subscribe(bob, "https://fcm.googleapis.com/bobs", **of_bob)
    for number in range(20):
        subscribe(alice, f"https://fcm.googleapis.com/{number}")
    for endpoint, about in (("https://fcm.googleapis.com/more", {}), ("https://fcm.googleapis.com/bobs", of_bob)):
        with pytest.raises(TooManyDevices, match="20 devices"):
            subscribe(alice, endpoint, **about)
    subscribe(alice, "https://fcm.googleapis.com/7", name="still mine")


def test_device_that_is_gone_stays_until_it_is_renewed_and_takes_nobodys_room() -> None:
    alice = person("Alice")
    for number in range(20):
        subscribe(alice, f"https://fcm.googleapis.com/{number}", name=f"phone {number % 18}")
    PushDevice.objects.filter(name__in=["phone 0", "phone 5"]).update(
        disabled_at=timezone.now(), last_problem=subscriptions.GONE
    )
    subscriptions.remove(alice, PushDevice.objects.filter(name="phone 9").get().pk)
    subscribe(alice, "https://fcm.googleapis.com/anew", name="phone 5")
    assert PushDevice.objects.get(name="phone 5").disabled_at is None, "it is told of once, and renewed"
    assert PushDevice.objects.filter(name="phone 0").count() == 2, "the others stay"
    subscribe(alice, "https://fcm.googleapis.com/one", name="one more")
    subscribe(alice, "https://fcm.googleapis.com/two", name="two more")
    assert not PushDevice.objects.filter(name="phone 0").exists()


def test_long_or_strange_names_are_made_to_fit() -> None:
    alice = person("Alice")
    device = subscribe(alice, name="my\r\n <b>phone</b> " + "x" * 100, user_agent="u" * 900, browser="b" * 300)
    assert device.name.startswith("my <b>phone</b>") and len(device.name) <= 60
    assert subscriptions.rename(alice, device.pk, " desk ").name == "desk"
    with pytest.raises(SubscriptionRefused, match="needs a name"):
        subscriptions.rename(alice, device.pk, " \n ")


def test_test_message_goes_to_that_device_alone_and_once_for_hasty_fingers() -> None:
    alice = person("Alice")
    phone, now = subscribe(alice), timezone.now().replace(second=0, microsecond=0)
    subscribe(alice, "https://fcm.googleapis.com/desk", name="desk")
    first, second = (subscriptions.send_test(alice, phone.pk, now=now + timedelta(seconds=at)) for at in (0, 1))
    assert first.pk == second.pk and first.device == phone and first.kind == "test"
    assert subscriptions.send_test(alice, phone.pk, now=now + timedelta(seconds=10)).pk != first.pk
    assert Delivery.objects.filter(device__name="desk").count() == 0
    PushDevice.objects.update(disabled_at=now, last_problem="Switched off.")
    with pytest.raises(SubscriptionRefused, match="Switched off"):
        subscriptions.send_test(alice, phone.pk)


def test_without_a_key_there_is_no_web_push(settings: Settings) -> None:
    alice = person("Alice")
    assert subscriptions.vapid_public_key() == VAPID_PUBLIC_KEY
    subscribe(alice)
    settings.VAPID_PRIVATE_KEY = ""
    assert subscriptions.vapid_public_key() == ""
    assert post(alice) == []
    with pytest.raises(NoWebPush):
        subscribe(alice)


def test_page_of_django_webpush_that_sends_to_any_address_is_off_the_admin() -> None:
    assert not [model for model in admin.site._registry if model._meta.app_label == "webpush"]


def test_message_to_one_device_needs_no_more_than_its_row() -> None:
    alice = person("Alice")
    subscribe(alice)
    (row,) = post(alice)
    assert outbox.standing(row.subject) == {alice.pk: "trying"}  # type: ignore[arg-type]


def test_manager_sees_the_devices_and_messages_of_the_own_fleet_alone() -> None:
    alice, charlie = person("Alice"), person("Charlie", of="South")
    for user, owner in ((alice, "North"), (charlie, "South")):
        subscribe(user, f"https://fcm.googleapis.com/{owner}", name=f"{owner}'s phone")
        post(user, fleet=fleet(owner), title=f"Help in the {owner}")
    client = client_of(manager_of_north())
    for model, own, others in (
        (PushDevice, "North&#x27;s phone", "South&#x27;s phone"),
        (Delivery, "Help in the North", "Help in the South"),
    ):
        listing = reverse(f"admin:notifications_{model._meta.model_name}_changelist")
        page = client.get(listing).content.decode()
        assert own in page and others not in page
        of_charlie = model._default_manager.get(**{"user" if model is PushDevice else "recipient": charlie})
        assert client.get(f"{listing}{of_charlie.pk}/change/").status_code == 302, "there is no such row for her"
