"""What breaks in the middle of a rescue comes back by itself, and the operator reads what goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from agent.simulator import SimulatedMachine
from tests.e2e.installation import Installation, wait_until
from tests.e2e.people import AT_DESKTOP, Person
from tests.e2e.test_rescue import nothing_is_left


def at_work(machine: SimulatedMachine, alice: Person) -> str:
    machine.press()
    rescue = alice.claim(machine)
    alice.is_at_desktop()
    machine.wait_for(lambda m: m.rescue.state == "active")
    return rescue


def newest_connection(installation: Installation, rescue: str) -> int:
    query = "SELECT max(id) AS id FROM support_guacamole_connection WHERE session_id = ?"
    return int(installation.rows(query, rescue.replace("-", ""))[0]["id"])


def is_back(installation: Installation, alice: Person, rescue: str, *, after: int) -> None:
    """Alice has joined a desktop that is newer than that connection."""

    def joined() -> bool:
        query = """SELECT 1 FROM support_guacamole_connection AS desktop JOIN support_attachment AS join_
            ON join_.session_id = desktop.session_id AND join_.attached_at > desktop.opened_at
            WHERE desktop.session_id = ? AND desktop.id > ?
            AND desktop.closed_at IS NULL AND join_.detached_at IS NULL"""
        return bool(installation.rows(query, rescue.replace("-", ""), after))

    alice.until(joined)
    alice.is_at_desktop()
    expect(alice.page.locator(".curtain")).to_be_hidden()


def can_work(machine: SimulatedMachine, alice: Person, button: str = "rinse") -> None:
    """A click through the desktop still does something at the machine."""
    before = machine.screen["counters"]["rinses"]
    alice.click_widget(machine, button)
    machine.wait_for(lambda m: m.screen["counters"]["rinses"] == before + 1)


def test_desktop_comes_back_with_a_new_gateway_after_guacd_was_killed(
    installation: Installation, machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    alice = sign_in("Alice")
    rescue = at_work(machine, alice)
    can_work(machine, alice)
    lost = newest_connection(installation, rescue)
    for process in installation.guacd_of(rescue):
        with contextlib.suppress(ProcessLookupError):  # it went with the one before
            os.kill(process.pid, signal.SIGKILL)
    is_back(installation, alice, rescue, after=lost)
    assert any("lost" in text and "new one" in text for text in alice.read()), alice.read()
    can_work(machine, alice)
    wait_until(
        lambda: [gateway["state"] for gateway in installation.gateways_of(rescue)] == ["stopped", "ready"],
        what="the dead gateway was cleared away, and one new one is ready",
    )
    assert installation.gateways_of(rescue)[0]["failure"] != ""
    assert {process.environment["PORTAFILTER_GATEWAY"] for process in installation.guacd_of(rescue)} == set(
        installation.guacd_attempts()
    )
    alice.close(outcome="Not resolved")
    sam = machine.config.folder / "run" / "sam"
    nothing_is_left(installation, machine, rescue, rdp_port=machine.rdp_port, sam=sam)


@pytest.mark.parametrize("way", ["told to stop", "killed"])
def test_rescue_goes_on_when_the_server_starts_again(
    installation: Installation, machine: SimulatedMachine, sign_in: Callable[[str], Person], way: str
) -> None:
    alice = sign_in("Alice")
    rescue = at_work(machine, alice)
    lost = newest_connection(installation, rescue)
    if way == "killed":
        installation.kill()
        # What the dead server has leased must not have to run out first.
        lease = "UPDATE support_gateway SET keeper_until = datetime('now', '1 hour') WHERE keeper_until IS NOT NULL"
        installation.change(lease)
    else:
        assert installation.stop() == 0
    expect(alice.page.locator(AT_DESKTOP)).to_have_count(0)
    expect(alice.page.locator(".curtain")).to_be_visible()
    curtain = alice.page.locator(".curtain").inner_text()
    installation.start()
    is_back(installation, alice, rescue, after=lost)
    can_work(machine, alice)
    assert len(curtain) > 20 and "undefined" not in curtain, curtain
    machine.wait_for(lambda m: m.rescue.state == "active")
    assert installation.session(rescue)["state"] == "active"
    assert len(installation.guacd_attempts()) == 1
    alice.close(outcome="Not resolved")
    sam = machine.config.folder / "run" / "sam"
    nothing_is_left(installation, machine, rescue, rdp_port=machine.rdp_port, sam=sam)
    assert installation.guacd_attempts() == []
