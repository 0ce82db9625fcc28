"""Chromium on the real pages; what lies behind the WebSockets and the REST face is played by the tests.

The pages and their first state come from Django (live_server), the modules from static/dist (`npm run build`).
"""

from __future__ import annotations

import base64
import json
import re
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
from django.utils import timezone
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Dialog,
    Page,
    Route,
    ViewportSize,
    WebSocketRoute,
    sync_playwright,
)

from machines.models import User
from notifications import live
from tests.chromium import CHROMIUM, FLAGS, PATIENCE_MS

PHONE: ViewportSize = {"width": 390, "height": 844}
DESK: ViewportSize = {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def browser(django_db_setup: None) -> Iterator[Browser]:
    """Chromium for a module's tests.

    Playwright's synchronous face runs a loop in this thread, which Django would take for an async view's, and which
    later asyncio tests must not meet: so it is there for these modules only, after the database was made.
    """
    if not Path(settings.BASE_DIR, "static", "dist", "rescue.js").exists():
        pytest.fail("static/dist is not built: found no rescue.js there, expected what `npm run build` makes")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests speak on the live line themselves; the channel layer could not be reached from this thread anyway."""
    monkeypatch.setattr(live, "session_changed", lambda **_: None)


def instruction(*elements: object) -> str:
    """One Guacamole instruction."""
    return ",".join(f"{len(str(element))}.{element}" for element in elements) + ";"


def until(page: Page, holds: Callable[[], object], *, within_s: float = PATIENCE_MS / 1000) -> None:
    """Lets the browser go on until something holds; fails after the deadline."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"waited {within_s} s in vain"
        page.wait_for_timeout(10)


def parse(text: str) -> list[list[str]]:
    """The instructions of a frame that holds whole ones."""
    found, elements, at = [], [], 0
    while at < len(text):
        dot = text.index(".", at)
        end = dot + 1 + int(text[at:dot])
        elements.append(text[dot + 1 : end])
        if text[end] == ";":
            found.append(elements)
            elements = []
        at = end + 1
    return found


def png(width: int, height: int, color: tuple[int, int, int]) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(color) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@dataclass
class Desktop:
    """The far end of the tunnel: notes what the browser sends, and sends what the test wants."""

    width: int = 1000
    height: int = 500
    sockets: list[WebSocketRoute] = field(default_factory=list)
    received: list[list[str]] = field(default_factory=list)
    silent: bool = False
    _syncs: int = 2000

    def open(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        socket.on_message(lambda text: self._take(socket, str(text)))
        socket.send(instruction("", "7e0f9a40-1111-4222-8333-444455556666"))

    def _take(self, socket: WebSocketRoute, text: str) -> None:
        for elements in parse(text):
            if elements[:2] == ["", "ping"]:
                socket.send(instruction(*elements))
                continue
            self.received.append(elements)
            if elements[:2] == ["", "ticket"] and not self.silent:
                socket.send(self.picture())

    def picture(self) -> str:
        blob = base64.b64encode(png(64, 64, (200, 30, 30))).decode()
        return (
            instruction("size", 0, self.width, self.height)
            + instruction("img", 1, 14, 0, "image/png", 0, 0)
            + instruction("blob", 1, blob)
            + instruction("end", 1)
            + instruction("sync", 1000)
        )

    def send(self, *elements: object) -> None:
        self.sockets[-1].send(instruction(*elements))

    def settle(self, page: Page) -> None:
        """Waits until the browser has sent everything it meant to: its answer to a new sync comes after that."""
        self._syncs += 1
        self.send("sync", self._syncs)
        until(page, lambda: [str(self._syncs)] in self.got("sync"))

    def end(self, sentence: str, status: int) -> None:
        """Ends the newest join as the tunnel does: error, disconnect, close with the status as its reason."""
        self.send("error", sentence, status)
        self.send("disconnect")
        self.sockets[-1].close(code=1011, reason=str(status))

    def got(self, opcode: str) -> list[list[str]]:
        return [elements[1:] for elements in self.received if elements[0] == opcode]


@dataclass
class Live:
    """The far end of /ws/live/."""

    cards: list[dict[str, Any]] = field(default_factory=list)
    sockets: list[WebSocketRoute] = field(default_factory=list)
    blocked: bool = False

    def open(self, socket: WebSocketRoute) -> None:
        if self.blocked:
            socket.close(code=1011)
            return
        self.sockets.append(socket)
        socket.on_message(lambda text: socket.send('{"type":"pong"}') if "ping" in str(text) else None)
        self._send(
            socket, {"type": "snapshot", "server_time": timezone.now().isoformat(), "me": {}, "sessions": self.cards}
        )

    def tell(self, card: dict[str, Any]) -> None:
        self._send(self.sockets[-1], {"type": "session", "session": card})

    @staticmethod
    def _send(socket: WebSocketRoute, message: dict[str, Any]) -> None:
        socket.send(json.dumps(message))


class Operator:
    """A person at a browser: the page, what its REST calls said, and both far ends."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.address = address
        self.live = Live()
        self.desktop = Desktop()
        self.calls: list[tuple[str, str, Any]] = []
        self.complaints: list[str] = []
        self._answers: list[tuple[str, Callable[[Route], None]]] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._asked)
        self.page.on(
            "console",
            lambda message: self.complaints.append(message.text) if "Content Security Policy" in message.text else None,
        )
        self.page.route_web_socket(re.compile("/ws/live/"), self.live.open)
        self.page.route_web_socket(re.compile("/tunnel/"), self.desktop.open)
        self.page.route("**/api/v1/**", self._api)
        self.answer("GET", "/causes/", 200, {"causes": ["Beans", "Worn part"], "fixes": ["Shaken", "Restarted"]})
        self.answer("GET", "/events/", 200, {"results": []})
        self.answer("POST", "/attachments/", 201, {"ticket": "ticket-1", "expires_in_s": 30, "role": "controller"})

    def _asked(self, dialog: Dialog) -> None:
        if dialog.type != "beforeunload":  # which is meant; everything else would be script from somewhere
            self.complaints.append(f"a dialog that says {dialog.message!r}")
        dialog.accept()

    def answer(self, method: str, ending: str, status: int, body: Any) -> None:
        """What a REST call is answered with from now on; the newest rule for an address wins."""
        kind = "application/json" if status < 400 else "application/problem+json"
        self._answers.insert(
            0,
            (
                f"{method} {ending}",
                lambda route: route.fulfill(status=status, content_type=kind, body=json.dumps(body)),
            ),
        )

    def _api(self, route: Route) -> None:
        request = route.request
        path = request.url.split("/api/v1", 1)[1]
        self.calls.append((request.method, path, json.loads(request.post_data or "null")))
        for rule, fulfil in self._answers:
            method, ending = rule.split(" ", 1)
            if request.method == method and path.split("?")[0].endswith(ending):
                fulfil(route)
                return
        problem = {"title": "Not found", "status": 404, "detail": "The test has no answer for this."}
        route.fulfill(status=404, content_type="application/problem+json", body=json.dumps(problem))

    def posted(self, ending: str) -> list[Any]:
        return [body for method, path, body in self.calls if method == "POST" and path.endswith(ending)]

    def visit(self, path: str) -> None:
        self.page.goto(self.address + path)

    def state(self, name: str) -> Any:
        return json.loads(self.page.locator(f"#{name}").text_content() or "null")


def let_in(context: BrowserContext, user: User, address: str) -> None:
    """Signs somebody in, as the login page would."""
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.create()
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": str(store.session_key), "url": address}])


@pytest.fixture
def sign_in(browser: Browser, live_server: Any) -> Iterator[Callable[..., Operator]]:
    """Opens a browser of its own for a person, signed in; at a desk unless told otherwise."""
    contexts: list[BrowserContext] = []
    operators: list[Operator] = []

    def make(user: User, *, viewport: ViewportSize = DESK, **options: Any) -> Operator:
        phone = viewport is PHONE
        # A service worker's calls would go past the tests' answers; test_push.py is about it.
        options.setdefault("service_workers", "block")
        context = browser.new_context(viewport=viewport, has_touch=phone, is_mobile=phone, **options)
        contexts.append(context)
        let_in(context, user, live_server.url)
        operators.append(Operator(context, live_server.url))
        return operators[-1]

    yield make
    complaints = [complaint for operator in operators for complaint in operator.complaints]
    for context in contexts:
        context.close()
    assert complaints == [], "a page raised an error, opened a dialog or broke the content security policy"
