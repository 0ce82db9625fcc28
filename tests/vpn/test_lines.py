"""Lines that go silent in the middle of a rescue, and come back, or do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from playwright.sync_api import expect

from tests.e2e.people import AT_DESKTOP, Person
from tests.vpn.bed import Installation, wait_until
from tests.vpn.conftest import GONE_S
from tests.vpn.machines import DistantMachine
from tests.vpn.test_rescue import nothing_is_left

UNREACHABLE = "Machine unreachable"


@pytest.mark.timeout(240)
def test_line_gone_for_a_while_is_survived_and_for_good_ends_the_rescue(
    vpn: Installation,
    place: Callable[[], str],
    sign_in: Callable[[str], Person],
    record_property: Callable[[str, object], None],
) -> None:
    """Three rescues at once, as each is mostly waiting: silent for 5 s, for 30 s, and for good.

    In production a rescue is given up after 120 s; here MACHINE_GONE_S makes that 50 s, and MACHINE_TELL_DEADLINE_S
    makes 5 s of 30 s; all else is as there.
    """
    short, long, gone = serials = place(), place(), place()
    people = {serial: sign_in("Alice" if serial != long else "Bob") for serial in serials}
    with ExitStack() as stack:
        machines = {serial: stack.enter_context(vpn.machine(serial)) for serial in serials}
        rescues = {serial: at_work(machines[serial], people[serial]) for serial in serials}
        # All three lines fall silent now.
        for serial in serials:
            vpn.bed.set_line(serial, "dead")
        began = time.monotonic()

        people[short].page.wait_for_timeout(5000)
        vpn.bed.set_line(short, "good")
        record_property("after_5_s_can_work_after_s", round(can_work(machines[short], people[short]), 1))
        assert vpn.session(rescues[short])["state"] == "active"
        assert vpn.session(rescues[short])["attempts"] == 1, "the very same desktop went on"
        assert not any(UNREACHABLE in text for text in people[short].read())

        for serial in (long, gone):
            people[serial].until(lambda serial=serial: _says(people[serial]), within_s=30 - (time.monotonic() - began))
        record_property("unreachable_said_after_s", round(time.monotonic() - began, 1))
        people[long].page.wait_for_timeout(max(0.0, 30 - (time.monotonic() - began)) * 1000)
        vpn.bed.set_line(long, "good")
        back = time.monotonic()
        people[long].until(lambda: not _says(people[long]), within_s=30)
        record_property("notice_gone_after_s", round(time.monotonic() - back, 1))
        can_work(machines[long], people[long], within_s=30)
        record_property("can_work_after_s", round(time.monotonic() - back, 1))

        for serial in (short, long):
            people[serial].close(outcome="Not resolved")
            nothing_is_left(vpn, machines[serial], rescues[serial])

        limit_s = GONE_S + 10 - (time.monotonic() - began)
        people[gone].until(lambda: vpn.session(rescues[gone])["end_reason"] == "machine_unreachable", within_s=limit_s)
        record_property("given_up_after_s", round(time.monotonic() - began, 1))
        summary = people[gone].page.locator("[data-summary]")
        expect(summary.locator("[data-state=closed]")).to_be_visible(timeout=40_000)
        wait_until(lambda: not vpn.clerk("open_connections", gone), what="its tunnel is over")
        assert {one["state"] for one in vpn.gateways_of(rescues[gone])} == {"stopped"}
        kinds = [row["kind"] for row in vpn.rows(
            "SELECT kind FROM support_session_event WHERE session_id = ?", rescues[gone].replace("-", ""))]  # fmt: skip
        assert "machine_not_told" in kinds, kinds
        # The machine finds out as soon as its line is back, and shuts what it had opened.
        vpn.bed.set_line(gone, "good")
        back = time.monotonic()
        nothing_is_left(vpn, machines[gone], rescues[gone], within_s=45)
        record_property("machine_knows_after_s", round(time.monotonic() - back, 1))


def at_work(machine: DistantMachine, person: Person) -> str:
    machine.press()
    expect(person.ticket(machine)).to_be_visible(timeout=30_000)
    rescue = person.claim(machine)
    person.is_at_desktop()
    machine.wait_for(lambda m: m.rescue.state == "active")
    return rescue


def can_work(machine: DistantMachine, person: Person, *, within_s: float = 30) -> float:
    """Clicks until that does something at the machine; after how many seconds it did."""
    began, before = time.monotonic(), machine.screen["counters"]["rinses"]
    while time.monotonic() - began < within_s:
        if person.page.locator(AT_DESKTOP).count() and person.page.locator(".curtain").is_hidden():
            person.click_widget(machine, "rinse")
        person.page.wait_for_timeout(300)
        if machine.screen["counters"]["rinses"] > before:
            return time.monotonic() - began
    raise AssertionError(f"{person.name} clicked for {within_s:g} s in vain; the page said {person.read()[-4:]}")


def _says(person: Person) -> bool:
    notice = person.page.locator("[data-part=notice], .curtain")
    return any(UNREACHABLE in text for text in notice.all_inner_texts())
