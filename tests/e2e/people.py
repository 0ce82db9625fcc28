"""A person at a browser, and what they do: sign in, claim, click the machine's buttons through its desktop."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any, Protocol

from playwright.sync_api import BrowserContext, Dialog, Page, WebSocket, expect

from agent.simulator import MachineConfig
from tests.chromium import PATIENCE_MS

# Keeps the page's sockets, and all that its curtain ever said, where a test can get at them.
_WITNESS = """
window.__sockets = [];
window.WebSocket = class extends window.WebSocket {
  constructor(...args) { super(...args); window.__sockets.push(this); }
};
window.__read = [];
document.addEventListener("DOMContentLoaded", () => {
  const read = () => {
    for (const node of document.querySelectorAll(".curtain, [data-part=notice], .toast, .lead")) {
      const text = node.hidden ? "" : node.textContent.trim();
      if (text && !window.__read.includes(text)) window.__read.push(text);
    }
  };
  new MutationObserver(read).observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
});
"""
AT_DESKTOP = "html[data-desktop=connected][data-first-frame=yes]"
DESKTOP_MS = 60_000  # until a desktop is on a screen, on a busy computer
_CHOICE = "fieldset[data-field={}] label.choice"


class Shown(Protocol):
    """A machine as far as a person at a browser meets it: simulated in this process, or far away."""

    config: MachineConfig

    @property
    def screen(self) -> dict[str, Any]: ...

    def pixel(self, x: int, y: int) -> tuple[int, int, int]: ...


class Person:
    """One person with a browser of their own; keeps every frame that its WebSockets got and sent."""

    def __init__(self, name: str, context: BrowserContext, address: str) -> None:
        self.name = name
        self.address = address
        self.context = context
        self.sent: list[str] = []
        self.received: list[str] = []
        self.complaints: list[str] = []
        context.add_init_script(_WITNESS)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("websocket", self._listen)
        self.page.on("dialog", self._asked)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.complaints.append(message.text) if "Content Security Policy" in message.text else None,
        )

    def _listen(self, socket: WebSocket) -> None:
        socket.on("framesent", lambda data: self.sent.append(_text(data)))
        socket.on("framereceived", lambda data: self.received.append(_text(data)))

    def _asked(self, dialog: Dialog) -> None:
        if dialog.type != "beforeunload":
            self.complaints.append(f"a dialog that says {dialog.message!r}")
        dialog.accept()

    # --- pages -------------------------------------------------------------------------------------------------------

    def sign_in(self, password: str) -> None:
        self.page.goto(f"{self.address}/accounts/login/")
        self.page.get_by_label("Username or email").fill(self.name.lower())
        self.page.get_by_label("Password", exact=True).fill(password)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        self.page.wait_for_url(f"{self.address}/")

    def open_queue(self) -> None:
        self.page.goto(f"{self.address}/")
        self.is_live()

    def open_rescue(self, session_id: str) -> None:
        self.page.goto(f"{self.address}/sessions/{session_id}/")
        self.is_live()

    def is_live(self) -> None:
        expect(self.page.locator("html[data-live=live]")).to_have_count(1)

    def ticket(self, machine: Shown) -> Any:
        """The machine's card on the queue."""
        return self.page.locator("li.ticket", has_text=machine.config.serial)

    def claim(self, machine: Shown) -> str:
        """Claims it on the queue; the id of the rescue whose page is then open."""
        self.ticket(machine).locator("[data-action=claim]").click()
        self.page.wait_for_url("**/sessions/*/")
        return self.page.url.rstrip("/").rsplit("/", 1)[1]

    def close(self, *, outcome: str = "Resolved") -> tuple[str, str]:
        """Closes with the first cause and the first fix that are offered; returns these two."""
        self.page.locator("[data-action=close]").click()
        self.page.locator(_CHOICE.format("outcome")).get_by_text(outcome, exact=True).click()
        chosen = []
        for field in ("cause", "fix"):
            first = self.page.locator(_CHOICE.format(field)).first
            chosen.append(first.inner_text().strip())
            first.click()
        self.page.locator("[data-action=submit-close]").click()
        return chosen[0], chosen[1]

    def get(self, path: str) -> tuple[int, Any]:
        """A call of the API as the page itself makes it: the status and the body."""
        script = "async p => { const r = await fetch(p); return [r.status, await r.text()]; }"
        status, text = self.page.evaluate(script, f"/api/v1{path}")
        return status, json.loads(text)

    def read(self) -> list[str]:
        """All that the page said about how things stand since it was opened."""
        return list(self.page.evaluate("window.__read"))

    # --- the desktop -------------------------------------------------------------------------------------------------

    def is_at_desktop(self) -> None:
        expect(self.page.locator(AT_DESKTOP)).to_have_count(1, timeout=DESKTOP_MS)
        # After a join anew the last picture stands there until the first of this one is drawn.
        expect(self.page.locator(".join")).to_have_count(1)

    def click_widget(self, machine: Shown, name: str) -> None:
        """Clicks a button of the machine's screen where this browser shows it."""
        x, y, width, height = machine.screen["widgets"][name]
        self.page.mouse.click(*self._place(machine, x + width / 2, y + height / 2))

    def pixel(self, machine: Shown, x: int, y: int) -> tuple[int, int, int]:
        """The colour that this browser shows for a point of the machine's screen."""
        script = """([x, y, width]) => {
            const canvas = document.querySelector(".join canvas");
            const scale = canvas.width / width;
            const at = canvas.getContext("2d").getImageData(Math.round(x * scale), Math.round(y * scale), 1, 1);
            return [...at.data].slice(0, 3);
        }"""
        red, green, blue = self.page.evaluate(script, [x, y, machine.config.width])
        return red, green, blue

    def sees_what_the_machine_shows(self, machine: Shown, points: Iterable[tuple[int, int]]) -> bool:
        return all(_alike(self.pixel(machine, x, y), machine.pixel(x, y)) for x, y in points)

    def send_raw(self, instructions: str) -> None:
        """Sends through this browser's tunnel what its page never would."""
        script = "text => window.__sockets.findLast(one => one.url.includes('/tunnel/')).send(text)"
        self.page.evaluate(script, instructions)

    def tunnel_has_taken_all(self) -> None:
        """Returns when the server has answered a ping that was sent after everything else this browser sent."""
        mark = "424242"
        self.send_raw(f"0.,4.ping,6.{mark};")
        self.until(lambda: any(f"4.ping,6.{mark}" in frame for frame in self.received))
        self.received = [frame for frame in self.received if mark not in frame]

    def until(self, holds: Any, *, within_s: float = 60) -> None:
        """Lets the browser go on until something holds that the page does not show."""
        deadline = time.monotonic() + within_s
        while not holds():
            assert time.monotonic() < deadline, f"{self.name} waited {within_s:g} s in vain"
            self.page.wait_for_timeout(20)

    def _place(self, machine: Shown, x: float, y: float) -> tuple[float, float]:
        box = self.page.locator(".join > div").bounding_box()
        assert box is not None, "the desktop is not on the page"
        return (
            box["x"] + x * box["width"] / machine.config.width,
            box["y"] + y * box["height"] / machine.config.height,
        )


def _alike(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
    """RDP and guacd may lose a little of a colour on the way."""
    return all(abs(a - b) <= 40 for a, b in zip(one, other, strict=True))


def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode("utf-8", "replace")
