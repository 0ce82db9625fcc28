"""From help pressed to the phones of those on duty: the real server, and a push service that really decrypts."""

from __future__ import annotations

import html
import http.client
import json
import re
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from portal.management.commands.make_secrets import make_vapid_key
from tests.e2e.installation import Installation, wait_until
from tests.fakes.push_service import Browser, PushService

ASK_NEXT_AFTER_S = 2


@pytest.fixture(scope="module")
def push_service() -> Iterator[PushService]:
    with PushService() as service:
        yield service
        assert service.problems == []


@pytest.fixture(scope="module")
def server(push_service: PushService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A server that sends one push at a time, and asks the next person soon."""
    installation = Installation(
        tmp_path_factory.mktemp("asking"),
        GATEWAY="tests.fakes.gateway_driver.NeverReady",
        VAPID_PRIVATE_KEY=make_vapid_key(),
        PUSH_SERVICES=push_service.origin,
        ASK_NEXT_AFTER_S=str(ASK_NEXT_AFTER_S),
        SENDER_AT_ONCE="1",
    )
    try:
        installation.prepare()
        installation.start()
        yield installation
        faults = [line for line in installation.log().splitlines() if "Traceback" in line or " ERROR " in line]
        assert faults == [], f"the server had faults of its own; its log is {installation.log_file}"
    finally:
        installation.remove()


class Someone:
    """A person with phones and no page open; calls the API as their service worker does."""

    def __init__(self, name: str, server: Installation, service: PushService | None = None) -> None:
        self.name, self._server, self._service = name, server, service
        self._http = requests.Session()
        self._http.headers["Referer"] = f"{server.address}/"
        page = self._http.get(f"{server.address}/accounts/login/", timeout=60)
        (token,) = set(re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text))
        form = {"login": name.lower(), "password": server.password, "csrfmiddlewaretoken": token}
        assert self._http.post(f"{server.address}/accounts/login/", form, timeout=60).url == f"{server.address}/"

    def phone(self) -> Browser:
        """One more browser that gets messages."""
        assert self._service is not None
        browser = self._service.browser()
        status, _ = self.post("/devices/", {**browser.subscription, "browser": "Chrome", "name": "phone"})
        assert status == 201
        return browser

    def put_phones_away(self) -> None:
        for device in self._call("GET", "/devices/").json()["results"]:
            assert self._call("DELETE", f"/devices/{device['id']}/").status_code == 204

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        answer = self._call("POST", path, body)
        return answer.status_code, answer.json()

    def get(self, path: str) -> Any:
        """What a call of the API answers; AssertionError when it does not go well."""
        answer = self._http.get(f"{self._server.address}/api/v1{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def page(self, path: str) -> str:
        """What stands on a page before any program of it runs."""
        answer = self._http.get(f"{self._server.address}{path}", timeout=60)
        assert answer.status_code == 200, answer.text
        return html.unescape(answer.text)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        """A service worker has no page to read a token from: it asks for one."""
        me = self._http.get(f"{self._server.address}/api/v1/me/", timeout=60).json()
        headers = {"X-CSRFToken": me["csrf_token"], "Origin": self._server.address}
        url = f"{self._server.address}/api/v1{path}"
        return self._http.request(method, url, json=body, headers=headers, timeout=60)


class Button:
    """A machine's, as its agent speaks when help is pressed."""

    def __init__(self, server: Installation, serial: str) -> None:
        self._address, self._token = server.machines[serial], server.tokens[serial]
        self._face = urlsplit(server.machine_api)
        self.session_id = ""

    def press(self) -> str:
        login = {"username": "once", "password": uuid.uuid4().hex, "port": 3389}
        body = {"rdp": login, "problem": {"code": "E17", "text": "Grinder jammed"}}
        self.session_id = str(self._post("/api/v1/support-requests/", body, 201)["id"])
        return self.session_id

    def read(self) -> Any:
        """How it stands, as the machine hears it; what is over counts as heard then."""
        return self._call("GET", f"/api/v1/support-requests/{self.session_id}/", None, 200)

    def cancel(self) -> None:
        self._post(f"/api/v1/support-requests/{self.session_id}/cancel/", {}, 200)

    def _post(self, path: str, body: dict[str, Any], status: int) -> Any:
        return self._call("POST", path, body, status)

    def _call(self, method: str, path: str, body: dict[str, Any] | None, status: int) -> Any:
        connection = http.client.HTTPConnection(
            str(self._face.hostname), self._face.port, timeout=60, source_address=(self._address, 0)
        )
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        headers["Idempotency-Key"] = uuid.uuid4().hex
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        document = json.loads(answer.read())
        connection.close()
        assert answer.status == status, document
        return document


def of(session_id: str, browser: Browser) -> list[dict[str, Any]]:
    """What this browser was told of this rescue."""
    return [push.payload for push in list(browser.pushes) if push.payload["tag"] == tag_of(session_id)]


def tag_of(session_id: str) -> str:
    return f"rescue-{session_id.replace('-', '')}"


def test_next_one_is_asked_when_the_first_does_not_answer_and_whoever_claims_is_told_to_the_others(
    server: Installation, push_service: PushService
) -> None:
    alice, bob, charlie = (Someone(name, server, push_service) for name in ("Alice", "Bob", "Charlie"))
    first, second, stranger = alice.phone(), bob.phone(), charlie.phone()
    button = Button(server, "IT-0001")
    rescue = button.press()

    wait_until(lambda: of(rescue, first), what="Alice was asked")
    (asked,) = of(rescue, first)
    assert (asked["kind"], asked["actions"], asked["silent"]) == ("asked", ["claim", "open"], False)
    assert (asked["url"], asked["subject"]) == (f"/sessions/{rescue}/", rescue)
    assert asked["title"].startswith("Help at Stazione Centrale: ") and "E17" in asked["body"]

    wait_until(lambda: of(rescue, second), what="Bob was asked, as Alice had not answered")
    # By the server's clock: on the way one message may have been held up longer than the other.
    before, after = (datetime.fromisoformat(of(rescue, phone)[0]["at"]) for phone in (first, second))
    assert after - before >= timedelta(seconds=ASK_NEXT_AFTER_S), "both were asked at once"
    assert len(of(rescue, first)) == 1, "nobody is asked twice"
    status, card = bob.post(f"/sessions/{asked['subject']}/claim/", {})
    assert status == 200, card
    status, refusal = alice.post(f"/sessions/{asked['subject']}/claim/", {})
    assert status == 409 and "Bob Test" in refusal["detail"]

    wait_until(lambda: len(of(rescue, first)) == 2, what="Alice's screen was replaced")
    replacement = of(rescue, first)[1]
    assert replacement["silent"] and replacement["actions"] == []
    assert replacement["body"].startswith("Bob Test has it.")
    assert len(of(rescue, second)) == 1, "Bob knows"
    button.cancel()
    wait_until(lambda: of(rescue, second)[-1]["kind"] == "over", what="Bob is told that it is over")
    assert of(rescue, second)[-1]["body"].startswith("The person there no longer needs help.")
    assert stranger.pushes == []
    for person in (alice, bob, charlie):
        person.put_phones_away()


def test_power_cut_around_the_send_loses_nothing_and_repeats_at_most_what_was_on_its_way(
    server: Installation, push_service: PushService
) -> None:
    """Of two messages of one commit one is sent and not yet written down, the other not yet sent: then kill -9."""
    alice = Someone("Alice", server, push_service)
    phones = [alice.phone(), alice.phone()]
    button = Button(server, "IT-0002")
    push_service.hold()
    rescue = button.press()
    # One at a time: the other waits for its turn, a second at most.
    wait_until(lambda: any(of(rescue, phone) for phone in phones), what="the first one is on its way")
    server.kill()
    query = "SELECT state, tries FROM notifications_delivery WHERE subject = ? ORDER BY tries DESC"
    rows = [(row["state"], row["tries"]) for row in server.rows(query, rescue.replace("-", ""))]
    assert rows == [("pending", 1), ("pending", 0)]
    push_service.let_go()

    server.start()
    wait_until(lambda: all(of(rescue, phone) for phone in phones), what="both were reached")
    unsent = "SELECT id FROM notifications_delivery WHERE state = 'pending' AND kind = 'asked'"
    wait_until(lambda: not server.rows(unsent), what="all is written down")
    told = sorted(len(of(rescue, phone)) for phone in phones)
    assert told == [1, 2], told
    # What came twice has one tag, by which the second takes the place of the first, and one Topic.
    (twice,) = (phone for phone in phones if len(of(rescue, phone)) == 2)
    assert len({push.topic for push in twice.pushes if push.payload["tag"] == tag_of(rescue)}) == 1
    button.cancel()
    for phone in phones:
        wait_until(lambda phone=phone: of(rescue, phone)[-1]["kind"] == "over", what="both are told the end")  # type: ignore[misc]
    alice.put_phones_away()


def test_press_that_nobody_was_asked_for_before_the_power_went_is_asked_for_afterwards(
    server: Installation, push_service: PushService
) -> None:
    bob = Someone("Bob", server, push_service)
    phone = bob.phone()
    server.kill()
    server.start("--no-worker")  # as if it had died between the press and its first question
    button = Button(server, "IT-0003")
    rescue = button.press()
    server.kill()
    assert not server.rows("SELECT id FROM notifications_delivery WHERE subject = ?", rescue.replace("-", ""))
    server.start()
    wait_until(lambda: of(rescue, phone), what="Bob was asked")
    button.cancel()
