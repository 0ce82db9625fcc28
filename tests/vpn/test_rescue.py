"""One whole rescue through a real tunnel: press, VPN, private API, gateway, pixels, a click, and back to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from portal.demo.vpn.lines import Quality
from tests.e2e.people import Person
from tests.e2e.test_rescue import FAULT_MARK, GREEN, RED, near
from tests.vpn.bed import Installation, wait_until
from tests.vpn.machines import DistantMachine

# There and back, in milliseconds: next door, and the other side of the Earth.
NEAR, FAR = Quality(delay_ms=5), Quality(delay_ms=150, jitter_ms=5)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("line", [NEAR, FAR], ids=["next door", "300 ms away"])
def test_jammed_grinder_is_cured_through_the_tunnel_and_nothing_is_left(
    vpn: Installation,
    place: Callable[[], str],
    sign_in: Callable[[str], Person],
    line: Quality,
    record_property: Callable[[str, object], None],
) -> None:
    serial = place()
    vpn.bed.set_line(serial, line)
    alice = sign_in("Alice")
    with vpn.machine(serial) as machine:
        assert not vpn.clerk("open_connections", serial)  # no tunnel without a press
        began = time.monotonic()
        machine.press()
        expect(alice.ticket(machine)).to_contain_text("Grinder jammed", timeout=30_000)
        record_property("press_to_card_s", round(time.monotonic() - began, 2))
        rescue = alice.claim(machine)
        alice.is_at_desktop()
        record_property("press_to_pixels_s", round(time.monotonic() - began, 2))
        (connection,) = vpn.clerk("open_connections", serial)
        assert connection["remote"] == vpn.bed.outside(serial)
        # Nothing of the machine is reached but through the tunnel: its RDP listens there alone.
        assert machine.rdp_port == 3389 and vpn.connects(serial, "127.0.0.1", 3389) == "refused"

        alice.until(lambda: near(alice.pixel(machine, *FAULT_MARK[0]), RED))
        alice.until(lambda: alice.sees_what_the_machine_shows(machine, FAULT_MARK))
        for button, done in (
            ("reset_grinder", lambda m: m.screen["grinder"] == "ready"),
            ("clear_fault", lambda m: m.screen["fault"] is None),
        ):
            alice.click_widget(machine, button)
            machine.wait_for(done)
        alice.until(lambda: near(alice.pixel(machine, *FAULT_MARK[0]), GREEN))

        alice.close()
        expect(alice.page.locator("[data-summary] [data-state=closed]")).to_be_visible(timeout=40_000)
        closed = time.monotonic()
        nothing_is_left(vpn, machine, rescue)
        record_property("closed_to_nothing_left_s", round(time.monotonic() - closed, 2))
        machine.wait_for(lambda m: m.rescue.state == "closed")
        assert "resolved" in vpn.session(rescue)["end_reason"]


def nothing_is_left(vpn: Installation, machine: DistantMachine, rescue: str, *, within_s: float = 40) -> None:
    """Of this rescue: no gateway, no login, no passage, no tunnel, no RDP server, no openvpn at the machine."""
    serial = machine.config.serial
    wait_until(lambda: vpn.session(rescue)["state"] == "closed", what="the rescue was closed", within_s=within_s)
    wait_until(lambda: not vpn.clerk("open_connections", serial), what="the tunnel has ended", within_s=within_s)
    wait_until(lambda: "openvpn" not in vpn.programs(serial), what="the machine's openvpn is gone", within_s=within_s)
    machine.wait_for(lambda m: m.rdp_port is None, timeout_s=within_s)
    assert {gateway["state"] for gateway in vpn.gateways_of(rescue)} == {"stopped"}
    hexadecimal = rescue.replace("-", "")
    assert vpn.rows("SELECT * FROM support_rdp_credential WHERE session_id = ?", hexadecimal) == []
    address = vpn.clerk("address", serial)
    wait_until(lambda: f"{address} " not in vpn.nft(), what="the passage is gone")
    assert "freerdp-shadow-" not in " ".join(vpn.programs(serial))
    attempts = {row["id"].replace("-", "") for row in vpn.gateways_of(rescue)}
    assert not [pid for pid in vpn.guacd() if _attempt_of(pid) in attempts]


def _attempt_of(pid: int) -> str | None:
    try:
        values = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    marks = [value.partition(b"=")[2].decode() for value in values if value.startswith(b"PORTAFILTER_GATEWAY=")]
    return marks[0].replace("-", "") if marks else None
