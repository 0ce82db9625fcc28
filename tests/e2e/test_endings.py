"""A rescue that ends in another way than by its operator's hand says so in one plain sentence, to everybody."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from agent.simulator import SimulatedMachine
from tests.e2e.installation import Installation
from tests.e2e.people import Person
from tests.e2e.test_rescue import nothing_is_left


def test_supervisor_ends_a_rescue_by_force_and_everybody_reads_it(
    installation: Installation, machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    alice, dora = sign_in("Alice"), sign_in("Dora")
    machine.press()
    rescue = alice.claim(machine)
    alice.is_at_desktop()
    rdp_port, sam = machine.rdp_port, machine.config.folder / "run" / "sam"
    dora.open_rescue(rescue)
    dora.page.locator("[data-action=force]").click()
    dora.page.get_by_text("End by force", exact=True).first.click()
    dora.page.locator("#close-note").fill("The technician is there already.")
    dora.page.locator("[data-action=submit-close]").click()
    expect(alice.page.locator("[data-summary] .lead")).to_contain_text("A supervisor or manager ended this rescue.")
    expect(alice.page.locator("[data-summary]")).to_contain_text("Dora Test")
    expect(alice.page.locator("[data-summary]")).to_contain_text("The technician is there already.")
    machine.wait_for(lambda m: m.rescue.end_reason == "forced")
    assert "was ended" in machine.rescue.message
    nothing_is_left(installation, machine, rescue, rdp_port=rdp_port, sam=sam)


def test_operator_reads_that_the_person_at_the_machine_needs_no_help_any_more(
    installation: Installation, machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    alice = sign_in("Alice")
    machine.press()
    rescue = alice.claim(machine)
    alice.is_at_desktop()
    rdp_port, sam = machine.rdp_port, machine.config.folder / "run" / "sam"
    machine.click_widget("cancel")
    expect(alice.page.locator("[data-summary] .lead")).to_contain_text(
        "The person at the machine no longer needs help."
    )
    machine.wait_for(lambda m: m.rescue.state in ("cancelled", "closed"))
    nothing_is_left(installation, machine, rescue, rdp_port=rdp_port, sam=sam)
    machine.wait_for(lambda m: m.screen["help"]["state"] in ("cancelled", "closed"))
