"""Over UDP and over TCP into the same VPN, by two real OpenVPNs: a machine is one machine whichever way it comes."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from machines import identities, passages
from machines.models import Machine, SecurityEvent
from machines.passages import Passage
from machines.vpn_models import VpnAuthority, VpnConnection
from tests.machines.authorisation import bed as beds
from tests.machines.authorisation.bed import JOINED, Bed, joined, open_rows, profile, said, text, until
from tests.machines.cast import new_machine

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(bool(beds.missing()), reason=f"a real OpenVPN in namespaces {beds.missing()}"),
]
RDP = 3389


@pytest.fixture
def bed(settings: Settings) -> Iterator[Bed]:
    with beds.serving(settings, VPN_TCP_PORT=443) as bed:
        bed.start_tcp_openvpn()
        beds.ip("netns", "exec", bed.server, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        yield bed


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> set[Passage]:
    wanted: set[Passage] = set()
    monkeypatch.setattr(passages, "_sources", [lambda: wanted])
    return wanted


def drop_udp(bed: Bed, place: str) -> None:
    """From here on the network there lets no UDP out or in."""
    rules = (
        "add table ip no_udp\n"
        "add chain ip no_udp in { type filter hook input priority 0; }\n"
        "add chain ip no_udp out { type filter hook output priority 0; }\n"
        "add rule ip no_udp in iifname eth0 meta l4proto udp drop\n"
        "add rule ip no_udp out oifname eth0 meta l4proto udp drop\n"
    )
    subprocess.run(
        ["ip", "netns", "exec", bed.place(place), "nft", "-f", "-"], input=rules, text=True, check=True, timeout=30,
    )  # fmt: skip


def tcp_alone(text_of_profile: str) -> str:
    return re.sub(r"(?m)^remote \S+ \d+ udp4\n", "", text_of_profile)


def connects(bed: Bed, place: str, one: Machine, *, over_tcp: bool) -> tuple[subprocess.Popen[bytes], Path]:
    """Over TCP at once: as OpenVPN does it by itself takes 6 s more, and a test of its own."""
    _, text_of_profile = profile(one)
    if over_tcp:
        text_of_profile = tcp_alone(text_of_profile)
    client, log = bed.connect(place, text_of_profile)
    joined(log)
    until(lambda: open_rows(one), what="row of the connection")
    return client, log


def leads_over_tcp(bed: Bed, one: Machine) -> bool:
    return f"dev {beds.TCP_DEVICE}" in beds.ip("-n", bed.server, "route", "show", one.vpn_address)


def test_machine_without_udp_is_in_over_tcp_and_reached_as_any_other(
    bed: Bed, agent: None, reachable: set[Passage]
) -> None:
    a1, a2 = new_machine("A1"), new_machine("A2")
    drop_udp(bed, "a")
    _, log = connects(bed, "a", a1, over_tcp=False)
    assert text(log).count("UDPv4 link remote") == 1, "one try of 6 s, and then over TCP"
    connects(bed, "b", a2, over_tcp=False)
    until(lambda: leads_over_tcp(bed, a1), what="the route to it")
    assert not leads_over_tcp(bed, a2)
    for place, one in (("a", a1), ("b", a2)):
        bed.listen(bed.place(place), one.vpn_address, RDP)
    bed.listen(bed.server, beds.SERVER_INSIDE, beds.API_PORT)
    bed.listen(bed.server, "0.0.0.0", 5432)
    tries = {
        "a to the machines' face": bed.hold(bed.place("a"), beds.SERVER_INSIDE, beds.API_PORT),
        "b to the machines' face": bed.hold(bed.place("b"), beds.SERVER_INSIDE, beds.API_PORT),
        "a to another service": bed.hold(bed.place("a"), beds.SERVER_INSIDE, 5432),
        "a to b": bed.hold(bed.place("a"), a2.vpn_address, RDP),
        "b to a": bed.hold(bed.place("b"), a1.vpn_address, RDP),
        "a gateway without a passage": bed.hold(bed.server, a1.vpn_address, RDP, user=61003),
    }
    until(
        lambda: all(said(log, "connected") or said(log, "no way") for _, log in tries.values()), what="all have tried"
    )
    assert {name for name, (_, log) in tries.items() if said(log, "connected")} == {
        "a to the machines' face", "b to the machines' face",
    }  # fmt: skip
    reachable.add(Passage("uid:61003", a1.vpn_address, RDP))
    _, log = bed.hold(bed.server, a1.vpn_address, RDP, user=61003)
    until(lambda: said(log, "connected"), what=lambda: text(log))
    assert not bed.reaches(bed.server, a1.vpn_address, RDP, user=61004)
    reachable.clear()
    until(lambda: said(log, "cut"), timeout_s=20, what=lambda: text(log)[-200:])


def test_machine_whose_udp_dies_goes_over_to_tcp_and_stays_one_machine(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    client, _ = connects(bed, "a", a1, over_tcp=False)
    first = VpnConnection.objects.get()
    drop_udp(bed, "a")
    until(lambda: VpnConnection.objects.filter(ended_at=None).exclude(pk=first.pk).exists(), timeout_s=80)
    until(lambda: leads_over_tcp(bed, a1), what="the route to it")
    assert client.poll() is None and open_rows(a1) == 1
    bed.listen(bed.server, beds.SERVER_INSIDE, beds.API_PORT)
    assert bed.reaches(bed.place("a"), beds.SERVER_INSIDE, beds.API_PORT)
    # And back: it comes anew, with UDP.
    client.kill()
    client.wait()
    beds.ip("netns", "exec", bed.place("a"), "nft", "flush", "ruleset")
    connects(bed, "a", a1, over_tcp=False)
    until(lambda: not leads_over_tcp(bed, a1), what="the route is away")
    until(lambda: open_rows(a1) == 1)
    assert bed.reaches(bed.place("a"), beds.SERVER_INSIDE, beds.API_PORT)
    assert not SecurityEvent.objects.filter(kind="vpn_duplicate").exists()


def test_same_identity_over_the_other_way_from_elsewhere_is_a_theft(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    _, text_of_profile = profile(a1)
    client, log = bed.connect("a", text_of_profile)
    joined(log)
    until(lambda: open_rows(a1))
    thief, log = bed.connect("b", tcp_alone(text_of_profile))
    thief.wait(60)
    assert said(log, "AUTH_FAILED") and not said(log, JOINED)
    until(lambda: SecurityEvent.objects.filter(kind="vpn_duplicate", machine=a1).exists(), what="security event")
    assert client.poll() is None and open_rows(a1) == 1


def test_machine_revoked_over_tcp_is_out_within_5_s(bed: Bed, agent: None) -> None:
    a1, a2 = new_machine("A1"), new_machine("A2")
    client, _ = connects(bed, "a", a1, over_tcp=True)
    over_udp, _ = connects(bed, "b", a2, over_tcp=False)
    identities.freeze(a1, "stolen")
    assert client.wait(5) == 0
    until(lambda: not open_rows(a1) and not leads_over_tcp(bed, a1))
    wish = identities.end_tunnel_wish(a2, "The rescue is over.")
    assert over_udp.wait(30) == 0
    until(lambda: type(wish).objects.get(pk=wish.pk).done_at, what="the wish is fulfilled")


def test_openvpn_that_is_killed_leaves_the_others_machines_alone(bed: Bed) -> None:
    a1, a2, a3 = new_machine("A1"), new_machine("A2"), new_machine("A3")
    bed.environment["VPN_TCP_PORT"] = "443"
    agent, _ = bed.start_agent()
    _, over_tcp = connects(bed, "a", a1, over_tcp=True)
    connects(bed, "b", a2, over_tcp=False)
    until(lambda: leads_over_tcp(bed, a1), what="the route to it")
    rows = set(VpnConnection.objects.values_list("pk", flat=True))
    bed.listen(bed.server, beds.SERVER_INSIDE, beds.API_PORT)
    bed.openvpn.kill()
    bed.openvpn.wait()
    # Who comes now comes over TCP, and who was there has noticed nothing.
    connects(bed, "c", a3, over_tcp=False)
    until(lambda: leads_over_tcp(bed, a3), what="the route to it")
    assert bed.reaches(bed.place("a"), beds.SERVER_INSIDE, beds.API_PORT)
    assert text(over_tcp).count(JOINED) == 1 and open_rows(a1) == 1
    assert VpnAuthority.objects.get().tcp_answering_at
    # Another agent finds each at its own OpenVPN.
    agent.kill()
    agent.wait()
    bed.start_openvpn()
    bed.start_agent()
    until(lambda: not VpnConnection.objects.filter(machine=a2, pk__in=rows, ended_at=None).exists(), what="A2 was gone")
    assert VpnConnection.objects.filter(machine=a1, pk__in=rows, ended_at=None).exists()
    until(lambda: leads_over_tcp(bed, a1), what="the route to it")
    assert text(over_tcp).count(JOINED) == 1
