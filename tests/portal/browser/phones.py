"""Phones: browsers of their own, with a push service's front door that gives out addresses.

A Chromium asks Google's device services before it has an endpoint. Here they are two addresses of a server of ours: a
check-in (protobuf) and a registration (a form). Private windows have no push, so each phone has a profile.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, CDPSession, Page, Playwright, ViewportSize, Worker

from tests.chromium import CHROMIUM, FLAGS, PATIENCE_MS
from tests.portal.browser.conftest import until

# What Debian's Chromium, which bears no channel's name, gives as its push service.
SERVICE = "https://jmt17.google.com"


class _FrontDoor(BaseHTTPRequestHandler):
    """Google's check-in and registration, as far as a browser needs them before it can subscribe."""

    given = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/checkin":
            # AndroidCheckinResponse: stats_ok (1), android_id (7) and security_token (8), both fixed64.
            answer = b"\x08\x01" + b"\x39" + struct.pack("<Q", 4711) + b"\x41" + struct.pack("<Q", 815)
        else:
            _FrontDoor.given += 1
            answer = b"token=phone-%d" % _FrontDoor.given
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def front_door() -> Iterator[list[str]]:
    """The front door, open; gives the flags that lead a Chromium to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _FrontDoor)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    # Nothing listens at the third: messages come by DevTools, not over Google's line.
    closed = "https://127.0.0.1:1"
    yield [f"--gcm-{name}={value}" for name, value in (
        ("checkin-url", f"{address}/checkin"), ("registration-url", f"{address}/register"), ("mcs-endpoint", closed),
    )]  # fmt: skip
    server.shutdown()
    thread.join()
    server.server_close()


class Phone:
    """A browser with a profile, a page on it, and what its service worker shows."""

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.context = context
        self.address = address
        self.page: Page = context.pages[0]
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: self._hear(message.text))
        self._devtools: CDPSession = context.new_cdp_session(self.page)
        self._registrations: dict[str, str] = {}
        self._devtools.on("ServiceWorker.workerRegistrationUpdated", self._note)
        self._devtools.send("ServiceWorker.enable")

    def _hear(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.complaints.append(text)

    def _note(self, event: dict[str, Any]) -> None:
        for one in event["registrations"]:
            self._registrations[one["scopeURL"]] = one["registrationId"]

    def visit(self, path: str) -> None:
        self.page.goto(self.address + path)

    def has_worker(self) -> None:
        """Returns when the worker is there; notes from now on what it has shown, and what it asks the server."""
        self.page.evaluate("navigator.serviceWorker.ready.then(() => null)")
        # DevTools tell of both on lines of their own, a moment later than the page knows.
        until(self.page, lambda: self.context.service_workers and self.address + "/" in self._registrations)
        self.worker.evaluate(
            """() => {
                self.told = [];
                self.called = [];
                if (self.isWatched) return;
                self.isWatched = true;
                const show = registration.showNotification.bind(registration);
                registration.showNotification = async (title, options) => {
                    await show(title, options);
                    told.push(title);
                };
                const ask = self.fetch;
                self.fetch = (path, options) => {
                    called.push(`${options?.method} ${path}`);
                    return ask(path, options);
                };
            }"""
        )

    def told(self) -> list[str]:
        """The titles that the worker has shown since the last push, in their order; all are on the screen or were.

        `shown` must not be asked again and again instead: a Chromium that is asked between keeping a notification and
        showing it forgets it.
        """
        found: list[str] = self.worker.evaluate("() => self.told")
        return found

    @property
    def worker(self) -> Worker:
        (worker,) = self.context.service_workers
        return worker

    def called(self, ending: str) -> int:
        """How often the worker has called an address with this ending."""
        calls: list[str] = self.worker.evaluate("() => self.called")
        return sum(call.endswith(ending) for call in calls)

    def push(self, text: str) -> None:
        """The browser's own push event, as DevTools raises it, with these words; what was told before is forgotten."""
        self.worker.evaluate("() => { self.told = []; }")
        scope = self.address + "/"
        values = {"origin": self.address, "registrationId": self._registrations[scope], "data": text}
        self._devtools.send("ServiceWorker.deliverPushMessage", values)

    def shown(self) -> list[dict[str, Any]]:
        """The notifications on the screen."""
        found: list[dict[str, Any]] = self.page.evaluate(
            """navigator.serviceWorker.ready.then((one) => one.getNotifications()).then((all) => all.map(
                ({ title, body, tag, silent, renotify, actions }) =>
                ({ title, body, tag, silent, renotify, actions: actions.map(({ title }) => title) })))"""
        )
        return found

    def press(self, action: str, *, times: int = 1) -> None:
        """Presses a button of the one notification ("" for beside them): the event that a finger would raise."""
        self.worker.evaluate(
            """async ({ action, times }) => {
                const [notification] = await registration.getNotifications();
                for (let time = 0; time < times; time += 1) {
                    dispatchEvent(new NotificationEvent("notificationclick", { notification, action }));
                }
            }""",
            {"action": action, "times": times},
        )

    def watch_windows(self) -> None:
        """Notes what the worker opens or brings to the front from now on: browsers do so for a real finger alone."""
        self.worker.evaluate(
            """() => {
                self.windows = [];
                clients.openWindow = async (url) => self.windows.push("opens " + new URL(url).pathname);
                WindowClient.prototype.focus = async function () {
                    self.windows.push("focuses " + new URL(this.url).pathname);
                };
            }"""
        )

    @property
    def windows(self) -> list[str]:
        """What it has opened or brought to the front."""
        found: list[str] = self.worker.evaluate("() => self.windows")
        return found


def switch_on(
    playwright: Playwright, folder: Path, address: str, *, flags: list[str], viewport: ViewportSize, **options: Any
) -> BrowserContext:
    """A Chromium with a profile in this folder that may show notifications."""
    context = playwright.chromium.launch_persistent_context(
        folder, executable_path=CHROMIUM, args=[*FLAGS, *flags], viewport=viewport, **options
    )
    context.grant_permissions(["notifications"], origin=address)
    return context
