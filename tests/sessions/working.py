"""What the tests of the worker share: a VPN that ends tunnels as told, and looks at what became of a session."""

from __future__ import annotations

from datetime import datetime

from machines.vpn.base import TunnelStillUp, VpnError
from sessions import services
from sessions.models import Gateway, GuacamoleConnection, SessionEvent, SupportSession
from tests.sessions.rescues import Clock


class FakeVpn:
    """Tunnels that were ended; the first `refused` tries fail, the next `lingering` find the tunnel still up."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.refused = 0
        self.lingering = 0
        self.heard_at: datetime | None = None

    def check_address(self, address: str) -> None:
        return

    def end_tunnel(self, address: str) -> None:
        if self.refused:
            self.refused -= 1
            raise VpnError("The management socket does not answer.")
        if self.lingering:
            self.lingering -= 1
            raise TunnelStillUp("It has been told.")
        self.ended.append(address)

    def last_heard(self, address: str) -> datetime | None:
        return self.heard_at


def fresh(session: SupportSession) -> SupportSession:
    return SupportSession.objects.select_related("fleet", "machine", "operator").get(pk=session.pk)


def gateway_of(session: SupportSession) -> Gateway:
    """The latest one."""
    return Gateway.objects.filter(session=session).order_by("-attempt")[0]


def kinds(session: SupportSession) -> list[str]:
    return list(SessionEvent.objects.filter(session=session).values_list("kind", flat=True))


def hold_desktop(session: SupportSession, clock: Clock) -> GuacamoleConnection:
    """What the keeper does when it has logged in."""
    connection = GuacamoleConnection.objects.create(
        session=session, gateway=gateway_of(session), hostname="127.64.0.1", port=3390, connection_id="$1"
    )
    services.desktop_ready(fresh(session), now=clock())
    return connection
