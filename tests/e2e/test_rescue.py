"""One whole rescue: from the button on the machine to the pixels in a browser, and back to nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from agent.simulator import SimulatedMachine
from agent.simulator.rdp_server import is_listening
from tests.e2e.installation import Installation, wait_until
from tests.e2e.people import Person

# In the mark beside the fault: red while there is one, green when there is none.
FAULT_MARK = [(46, 162), (128, 226)]
RED, GREEN = (0xEF, 0x6A, 0x55), (0x6C, 0xC1, 0x8A)


def near(found: tuple[int, int, int], wanted: tuple[int, int, int]) -> bool:
    return all(abs(a - b) <= 40 for a, b in zip(found, wanted, strict=True))


def test_jammed_grinder_is_cured_from_afar_and_nothing_is_left(
    installation: Installation, machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    alice = sign_in("Alice")
    machine.click_widget("help")  # on the machine's own screen
    expect(alice.ticket(machine)).to_contain_text("Grinder jammed")

    rescue = alice.claim(machine)
    alice.is_at_desktop()
    alice.until(lambda: alice.sees_what_the_machine_shows(machine, FAULT_MARK))
    machine.wait_for(lambda m: m.rescue.state == "active" and m.rescue.operator_name.startswith("Alice"))

    alice.click_widget(machine, "reset_grinder")
    machine.wait_for(lambda m: m.screen["grinder"] == "ready")
    alice.click_widget(machine, "note")
    alice.page.keyboard.type("Bean out, 7 g!")
    machine.wait_for(lambda m: m.screen["note"] == "Bean out, 7 g!")

    alice.page.reload()
    alice.is_at_desktop()
    alice.click_widget(machine, "clear_fault")
    machine.wait_for(lambda m: m.screen["fault"] is None)
    alice.until(lambda: near(alice.pixel(machine, *FAULT_MARK[0]), GREEN))

    rdp_port, sam = machine.rdp_port, machine.config.folder / "run" / "sam"
    assert rdp_port is not None and is_listening(machine.config.address, rdp_port) and sam.exists()
    assert installation.guacd_of(rescue) != [] and installation.credentials_of(rescue) == 1
    cause, fix = alice.close()
    expect(alice.page.locator("[data-summary] [data-state=closed]")).to_be_visible()
    expect(alice.page.locator("[data-summary]")).to_contain_text("Solved and closed. Nothing is left open.")
    expect(alice.page.locator("[data-summary]")).to_contain_text(cause)
    expect(alice.page.locator("[data-summary]")).to_contain_text(fix)
    nothing_is_left(installation, machine, rescue, rdp_port=rdp_port, sam=sam)
    machine.wait_for(lambda m: m.rescue.state == "closed" and m.rescue.end_reason == "resolved")
    machine.wait_for(lambda m: "Solved" in m.screen["help"]["message"])
    assert installation.session(rescue)["machine_told_at"] is not None


def _element(value: int) -> str:
    return f"{len(str(value))}.{value}"


def nothing_is_left(
    installation: Installation, machine: SimulatedMachine, rescue: str, *, rdp_port: int | None, sam: Path
) -> None:
    wait_until(lambda: installation.session(rescue)["state"] == "closed", what="the rescue was closed")
    machine.wait_for(lambda m: m.rdp_port is None)
    assert rdp_port is None or not is_listening(machine.config.address, rdp_port)
    assert not sam.exists()
    record = machine.config.folder / "agent" / "rescue.json"
    wait_until(lambda: not record.exists(), what="the agent has forgotten the rescue, as the last of all")
    assert installation.guacd_of(rescue) == []
    assert {gateway["state"] for gateway in installation.gateways_of(rescue)} == {"stopped"}
    assert installation.credentials_of(rescue) == 0
    of_rescue = "SELECT * FROM support_guacamole_connection WHERE session_id = ?"
    connections = installation.rows(of_rescue, rescue.replace("-", ""))
    assert [row for row in connections if row["closed_at"] is None or row["connection_id"] is not None] == []


def test_watcher_sees_the_desktop_and_can_touch_nothing(
    machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    alice, bob = sign_in("Alice"), sign_in("Bob")
    rinses = machine.screen["counters"]["rinses"]
    machine.press()
    rescue = alice.claim(machine)
    alice.is_at_desktop()
    bob.open_rescue(rescue)
    bob.is_at_desktop()
    expect(alice.page.locator("[data-part=people]")).to_contain_text("Bob")
    bob.until(lambda: near(bob.pixel(machine, *FAULT_MARK[0]), RED))

    # The page keeps a watcher's hands off; and so does the server, whatever a browser sends.
    bob.click_widget(machine, "rinse")
    bob.page.keyboard.press("F1")
    bob.tunnel_has_taken_all()
    assert not any("5.mouse" in frame or "3.key" in frame for frame in bob.sent)
    x, y, width, height = machine.screen["widgets"]["rinse"]
    middle = f"{_element(x + width // 2)},{_element(y + height // 2)}"
    bob.send_raw("".join(f"5.mouse,{middle},1.{mask};" for mask in (0, 1, 0)))
    bob.until(lambda: any("mouse' as a watcher" in frame for frame in bob.received))
    bob.is_at_desktop()  # thrown out, and back in its own part
    alice.click_widget(machine, "reset_grinder")
    alice.click_widget(machine, "clear_fault")
    machine.wait_for(lambda m: m.screen["fault"] is None)
    bob.until(lambda: near(bob.pixel(machine, *FAULT_MARK[0]), GREEN))
    assert machine.screen["counters"]["rinses"] == rinses

    # Alice's hands do what Bob's could not: the test would have seen it.
    alice.click_widget(machine, "rinse")
    machine.wait_for(lambda m: m.screen["counters"]["rinses"] == rinses + 1)
    alice.close()
    expect(bob.page.locator("[data-summary]")).to_contain_text("Solved and closed")
