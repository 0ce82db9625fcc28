"""No VPN: each machine speaks from a loopback address of its own (development, tests, the demo)."""

from __future__ import annotations

import ipaddress
from datetime import datetime

from django.conf import settings

from machines.vpn.base import AddressError


class LoopbackVpn:
    """Machines live in VPN_NETWORK on this very computer; there is no tunnel, so none to end."""

    def check_address(self, address: str) -> None:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError as error:
            raise AddressError(f"Found {address!r}, expected an IP address in {settings.VPN_NETWORK}.") from error
        if parsed not in settings.VPN_NETWORK:
            raise AddressError(f"Found {address}, expected an address in the machines' network {settings.VPN_NETWORK}.")

    def end_tunnel(self, address: str) -> None:
        self.check_address(address)

    def last_heard(self, address: str) -> datetime | None:
        self.check_address(address)
        return None
