"""Who gets a rescue, and who must not even know of it."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Route, expect

from agent.simulator import SimulatedMachine
from tests.e2e.installation import Installation
from tests.e2e.people import Person


def test_of_two_who_claim_at_once_one_wins_and_the_other_is_told_who(
    machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    both = [sign_in("Alice"), sign_in("Bob")]
    held: list[Route] = []
    for person in both:
        person.page.route("**/claim/", lambda route: held.append(route))
    machine.press()
    for person in both:
        person.ticket(machine).locator("[data-action=claim]").click()
    both[0].until(lambda: len(held) == 2)  # neither has read of the other's claim
    for route in held:
        route.continue_()
    both[0].until(lambda: any("/sessions/" in person.page.url for person in both))
    winner, loser = both if "/sessions/" in both[0].page.url else reversed(both)
    expect(loser.ticket(machine)).to_contain_text(f"{winner.name} Test claimed it just before you")
    assert "/sessions/" not in loser.page.url
    expect(loser.ticket(machine).locator("[data-action=watch]").first).to_be_visible()
    winner.is_at_desktop()
    machine.wait_for(lambda m: m.rescue.operator_name.startswith(winner.name))
    winner.close(outcome="Not resolved")


def test_another_fleets_operator_finds_nothing(
    installation: Installation, machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    alice, charlie = sign_in("Alice"), sign_in("Charlie")
    machine.press()
    rescue = alice.claim(machine)
    alice.is_at_desktop()

    expect(charlie.page.get_by_text("Nobody is waiting")).to_be_visible()
    assert charlie.get("/sessions/?state=open")[1]["results"] == []
    assert charlie.get("/machines/")[1]["results"] == []
    serial = machine.config.serial
    machine_id = installation.rows("SELECT id FROM machines_machine WHERE serial = ?", serial)[0]["id"]
    paths = (f"/sessions/{rescue}/", f"/sessions/{rescue}/events/", f"/sessions/{rescue}/colleagues/")
    assert [charlie.get(path)[0] for path in (*paths, f"/machines/{machine_id}/")] == [404, 404, 404, 404]
    assert alice.get(paths[0])[0] == 200
    for path in (f"/sessions/{rescue}/", f"/machines/{machine_id}/"):
        response = charlie.page.goto(installation.address + path)
        assert response is not None and response.status == 404
        assert serial not in charlie.page.content()

    opens = """path => new Promise(done => {
        const socket = new WebSocket(path.replace("http", "ws"), "guacamole");
        socket.onopen = () => done("open");
        socket.onerror = () => done("refused");
    })"""
    tunnel = f"{installation.address}/ws/sessions/{rescue}/tunnel/"
    charlie.open_queue()
    assert charlie.page.evaluate(opens, tunnel) == "refused"
    assert alice.page.evaluate(opens, tunnel) == "open"
    alice.close(outcome="Not resolved")
    heard = "".join(charlie.received)
    assert '"snapshot"' in heard
    assert rescue not in heard and serial not in heard
