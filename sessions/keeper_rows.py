"""What keepers write: who keeps which desktop (a lease on the gateway's row), and the record of each connection.

A keeper writes only while the lease is its own; the state of a session moves through services alone. All of it
blocks: keepers call it in threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from sessions import gateway_rows, services
from sessions.connection import Connection, connection_for
from sessions.errors import SessionClosed, StateConflict
from sessions.models import Gateway, GuacamoleConnection, SessionEvent, SupportSession
from sessions.states import OPEN_STATES, GatewayState, State

LEASE = timedelta(seconds=20)
_RENEW_WITHIN = timedelta(seconds=15)

LOST = "The connection to the machine was lost. It is being brought back."
TRYING = "The machine's screen does not come yet. It is being tried again."
REFUSED = "The machine refused its own one-off login. It is being tried again."
HANGS = "The gateway hangs."
NO_ANSWER = "The gateway does not answer"
RESTARTING = "The server restarts. The screen comes back by itself."

# A login refused twice does not get better by itself: this is the time for the machine to send a new one.
REFUSED_DEADLINE = timedelta(seconds=15)
# So long a rescue whose keeper was told to stop waits for the next one.
NO_KEEPER_DEADLINE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a gateway's guacd is, and what it is to connect to."""

    host: str
    port: int
    connection: Connection
    renewals: int = 0  # how often the machine has sent a new login


def take(owner: str, *, now: datetime) -> set[UUID]:
    """Leases every ready gateway of an open session that nobody keeps, renews our own; all that are ours now."""
    rows = Gateway.objects.filter(state=GatewayState.READY, session__state__in=OPEN_STATES)
    free = Q(keeper_until=None) | Q(keeper_until__lt=now)
    ours = set()
    for pk, keeper, until in rows.filter(free | Q(keeper=owner)).values_list("pk", "keeper", "keeper_until"):
        is_fresh = keeper == owner and until is not None and until > now + _RENEW_WITHIN
        if is_fresh or rows.filter(free | Q(keeper=owner), pk=pk).update(keeper=owner, keeper_until=now + LEASE):
            ours.add(pk)
    return ours


def prepare(gateway_id: UUID, owner: str, *, now: datetime) -> Target | None:
    """What to dial next; None when this gateway is not ours to keep any more.

    A desktop that an earlier keeper left behind is none: its session goes back to `starting` first. Raises
    NotConnectable.
    """
    with transaction.atomic():
        gateway, session = _kept(gateway_id, owner)
        if gateway is None or session is None or not session.is_open or gateway.port is None:
            return None
        _end_connections(session, status=None, detail="Its keeper went away.", now=now)
        _take_back(session, detail="The keeper of the desktop went away.", notice=LOST, now=now)
        services.keeper_came(session, now=now)
    # Before the login is read: a count that is too low is put right at the next try, one too high never.
    renewals = SessionEvent.objects.filter(session=session, kind="login_renewed").count()
    connection = connection_for(session)
    return Target(gateway.host, gateway.port, connection, renewals) if connection else None


def opened(gateway_id: UUID, owner: str, connection: Connection, connection_id: str, *, now: datetime) -> bool:
    """The desktop is held: its record begins and the session is ready. False when it is not wanted any more."""
    try:
        with transaction.atomic():
            gateway, session = _kept(gateway_id, owner)
            if gateway is None or session is None:
                return False
            GuacamoleConnection.objects.create(
                session=session, gateway=gateway, hostname=connection.hostname, port=connection.port,
                parameters=connection.parameters, connection_id=connection_id, opened_at=now,
            )  # fmt: skip
            services.desktop_ready(session, now=now)
    except (StateConflict, SessionClosed):
        return False  # it ended in the very last moment, and the record is rolled back
    return True


def lost(gateway_id: UUID, owner: str, *, status: int | None, detail: str, now: datetime) -> None:
    """The desktop that was held is gone, and is being brought back."""
    with transaction.atomic():
        _, session = _kept(gateway_id, owner)
        if session is not None:
            _end_connections(session, status=status, detail=detail, now=now)
            _take_back(session, detail=detail, notice=LOST, now=now)


def failed(gateway_id: UUID, owner: str, *, detail: str, notice: str, is_final: bool, now: datetime) -> None:
    """An attempt brought no desktop. `is_final`: others like it will not either, so the deadline comes nearer."""
    with transaction.atomic():
        _, session = _kept(gateway_id, owner)
        if session is None or session.state != State.STARTING:
            return
        due_at = min(session.gateway_due_at, now + REFUSED_DEADLINE) if is_final else None
        services.note_attempt(session, detail=detail, notice=notice, due_at=due_at, now=now)


def give_up(gateway_id: UUID, owner: str, *, detail: str, now: datetime) -> None:
    """The gateway's process lives, but says nothing: the worker stops it, and the session gets another one."""
    with transaction.atomic():
        gateway, session = _kept(gateway_id, owner)
        if gateway is None or not gateway_rows.give_up(gateway, failure=f"{HANGS} {detail}", now=now):
            return
        if session is not None and session.state == State.STARTING:
            notice = f"{HANGS} A new one is starting."
            services.note_attempt(session, detail=f"{HANGS} {detail}", notice=notice, due_at=None, now=now)


def let_go(gateway_id: UUID, owner: str, *, detail: str, notice: str, now: datetime) -> None:
    """We keep this gateway no longer; if its session goes on, the next keeper brings the desktop back.

    A new version may take minutes to start: the time for the desktop begins when that keeper is there.
    """
    with transaction.atomic():
        session = SupportSession.objects.filter(gateways=gateway_id).get()
        given = Gateway.objects.filter(pk=gateway_id, keeper=owner).update(keeper="", keeper_until=None)
        if not given:
            return  # another keeper has it, and has taken over the records too
        _end_connections(session, status=None, detail=detail, now=now, gateway_id=gateway_id)
        if Gateway.objects.filter(pk=gateway_id, state=GatewayState.READY).exists():
            _take_back(session, detail=detail, notice=notice, now=now)
            services.wait_for_keeper(session, until=now + NO_KEEPER_DEADLINE)


def _kept(gateway_id: UUID, owner: str) -> tuple[Gateway | None, SupportSession | None]:
    """The row while it is ready and ours, and its session, or neither.

    The write makes sure that nobody takes it until the transaction ends.
    """
    kept = Gateway.objects.filter(pk=gateway_id, keeper=owner, state=GatewayState.READY)
    gateway = kept.select_related("session__machine", "session__fleet").first() if kept.update(keeper=owner) else None
    return gateway, gateway.session if gateway else None


def _end_connections(
    session: SupportSession, *, status: int | None, detail: str, now: datetime, gateway_id: UUID | None = None
) -> None:
    connections = GuacamoleConnection.objects.filter(session=session, closed_at=None)
    if gateway_id is not None:
        connections = connections.filter(gateway=gateway_id)
    connections.update(closed_at=now, connection_id=None, status=status, detail=detail[:500])


def _take_back(session: SupportSession, *, detail: str, notice: str, now: datetime) -> None:
    """ready or active → starting; a session that is elsewhere stays there."""
    for _ in range(3):
        if session.state not in (State.READY, State.ACTIVE):
            return
        try:
            services.desktop_lost(session, detail=detail, notice=notice, now=now)
            return
        except StateConflict:
            session.refresh_from_db(fields=["state"])  # an operator came or went meanwhile
