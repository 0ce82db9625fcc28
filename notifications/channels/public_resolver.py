"""Looks names up for a client that must not be led inward (T17).

The addresses that are checked are those that the client then connects to: there is no second look-up between the two
that a rebinding name could answer in another way.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

# An IPv4 address behind these prefixes is where a translator sends the packets (RFC 6052, RFC 8215).
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
# The only part of IPv6 that was given out (IANA's address space registry).
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


class InwardAddress(OSError):
    """The name leads to an address that is not public."""


def is_public(address: str) -> bool:
    """Whether it is an address of the internet at large, also when it is wrapped in another one."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if any(found in network for network in _TRANSLATED):
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if found not in _GLOBAL_UNICAST:
            return False
    return found.is_global and not found.is_multicast


class PublicResolver(AbstractResolver):
    """Refuses a name of which any address is not public; `inside` are the hosts that may be anywhere."""

    def __init__(self, *, inside: Collection[str] = (), inner: AbstractResolver | None = None) -> None:
        self._inside = frozenset(inside)
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses; raises InwardAddress, or another OSError when there are none."""
        found = await self._inner.resolve(host, port, family)
        if host not in self._inside and not all(is_public(one["host"]) for one in found):
            raise InwardAddress(f"{host} leads to an address that is not public")
        return found

    async def close(self) -> None:
        await self._inner.close()
