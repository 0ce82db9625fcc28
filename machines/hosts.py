"""Hosts as settings name them; nothing else is imported here, since the settings do."""

from __future__ import annotations

import ipaddress


def is_this_computer(host: str) -> bool:
    """Whether what goes to this host, a name or an address without brackets, does not leave this computer."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
