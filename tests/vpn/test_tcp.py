"""A machine whose network lets no UDP out: a rescue over TCP 443, beside a machine that comes in over UDP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.e2e.people import Person
from tests.vpn.bed import Installation, installed, wait_until
from tests.vpn.test_rescue import nothing_is_left


@pytest.fixture(scope="module")
def vpn() -> Iterator[Installation]:
    """One with two ways in."""
    with installed(["T1", "T2"], VPN_TCP_PORT="443") as installation:
        yield installation


@pytest.fixture(scope="module")
def _signed_in() -> dict[str, Any]:
    return {}


@pytest.mark.timeout(240)
def test_machine_without_udp_is_rescued_over_tcp_and_nothing_is_left(
    vpn: Installation, sign_in: Callable[[str], Person]
) -> None:
    vpn.bed.set_line("T1", "dead")
    alice = sign_in("Alice")
    with vpn.machine("T1") as machine, vpn.machine("T2", when="always"):
        wait_until(lambda: vpn.clerk("open_connections", "T2"), what="the other one is in over UDP")
        machine.press()
        expect(alice.ticket(machine)).to_contain_text("Grinder jammed", timeout=30_000)
        rescue = alice.claim(machine)
        alice.is_at_desktop()
        (connection,) = vpn.clerk("open_connections", "T1")
        assert connection["remote"] == vpn.bed.outside("T1")
        assert _leads_over(vpn, "T1") == "tun-pf-tcp" and _leads_over(vpn, "T2") == "tun-pf"
        alice.click_widget(machine, "reset_grinder")
        machine.wait_for(lambda m: m.screen["grinder"] == "ready")
        alice.close()
        nothing_is_left(vpn, machine, rescue)
        assert _leads_over(vpn, "T1") == "tun-pf"


def _leads_over(vpn: Installation, serial: str) -> str:
    """The device over which the server would send to a machine."""
    words = vpn.bed.ask(None, "ip", "route", "get", vpn.clerk("address", serial))[1].split()
    return words[words.index("dev") + 1]
