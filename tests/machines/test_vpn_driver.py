"""The driver `openvpn`: which addresses it takes, how a tunnel ends, when a machine was last heard."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from machines import identities, vpn_health
from machines.models import Machine, TunnelEnding, VpnAuthority, VpnConnection
from machines.vpn.base import AddressError, TunnelStillUp, VpnDriver, get_driver
from machines.vpn.loopback import LoopbackVpn
from machines.vpn.openvpn import OpenVpn
from tests.machines.cast import new_machine

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]


def connect(machine: Machine, **values: Any) -> VpnConnection:
    identity = machine.vpn_identities.first() or identities.issue_identity(machine)
    return VpnConnection.objects.create(
        **{"identity": identity, "machine": machine, "client_id": 1, "remote_address": "192.0.2.7", "remote_port": 5}
        | values
    )


def fulfil(*, at: datetime | None = None) -> None:
    """What the authorisation agent does with a wish."""
    for wish in TunnelEnding.objects.filter(done_at=None):
        VpnConnection.objects.filter(machine=wish.machine, ended_at=None).update(ended_at=at or timezone.now())
        identities.tunnel_ended(wish, now=at)


def test_setting_chooses_the_driver() -> None:
    get_driver.cache_clear()
    try:
        assert isinstance(get_driver(), OpenVpn)
    finally:
        get_driver.cache_clear()


@pytest.mark.parametrize("address", ["10.77.1.0", "10.77.15.254"])
def test_machines_addresses_are_taken(address: str) -> None:
    OpenVpn().check_address(address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.77.0.1", "reserved: the first 256"),
        ("10.77.0.255", "reserved"),
        ("10.77.15.255", "reserved"),
        ("10.78.1.1", "expected an address in the machines' network 10.77.0.0/20"),
        ("127.0.0.1", "expected an address in the machines' network"),
        ("::ffff:10.77.1.1", "expected an IPv4 address"),
        ("10.77.1.1\n", "expected an IPv4 address"),
        ("machine.example", "expected an IPv4 address"),
        ("", "expected an IPv4 address"),
    ],
)
def test_other_addresses_are_refused_in_words(address: str, message: str) -> None:
    driver = OpenVpn()
    for ask in (driver.check_address, driver.end_tunnel, driver.last_heard):
        with pytest.raises(AddressError, match=message):
            ask(address)


def test_tunnel_is_ended_by_a_wish_and_only_its_fulfilment_counts() -> None:
    machine, other = new_machine(), new_machine("A2")
    connect(machine)
    connect(other)
    for _ in range(2):
        with pytest.raises(TunnelStillUp, match=r"The tunnel of A1 at 10\.77\.1\.0 has not ended yet"):
            OpenVpn().end_tunnel(machine.vpn_address)
    wish = TunnelEnding.objects.get()
    assert (wish.machine, wish.reason) == (machine, "rescue closed")

    fulfil()
    for _ in range(2):
        OpenVpn().end_tunnel(machine.vpn_address)
    assert TunnelEnding.objects.count() == 1
    assert other.vpn_connections.get().ended_at is None


def test_tunnel_that_nobody_knows_of_is_asked_for_too() -> None:
    """The row of a connection may be late: only the agent knows that there is none."""
    machine = new_machine()
    with pytest.raises(TunnelStillUp):
        OpenVpn().end_tunnel(machine.vpn_address)
    fulfil()
    OpenVpn().end_tunnel(machine.vpn_address)


def test_machine_that_came_back_is_ended_again() -> None:
    machine = new_machine()
    with pytest.raises(TunnelStillUp):
        OpenVpn().end_tunnel(machine.vpn_address)
    fulfil()
    connect(machine)
    with pytest.raises(TunnelStillUp):
        OpenVpn().end_tunnel(machine.vpn_address)
    assert TunnelEnding.objects.count() == 2


def test_wish_of_an_earlier_rescue_does_not_answer_for_this_one() -> None:
    machine = new_machine()
    with pytest.raises(TunnelStillUp):
        OpenVpn().end_tunnel(machine.vpn_address)
    fulfil(at=timezone.now() - timedelta(minutes=5))
    with pytest.raises(TunnelStillUp):
        OpenVpn().end_tunnel(machine.vpn_address)


def test_address_of_no_machine_has_no_tunnel() -> None:
    with pytest.raises(AddressError, match="expected the address of a machine"):
        OpenVpn().end_tunnel("10.77.9.9")


def test_open_connection_says_when_a_machine_was_last_heard() -> None:
    machine, now = new_machine(), timezone.now()
    authority = identities.ensure_authority()
    VpnAuthority.objects.filter(pk=authority.pk).update(answering_at=now)
    assert OpenVpn().last_heard(machine.vpn_address) is None
    connect(machine, heard_at=now, ended_at=now)
    assert OpenVpn().last_heard(machine.vpn_address) == now
    connect(machine, heard_at=now - timedelta(seconds=9))
    assert OpenVpn().last_heard(machine.vpn_address) == now - timedelta(seconds=9)


def test_nobody_knows_when_a_machine_was_heard_while_the_authorisation_agent_is_away(settings: Any) -> None:
    machine, now = new_machine(), timezone.now()
    authority = identities.ensure_authority()
    connect(machine, heard_at=now - timedelta(seconds=60))
    assert OpenVpn().last_heard(machine.vpn_address) is None
    VpnAuthority.objects.filter(pk=authority.pk).update(answering_at=now - timedelta(seconds=40))
    assert OpenVpn().last_heard(machine.vpn_address) is None
    settings.VPN = "openvpn"
    assert any("authorisation agent was last at OpenVPN's side" in sentence for sentence in vpn_health.server_health())


def test_loopback_cannot_tell_when_a_machine_was_heard(settings: Any) -> None:
    settings.VPN_NETWORK = ipaddress.ip_network("127.64.0.0/10")
    driver: VpnDriver = LoopbackVpn()
    assert driver.last_heard("127.64.0.1") is None
    driver.end_tunnel("127.64.0.1")
