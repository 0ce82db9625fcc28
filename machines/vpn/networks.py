"""How the machines' network is divided: the server and the gateways at its beginning, then the machines.

Nothing here knows of Django, so that the settings can be checked with it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

# The first addresses of the machines' network are the server's and the gateways'; no machine ever gets one.
RESERVED = 256

# A host name or an IPv4 address, and a network interface's name (the kernel has 15 characters for it).
HOST = r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
DEVICE = r"[A-Za-z][A-Za-z0-9_-]{0,14}"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def tcp_device(device: str) -> str:
    """The network interface of those who come in over TCP, beside `device` of those over UDP.

    Raises ValueError for a device so long that both would have the same name.
    """
    name = f"{device[:11]}-tcp"
    if name == device:
        raise ValueError(f"VPN_DEVICE: found {device}, which is to be the name of the device for TCP beside it")
    return name


def check_whole(network: Network) -> None:
    """Raises ValueError for what cannot be the whole machines' network of a VPN server."""
    if network.version != 4 or not 8 <= network.prefixlen <= 23:
        raise ValueError(
            f"VPN_NETWORK: found {network}, expected an IPv4 network between /8 and /23, as in 10.77.0.0/20"
        )
    if not network.is_private or network.is_loopback or network.is_link_local:
        raise ValueError(f"VPN_NETWORK: found {network}, expected a private network, as in 10.77.0.0/20")


def server_address(network: Network) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The VPN server's own address: the first of the network."""
    return network.network_address + 1


def is_machines(number: int, network: Network) -> bool:
    """Whether this address, as a number, is one that a machine may have: neither reserved nor the broadcast one."""
    return int(network.network_address) + RESERVED <= number < int(network.broadcast_address)


def gateways(network: Network) -> Network:
    """The part at the network's beginning in which gateways have their addresses (and the server has its own)."""
    return ipaddress.ip_network((int(network.network_address), network.max_prefixlen - RESERVED.bit_length() + 1))


def gateway_numbers(network: Network) -> range:
    """The addresses that gateways may have, as numbers: not the network's own, nor the server's."""
    first = int(network.network_address)
    return range(first + 2, first + RESERVED)


def has_gateway(address: str, network: Network) -> bool:
    """Whether this text is an address that a gateway may have in the network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.version == network.version and int(parsed) in gateway_numbers(network)


def has_machine(address: str, network: Network) -> bool:
    """Whether this text is an address that a machine may have in the network."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return parsed.version == network.version and is_machines(int(parsed), network)


def machine_numbers(network: Network, *, of: Network, but: Iterable[Network] = ()) -> Iterator[int]:
    """The addresses of `network` that machines may have within `of`, in order, as numbers; those in `but` left out."""
    spans = sorted((int(one.network_address), int(one.broadcast_address)) for one in but)
    # A network's own first and last address name the network and everyone in it, also where it is but a part.
    number, last = int(network.network_address) + 1, int(network.broadcast_address) - 1
    number = max(number, int(of.network_address) + RESERVED)
    last = min(last, int(of.broadcast_address) - 1)
    while number <= last:
        inside = next((end for start, end in spans if start <= number <= end), None)
        if inside is None:
            yield number
            number += 1
        else:
            number = inside + 1


def check_part(text: str, *, of: Network, others: Iterable[tuple[str, str]] = ()) -> Network:
    """The network that `text` names, if a fleet may have it: within the machines' network and apart from the others'.

    `others` are fleets' names and networks. Raises ValueError; its text names what was found and what was expected.
    """
    try:
        part = ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"Found {text[:60]!r}, expected a network such as {_example(of)}.") from None
    beginning = int(part.network_address)
    if part.version != of.version or not int(of.network_address) <= beginning <= int(of.broadcast_address):
        raise ValueError(f"Found {part}, expected a network within the machines' network {of}.")
    if part.prefixlen <= of.prefixlen:
        raise ValueError(f"Found {part}, expected a part of the machines' network {of}, not all of it.")
    if next(machine_numbers(part, of=of), None) is None:
        raise ValueError(
            f"Found {part}, which has no address for a machine: the first {RESERVED} of {of} are reserved."
        )
    for name, network in others:
        if part.overlaps(ipaddress.ip_network(network)):
            raise ValueError(f"Found {part}, which overlaps {network} of {name}; expected a network of its own.")
    return part


def _example(of: Network) -> str:
    beginning = ipaddress.ip_address(int(of.network_address) + RESERVED)
    return f"{beginning}/{of.max_prefixlen - 8}"
