"""Which address in the VPN a new machine gets."""

from __future__ import annotations

import ipaddress
import itertools
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
    return allocate_addresses(fleet, 1)[0]


def allocate_addresses(fleet: Fleet, count: int) -> list[str]:
    """As `allocate_address`, so many at once: whoever registers a thousand machines looks once what is taken."""
    # NO KEY: rows that refer to a fleet can be made meanwhile. SQLite has one writer at a time anyway.
    fleets = list(Fleet.objects.select_for_update(no_key=True).order_by("pk"))
    taken = _ever_taken()
    candidates = (str(ipaddress.ip_address(number)) for number in _candidates(fleet, fleets))
    found = list(itertools.islice((address for address in candidates if address not in taken), count))
    if len(found) == count:
        return found
    where, left = fleet.vpn_network or settings.VPN_NETWORK, len(found) or "no"
    raise NoAddressLeft(
        f"{fleet.name} has {left} address{'es' * (len(found) > 1)} left in {where}: an address is never used again. "
        "Give it a larger VPN network."
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
