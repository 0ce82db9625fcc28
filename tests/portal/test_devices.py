"""One's own devices over REST, and the files that make the pages an app."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from pytest_django.fixtures import Settings

from notifications import subscriptions
from notifications.models import Delivery, PushDevice
from tests.portal.devices import VAPID_PRIVATE_KEY, subscribe, subscription
from tests.sessions.clients import client_of
from tests.sessions.rescues import person

pytestmark = pytest.mark.django_db

DEVICES = "/api/v1/devices/"


@pytest.fixture(autouse=True)
def _push(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY
    cache.clear()


def send(client: Client, method: str, path: str, body: object = None, **headers: str) -> Any:
    return client.generic(method, path, json.dumps(body or {}), content_type="application/json", headers=headers)


def test_browser_is_added_listed_named_and_removed_by_its_owner() -> None:
    alice = client_of(person("Alice"))
    given = subscription()
    added = send(alice, "POST", DEVICES, given)
    assert added.status_code == 201
    device = added.json()
    assert (device["name"], device["last_sent_at"], device["disabled_at"]) == ("Chrome on Android", None, None)
    assert alice.get(DEVICES).json() == {"results": [device]}
    renamed = send(alice, "PATCH", f"{DEVICES}{device['id']}/", {"name": "My phone"})
    assert renamed.json() == {**device, "name": "My phone"}
    assert send(alice, "DELETE", f"{DEVICES}{device['id']}/").status_code == 204
    assert alice.get(DEVICES).json() == {"results": []}


def test_list_says_nothing_that_could_be_sent_to() -> None:
    subscribe(person("Alice"))
    text = client_of(person("Alice")).get(DEVICES).content.decode()
    page = client_of(person("Alice")).get("/account/devices/").content.decode()
    assert "fcm.googleapis.com" not in text and "fcm.googleapis.com" not in page


@pytest.mark.parametrize("who", [("Bob", "North"), ("Charlie", "South")])
def test_anothers_device_does_not_exist(who: tuple[str, str]) -> None:
    device = subscribe(person("Alice"))
    other = client_of(person(who[0], of=who[1]))
    path = f"{DEVICES}{device.pk}/"
    for method, address in (("PATCH", path), ("DELETE", path), ("POST", f"{path}test/")):
        body = {"name": "Mine now"} if method == "PATCH" else {}
        assert send(other, method, address, body).status_code == 404
    assert other.get(DEVICES).json() == {"results": []}
    device.refresh_from_db()
    assert (device.name, device.user.username) == ("Chrome on Android", "alice")
    assert not Delivery.objects.exists()


def test_anothers_subscription_without_its_keys_is_refused_in_words() -> None:
    given = subscription()
    subscribe(person("Alice"), **given)
    answer = send(client_of(person("Bob")), "POST", DEVICES, {**subscription(), "endpoint": given["endpoint"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "subscription_taken")
    assert PushDevice.objects.get().user.username == "alice"


@pytest.mark.parametrize(
    "endpoint", ["http://169.254.169.254/latest/", "https://localhost/x", "https://evil.example/push"]
)
def test_address_that_is_no_push_service_is_refused(endpoint: str) -> None:
    answer = send(client_of(person("Alice")), "POST", DEVICES, {**subscription(), "endpoint": endpoint})
    assert (answer.status_code, answer.json()["code"]) == (400, "subscription_refused")
    assert not PushDevice.objects.exists()


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, "a\nb", 7, None])
def test_name_that_cannot_be_read_is_refused(name: object) -> None:
    device = subscribe(person("Alice"))
    answer = send(client_of(person("Alice")), "PATCH", f"{DEVICES}{device.pk}/", {"name": name})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


def test_tests_are_sent_but_not_without_end() -> None:
    device = subscribe(person("Alice"))
    alice = client_of(person("Alice"))
    answers = [send(alice, "POST", f"{DEVICES}{device.pk}/test/").status_code for _ in range(11)]
    assert answers == [202] * 10 + [429]
    assert Delivery.objects.filter(kind="test", device=device).exists()


def test_device_that_was_given_up_is_not_tried_again() -> None:
    device = subscribe(person("Alice"))
    type(device).objects.update(disabled_at=device.created_at, last_problem="The push service no longer knows it.")
    answer = send(client_of(person("Alice")), "POST", f"{DEVICES}{device.pk}/test/")
    assert (answer.status_code, answer.json()["code"]) == (409, "device_disabled")


def test_worker_gets_a_token_that_its_calls_are_taken_with() -> None:
    alice = client_of(person("Alice"), enforce_csrf_checks=True)
    device = subscribe(person("Alice"))
    me = alice.get("/api/v1/me/").json()
    assert me["vapid_public_key"] == subscriptions.vapid_public_key()
    path = f"{DEVICES}{device.pk}/"
    assert send(alice, "DELETE", path).json()["code"] == "csrf_failed"
    assert send(alice, "DELETE", path, **{"X-CSRFToken": me["csrf_token"]}).status_code == 204


def test_installation_without_a_key_says_so(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = ""
    alice = client_of(person("Alice"))
    assert alice.get("/api/v1/me/").json()["vapid_public_key"] == ""
    answer = send(alice, "POST", DEVICES, subscription())
    assert (answer.status_code, answer.json()["code"]) == (409, "no_web_push")


def test_worker_rules_over_the_root_is_never_kept_and_may_load_nothing() -> None:
    answer = Client().get("/sw.js")
    assert answer.status_code == 200
    assert (answer["Content-Type"], answer["Cache-Control"]) == ("text/javascript; charset=utf-8", "no-cache")
    policy = answer["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "script-src" not in policy


def test_app_can_be_installed() -> None:
    answer = Client().get("/manifest.webmanifest")
    assert answer["Content-Type"] == "application/manifest+json"
    manifest = answer.json()
    assert (manifest["display"], manifest["start_url"], manifest["id"]) == ("standalone", "/", "/")
    purposes = {(icon["sizes"], icon["purpose"]) for icon in manifest["icons"]}
    assert {("192x192", "any"), ("512x512", "any"), ("512x512", "maskable")} <= purposes
    for icon in manifest["icons"]:
        picture = b"".join(Client().get(icon["src"]).streaming_content)  # type: ignore[attr-defined]
        width = int.from_bytes(picture[16:20], "big")
        assert picture.startswith(b"\x89PNG") and f"{width}x{width}" == icon["sizes"]
    page = client_of(person("Alice")).get("/").content.decode()
    assert 'rel="manifest"' in page and 'rel="apple-touch-icon"' in page


def test_page_without_a_network_needs_nothing_that_is_not_kept_with_it() -> None:
    page = Client().get("/offline/").content.decode()
    assert "Portafilter cannot be reached from here" in page
    assert page.count("/static/") == page.count("/static/offline.") == 2
    assert "<style" not in page and "<script>" not in page
