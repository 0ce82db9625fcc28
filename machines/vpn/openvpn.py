"""An OpenVPN server beside the portal. The authorisation agent works on it; here are the wishes and what it has told.

So the portal and the worker need no way to OpenVPN itself, only to the database.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import F
from django.utils import timezone

from machines import identities
from machines.models import Machine, TunnelEnding, VpnAuthority, VpnConnection
from machines.vpn.base import AddressError, TunnelStillUp
from machines.vpn.networks import RESERVED, is_machines

# A wish that was fulfilled this recently answers also for the next call: whoever waits asks again within a minute.
_JUST_DONE = timedelta(seconds=90)
# The authorisation agent says every two seconds that it is there. Without it a machine may be heard and nobody knows.
_AGENT_AWAY = timedelta(seconds=10)


class OpenVpn:
    """Machines are behind OpenVPN's server, each at its own address in VPN_NETWORK."""

    def check_address(self, address: str) -> None:
        network = settings.VPN_NETWORK
        try:
            parsed = ipaddress.IPv4Address(address)
        except ValueError as error:
            raise AddressError(f"Found {address!r}, expected an IPv4 address in {network}.") from error
        if parsed not in network:
            raise AddressError(f"Found {address}, expected an address in the machines' network {network}.")
        if not is_machines(int(parsed), network):
            raise AddressError(
                f"Found {address}, which is reserved: the first {RESERVED} and the last address of {network} are."
            )

    def end_tunnel(self, address: str) -> None:
        self.check_address(address)
        machine = Machine.objects.filter(vpn_address=address).first()
        if machine is None:
            raise AddressError(f"Found {address}, expected the address of a machine.")
        if not TunnelEnding.objects.filter(machine=machine, done_at=None).exists() and _is_down(machine):
            return
        wish = identities.end_tunnel_wish(machine, "rescue closed")
        raise TunnelStillUp(
            f"The tunnel of {machine.serial} at {address} has not ended yet, asked for at {wish.requested_at:%H:%M:%S}."
        )

    def last_heard(self, address: str) -> datetime | None:
        self.check_address(address)
        answering = VpnAuthority.objects.filter(answering_at__gt=timezone.now() - _AGENT_AWAY)
        if not answering.exists():
            return None
        connections = VpnConnection.objects.filter(machine__vpn_address=address)
        # The open one counts, whatever the clocks of the others say.
        newest = connections.order_by(F("ended_at").desc(nulls_first=True), "-heard_at")
        return newest.values_list("heard_at", flat=True).first()


def _is_down(machine: Machine) -> bool:
    """Known to be down: no connection is open, and the agent has just said so itself."""
    if VpnConnection.objects.filter(machine=machine, ended_at=None).exists():
        return False
    return TunnelEnding.objects.filter(machine=machine, done_at__gte=timezone.now() - _JUST_DONE).exists()
