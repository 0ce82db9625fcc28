"""The worker's pass over machines' tunnels: whose line is silent is said, and who stays silent is given up.

An RDP connection outlives a silent line for minutes, so its gateway notices nothing; OpenVPN hears each machine at
least every 5 s (`keepalive`). A VPN that cannot tell when a machine was last heard leaves it to the gateways.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings

from machines.vpn.base import AddressError, VpnDriver
from sessions import services
from sessions.models import SupportSession
from sessions.passes import each
from sessions.states import OPEN_STATES, EndReason

UNREACHABLE = "Machine unreachable: its line is silent. The rescue waits for it; there is nothing to do yet."
# Twice the time in which a machine's OpenVPN says at least something.
SILENT_AFTER = timedelta(seconds=20)

_LOOK_EVERY = timedelta(seconds=1)


@dataclass
class ReachPasses:
    """What one worker thread does about silent lines."""

    now: Callable[[], datetime]
    vpn: Callable[[], VpnDriver]
    _looked_at: datetime | None = None

    def run(self) -> None:
        now = self.now()
        if self._looked_at and now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        sessions = SupportSession.objects.filter(state__in=OPEN_STATES).select_related("machine", "fleet")
        each(sessions, self._look_at, "look at a machine's line")

    def _look_at(self, session: SupportSession) -> None:
        now = self.now()
        try:
            heard_at = self.vpn().last_heard(session.machine.vpn_address)
        except AddressError:
            return  # the keeper says so, in words
        if heard_at is None:
            return
        silent_for = now - heard_at
        if silent_for >= timedelta(seconds=settings.MACHINE_GONE_S):
            detail = f"Nothing came through the machine's tunnel for {silent_for.total_seconds():.0f} s."
            services.end(session, EndReason.MACHINE_UNREACHABLE, detail=detail, now=now)
        elif silent_for >= SILENT_AFTER:
            services.set_notice(session, UNREACHABLE, now=now)
        elif session.notice == UNREACHABLE:
            services.set_notice(session, "", now=now)
