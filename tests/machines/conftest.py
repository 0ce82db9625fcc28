"""What several tests of the VPN share."""

from __future__ import annotations

import ipaddress

import pytest
from pytest_django.fixtures import Settings


@pytest.fixture
def vpn(settings: Settings) -> Settings:
    """The settings of an OpenVPN server."""
    settings.VPN = "openvpn"
    settings.VPN_NETWORK = ipaddress.ip_network("10.77.0.0/20")
    settings.VPN_REMOTE = "vpn.example.com"
    return settings
