"""Who gets in, and who is out: bare OpenVPN clients against the real server."""

from __future__ import annotations

import time
from collections.abc import Callable

from portal.demo.vpn.services import Service
from tests.vpn.bed import Installation, wait_until

JOINED = "Initialization Sequence Completed"
# Longer than an honest machine needs to join on a busy computer; some tests wait for it in vain.
REFUSED_AFTER_S = 3.0


def joined(client: Service) -> float:
    return wait_until(lambda: client.has_said(JOINED), what=lambda: f"it joined: {client.last_words()}", within_s=60)


def is_written_down(vpn: Installation, serial: str) -> None:
    wait_until(lambda: vpn.clerk("open_connections", serial), what="the connection is written down")


def test_revoked_machine_is_out_within_5_s_and_stays_out(
    vpn: Installation, place: Callable[[], str], record_property: Callable[[str, object], None]
) -> None:
    serial = place()
    profile = vpn.clerk("profile", serial)
    client = vpn.openvpn(serial, profile)
    joined(client)
    is_written_down(vpn, serial)
    assert vpn.opens(serial, "10.77.0.1", 8001)
    vpn.clerk("revoke", serial)
    took_s = wait_until(lambda: not client.pid, what="its tunnel ended", within_s=5)
    record_property("out_after_s", round(took_s, 2))
    wait_until(lambda: not vpn.clerk("open_connections", serial), what="that is written down")
    again = vpn.openvpn(serial, profile)
    wait_until(
        lambda: f"CN=m-{vpn.clerk('number', serial)}" in revoked_lines(vpn), what="OpenVPN refused it by its list"
    )
    assert not again.has_said(JOINED)
    vpn.bed.supervisor.end([again])


def revoked_lines(vpn: Installation) -> str:
    return "\n".join(line for line in vpn.log_of("openvpn").splitlines() if "certificate revoked" in line)


def test_unregistered_expired_and_forged_identities_are_refused(vpn: Installation, place: Callable[[], str]) -> None:
    known, expired, forged = place(), place(), place()
    nobody = vpn.clerk("forged_profile", "m-999999", by_ours=True)
    forger = vpn.clerk("forged_profile", f"m-{vpn.clerk('number', known)}", by_ours=False)
    late = vpn.clerk("profile", expired, days_ago=826)
    strangers = {
        "registered nowhere": (vpn.openvpn(known, nobody), "authorise", "was turned away"),
        "expired": (vpn.openvpn(expired, late), "openvpn", "certificate has expired"),
        "by another authority": (vpn.openvpn(forged, forger), "openvpn", "VERIFY ERROR"),
    }
    for what, (_, log, words) in strangers.items():
        wait_until(lambda log=log, words=words: words in vpn.log_of(log), what=f"{words}: {what}")  # type: ignore[misc]
    time.sleep(REFUSED_AFTER_S)  # the thing that must not happen has no event to wait for
    assert [what for what, (client, _, _) in strangers.items() if client.has_said(JOINED)] == []
    assert strangers["registered nowhere"][0].has_said("AUTH_FAILED")
    vpn.bed.supervisor.end([client for client, _, _ in strangers.values()])
    # The way in was open all the time: who is registered walks through it.
    honest = vpn.openvpn(known, vpn.clerk("profile", known))
    joined(honest)
    vpn.bed.supervisor.end([honest])


def test_forty_machines_that_join_within_two_seconds_all_get_in(vpn: Installation, place: Callable[[], str]) -> None:
    """As many a second as 200 in 10 s; bench/vpn.py does that, with 2,000 registered."""
    at = place()  # behind one router
    clients = [vpn.openvpn(at, profile) for profile in vpn.clerk("register", 40, 40)["profiles"]]
    wait_until(lambda: all(client.has_said(JOINED) for client in clients), what="all have joined", within_s=60)
    assert [client.last_words() for client in clients if client.has_said("AUTH_FAILED")] == []
    vpn.bed.supervisor.end(clients)


def test_stolen_profile_does_not_get_in_beside_the_machine_and_raises_an_alarm(
    vpn: Installation, place: Callable[[], str]
) -> None:
    owner, thief = place(), place()
    profile = vpn.clerk("profile", owner)
    machine = vpn.openvpn(owner, profile)
    joined(machine)
    is_written_down(vpn, owner)
    stolen = vpn.openvpn(thief, profile)
    wait_until(lambda: vpn.clerk("security_events", "vpn_duplicate", owner), what="the alarm", within_s=60)
    (event,) = vpn.clerk("security_events", "vpn_duplicate", owner)
    assert event["address"] == vpn.bed.outside(thief)
    wait_until(lambda: not stolen.pid, what="the thief's client gave up")
    assert stolen.has_said("AUTH_FAILED") and not stolen.has_said(JOINED)
    assert machine.pid and machine.said().count(JOINED) == 1
    assert vpn.opens(owner, "10.77.0.1", 8001)
    vpn.bed.supervisor.end([machine])
