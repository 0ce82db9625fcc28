"""What a VPN driver is: it knows which addresses are machines', and ends a machine's tunnel.

The choice is the setting VPN: an alias below or a dotted path to a class.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

ALIASES = {"loopback": "machines.vpn.loopback.LoopbackVpn", "openvpn": "machines.vpn.openvpn.OpenVpn"}


class AddressError(ValueError):
    """An address that no machine can have; the text names what was found and what was expected."""


class VpnError(Exception):
    """The VPN could not do as told; `permanent` says that trying again is of no use."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class TunnelStillUp(VpnError):
    """The tunnel was told to end and has not ended yet: ask again."""


class VpnDriver(Protocol):
    """One way for machines to be reached."""

    def check_address(self, address: str) -> None:
        """Raises AddressError unless a machine may have this address (T12: nothing else is ever dialled)."""

    def end_tunnel(self, address: str) -> None:
        """Ends the tunnel of the machine at this address; ending it twice is fine.

        Raises TunnelStillUp until it has ended, and VpnError when it cannot be ended.
        """

    def last_heard(self, address: str) -> datetime | None:
        """When something last came through the machine's tunnel; None when that cannot be told."""


def has_vpn() -> bool:
    """Whether this installation has a VPN that machines join."""
    return bool(settings.VPN == "openvpn")


@cache
def get_driver() -> VpnDriver:
    """The driver that the setting VPN chooses."""
    driver: VpnDriver = import_string(ALIASES.get(settings.VPN, settings.VPN))()
    return driver
