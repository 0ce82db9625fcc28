"""kill -9 of each of the server's programs in the middle of a rescue: back within 30 s, nothing left at its end."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e.people import Person
from tests.vpn.bed import Installation, wait_until
from tests.vpn.test_lines import at_work, can_work
from tests.vpn.test_rescue import nothing_is_left

BACK_S = 30.0


@pytest.mark.timeout(240)
def test_every_program_may_be_killed_and_is_back_within_30_s(
    vpn: Installation,
    place: Callable[[], str],
    sign_in: Callable[[str], Person],
    record_property: Callable[[str, object], None],
) -> None:
    serial, waiting, stranger = place(), place(), place()
    alice = sign_in("Alice")
    profile = vpn.clerk("profile", waiting)
    forged = vpn.clerk("forged_profile", "m-999998", by_ours=True)
    with vpn.machine(serial) as machine:
        rescue = at_work(machine, alice)
        for service in (vpn.bed.openvpn, vpn.bed.authorise, vpn.bed.serve):
            starts, began = service.starts, time.monotonic()
            service.kill()
            # While it is away: one who may join, and one who may not.
            honest, thief = vpn.openvpn(waiting, profile), vpn.openvpn(stranger, forged)
            wait_until(lambda service=service, starts=starts: service.starts > starts and service.pid, what="restart")  # type: ignore[misc]
            can_work(machine, alice, within_s=BACK_S - (time.monotonic() - began))
            record_property(f"{service.name}_back_after_s", round(time.monotonic() - began, 1))
            wait_until(
                lambda honest=honest: honest.has_said("Initialization Sequence Completed"),  # type: ignore[misc]
                what=lambda honest=honest: f"who may join has joined: {honest.last_words()}",  # type: ignore[misc]
                within_s=BACK_S,
            )
            record_property(f"{service.name}_admits_after_s", round(time.monotonic() - began, 1))
            assert not thief.has_said("Initialization Sequence Completed")
            vpn.bed.supervisor.end([honest, thief])
            assert vpn.session(rescue)["state"] in ("active", "ready")
        alice.close(outcome="Not resolved")
        nothing_is_left(vpn, machine, rescue)
