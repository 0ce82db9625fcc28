"""Which address in the VPN a new machine gets."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from django.conf import settings

from machines.errors import NoAddressLeft
from machines.models import Fleet, Machine, VpnAddress
from machines.vpn.networks import Network, machine_numbers


def allocate_address(fleet: Fleet) -> str:
    """An address that no machine has or ever had: from the fleet's network, else from what is no other fleet's.

    Call it in the transaction that saves the machine (saving is what takes the address): until that ends nobody else
    is given one. Raises NoAddressLeft.
    """
    # NO KEY: rows that refer to a fleet can be made meanwhile. SQLite has one writer at a time anyway.
    fleets = list(Fleet.objects.select_for_update(no_key=True).order_by("pk"))
    taken = _ever_taken()
    for number in _candidates(fleet, fleets):
        address = str(ipaddress.ip_address(number))
        if address not in taken:
            return address
    where = fleet.vpn_network or settings.VPN_NETWORK
    raise NoAddressLeft(
        f"{fleet.name} has no address left in {where}: an address is never used again. Give it a larger VPN network."
    )


def _candidates(fleet: Fleet, fleets: list[Fleet]) -> Iterator[int]:
    whole: Network = settings.VPN_NETWORK
    if fleet.vpn_network:
        return machine_numbers(ipaddress.ip_network(fleet.vpn_network), of=whole)
    others = [ipaddress.ip_network(one.vpn_network) for one in fleets if one.vpn_network and one.pk != fleet.pk]
    return machine_numbers(whole, of=whole, but=others)


def _ever_taken() -> set[str]:
    remembered = VpnAddress.objects.order_by().values_list("address", flat=True)
    present = Machine.objects.order_by().values_list("vpn_address", flat=True)
    return set(remembered.union(present))
