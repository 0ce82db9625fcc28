"""The machine and the page that rescues are measured with: real desktop, real guacd, real Chromium."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from playwright.sync_api import BrowserContext, Page, sync_playwright

from agent.simulator import MachineConfig, SimulatedMachine
from bench.server import Server
from bench.wire import Guacd
from tests.chromium import CHROMIUM, FLAGS
from tests.e2e.installation import wait_until

# When a card was first drawn and when it first said that its screen is ready, and when Claim was clicked: in
# milliseconds of the clock that all of this computer's programs share.
_WITNESS = """
const now = () => performance.timeOrigin + performance.now();
window.__cards = {};
const look = () => {
  for (const card of document.querySelectorAll("li.ticket[data-session]")) {
    const seen = (window.__cards[card.dataset.session] ??= {});
    // In the frame after this one it is on the screen.
    if (!seen.asked) { seen.asked = true; requestAnimationFrame(() => (seen.shown = now())); }
    if (!seen.ready && ["ready", "active"].includes(card.dataset.state)) seen.ready = now();
  }
};
document.addEventListener("DOMContentLoaded", () => {
  new MutationObserver(look).observe(document, {subtree: true, childList: true, attributes: true});
  look();
});
window.__tunnel = {};
window.WebSocket = class extends window.WebSocket {
  constructor(...args) {
    super(...args);
    if (!String(args[0]).includes("/tunnel/")) return;
    window.__tunnel.asked ??= now();
    this.addEventListener("open", () => (window.__tunnel.open ??= now()));
    // The first message is the server's greeting, the second what guacd says.
    let count = 0;
    this.addEventListener("message", () => { if (++count === 2) window.__tunnel.drawn ??= now(); });
  }
};
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-action=claim]")) sessionStorage.setItem("claimed", now());
}, true);
"""


@contextlib.contextmanager
def simulated(server: Server, *, fault: str = "E17") -> Iterator[SimulatedMachine]:
    """A machine that is switched on."""
    serial = next(iter(server.machines))
    config = MachineConfig.write(
        server.folder / serial, serial=serial, name=f"Lobby {serial}", address=server.machines[serial],
        api_url=server.machine_api, token=server.tokens[serial], rdp_port=0, fault=fault,
    )  # fmt: skip
    with SimulatedMachine(config) as machine:
        yield machine


@contextlib.contextmanager
def page(server: Server) -> Iterator[Page]:
    """Alice's browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            context: BrowserContext = browser.new_context(viewport={"width": 1440, "height": 900})
            context.add_init_script(_WITNESS)
            context.add_cookies([{"name": "sessionid", "value": server.login, "url": server.address}])
            one = context.new_page()
            one.on("dialog", lambda dialog: dialog.accept())
            yield one
        finally:
            browser.close()


def open_queue(page: Page, server: Server) -> None:
    page.goto(f"{server.address}/")
    page.wait_for_selector("html[data-live=live]", state="attached")


def press(server: Server, machine: SimulatedMachine) -> tuple[str, float]:
    """Presses help; the rescue's id once its desktop is held, and when help was pressed."""
    known = {row["id"] for row in server.rows("SELECT id FROM support_session")}
    pressed_at = time.time()
    machine.press()

    def new() -> list[dict[str, Any]]:
        rows = server.rows("SELECT id, state FROM support_session")
        return [row for row in rows if row["id"] not in known and row["state"] == "ready"]

    wait_until(new, what="the desktop was held", within_s=30)
    h = new()[0]["id"]
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}", pressed_at


def end(server: Server, machine: SimulatedMachine, session_id: str) -> None:
    """The person at the machine cancels; returns when nothing of the rescue is left to do."""
    machine.cancel()
    wait_until(lambda: server.session(session_id)["state"] == "closed", what="the rescue was closed", within_s=30)
    machine.wait_for(lambda it: it.rescue.state in ("closed", "cancelled") and it.rdp_port is None)


def login_by_hand(desktop: Mapping[str, Any]) -> float:
    """Seconds from nothing to the machine's first frame with a guacd of one's own: the least there can be."""
    program = shutil.which("guacd")
    assert program, "guacd is not installed"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    process = subprocess.Popen(
        [program, "-f", "-b", "127.0.0.1", "-l", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=10).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.001)
        values = {
            "hostname": desktop["hostname"], "port": desktop["rdp_port"], "username": desktop["username"],
            "password": desktop["password"], "security": "nla", "ignore-cert": "true", "disable-audio": "true",
        }  # fmt: skip
        user = Guacd(port, "rdp", values)
        user.wait_for_frame()
        took = time.monotonic() - began
        user.close()
        return took
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
