"""How a gateway's row changes: guarded UPDATEs only, so that of several workers one wins and the others hear it.

wanted → starting → ready → stopping → stopped; from starting straight to stopping, from wanted straight to stopped. A
lease says which worker is at a driver for this row just now; nobody else calls the driver for it until the lease ends.
A row without a session is a warm one, and becomes a session's by `claim`, once.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import partial

from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, Max, OuterRef, Q, QuerySet
from django.utils import timezone

from sessions import bell
from sessions.gateways.base import GatewayStatus
from sessions.models import Gateway, GuacamoleConnection, SupportSession
from sessions.states import LIVE_GATEWAY_STATES, GatewayState, State

LEASE = timedelta(seconds=20)
NOT_READY = (GatewayState.WANTED, GatewayState.STARTING)
# So long it may take until what makes room has stopped.
MAKE_ROOM_EVERY = timedelta(seconds=30)
_NOT_STOPPED = (*LIVE_GATEWAY_STATES, GatewayState.STOPPING)
_HAS_ROOM = (GatewayState.STARTING, GatewayState.READY)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def want(session: SupportSession, *, driver: str, attempt: int, due_at: datetime, now: datetime) -> Gateway | None:
    """A new row, to be started at `due_at`; None when the session has a live gateway already."""
    try:
        with transaction.atomic():
            gateway = Gateway.objects.create(
                session=session, fleet_id=session.fleet_id, attempt=attempt, driver=driver, due_at=due_at, wanted_at=now
            )
    except IntegrityError:
        return None  # one_live_gateway_a_session: another worker was faster
    transaction.on_commit(bell.ring)
    return gateway


def want_warm(fleet_id: int, *, driver: str, due_at: datetime) -> Gateway:
    """A new row for whichever session of the fleet is the next, to be started at `due_at`."""
    transaction.on_commit(partial(bell.ring, bell.POOL))
    return Gateway.objects.create(fleet_id=fleet_id, born_warm=True, driver=driver, due_at=due_at, wanted_at=due_at)


def claim(session: SupportSession, *, driver: str, attempt: int, now: datetime) -> Gateway | None:
    """Makes a warm gateway of the fleet's the session's, the longest ready one first; None when there is none.

    Of several sessions that want the same one, one gets it, and the others look at the next. Call it in the transaction
    that begins the session's start: if that comes to nothing, the gateway is as warm as before.
    """
    warm = Gateway.objects.filter(session=None, fleet=session.fleet_id, driver=driver, state=GatewayState.READY)
    for gateway in warm.order_by("ready_at"):
        try:
            with transaction.atomic():
                values = {"attempt": attempt, "claimed_at": now, "due_at": now}
                claimed = warm.filter(pk=gateway.pk).update(session=session, **values)
        except IntegrityError:
            return None  # one_live_gateway_a_session: another worker was faster
        if claimed:
            transaction.on_commit(bell.ring)
            transaction.on_commit(partial(bell.ring, bell.POOL))
            gateway.session = session
            return gateway
    return None


def exchange(gateway: Gateway, *, attempt: int, now: datetime) -> Gateway | None:
    """Gives a session's gateway that is not ready yet up for a warm one of its fleet's; None: all is as it was.

    The session's next desktop begins there at once, also while a worker is at the driver for the other.
    """
    session = gateway.session
    assert session is not None  # a warm one has nothing to exchange
    with transaction.atomic():
        warm = None
        if give_up(gateway, failure="", now=now, states=NOT_READY):
            warm = claim(session, driver=gateway.driver, attempt=attempt, now=now)
        if warm is None:
            transaction.set_rollback(True)
    return warm


def takes_warm(session: SupportSession, *, but: Gateway | None = None) -> bool:
    """Whether a session should have a warm gateway: after one that brought no desktop it does not try them all.

    `but` is the one it has now.
    """
    tried = Gateway.objects.filter(session=session).exclude(ready_at=None, no_room_at__isnull=False)
    if but is not None:
        tried = tried.exclude(pk=but.pk)
    last = tried.order_by("-attempt").first()
    return last is None or last.claimed_at is None or last.connections.exists()


def due(states: Collection[GatewayState], *, now: datetime, warm: bool = False) -> QuerySet[Gateway]:
    """The rows in these states that a worker should look at now: those of sessions, or those without one."""
    return (
        Gateway.objects.filter(_unleased(now), state__in=states, due_at__lte=now, session__isnull=warm)
        .select_related("session__machine", "fleet")
        .order_by("due_at")
    )


def hurry(attempt_ids: Collection[str]) -> None:
    """There is news of these from their driver: whoever waits to look at one looks now."""
    now = timezone.now()
    known = [attempt_id for attempt_id in attempt_ids if _UUID.fullmatch(attempt_id)]
    waiting = Gateway.objects.filter(pk__in=known, due_at__gt=now)
    waiting.filter(state__in=[GatewayState.STARTING, GatewayState.STOPPING]).update(due_at=now)
    bell.ring()
    bell.ring(bell.POOL)


def is_due(gateway: Gateway, *, now: datetime) -> bool:
    """Whether the row is still as it was read, so that a lease is worth waiting for."""
    return _as_read(gateway, now).exists()


def lease(gateway: Gateway, *, owner: str, now: datetime) -> bool:
    """Takes the row for one call of a driver: a wanted one is `starting` from here on, before anything is started."""
    state = GatewayState.STARTING if gateway.state == GatewayState.WANTED else gateway.state
    taken = _as_read(gateway, now).update(state=state, lease_owner=owner, lease_until=now + LEASE)
    if taken:
        gateway.state = state
    return bool(taken)


def release(gateway: Gateway, *, owner: str, due_at: datetime, **values: object) -> bool:
    """Gives a leased row back, to be looked at again at `due_at`; False when the lease was lost meanwhile."""
    released = _leased(gateway, owner).update(lease_owner="", lease_until=None, due_at=due_at, **values)
    return _told(released, gateway)


def keep_starting(gateway: Gateway, *, owner: str, status: GatewayStatus, due_at: datetime, now: datetime) -> bool:
    """Keeps how far a leased one has come and gives it back; False when it was given up meanwhile, or is another's."""
    starting = _leased(gateway, owner).filter(state=GatewayState.STARTING)
    no_room_at = now if status.no_room else None
    changed = starting.update(
        handle=status.handle, no_room_at=no_room_at, due_at=due_at, tries=0, lease_owner="", lease_until=None
    )
    return _told(changed, gateway)


def set_ready(gateway: Gateway, *, owner: str, status: GatewayStatus, now: datetime) -> bool:
    """starting → ready; False when the row was given up meanwhile, or another worker has it."""
    changed = (
        _leased(gateway, owner)
        .filter(state=GatewayState.STARTING)
        .update(
            state=GatewayState.READY, host=status.host, port=status.port, handle=status.handle,
            ready_at=now, due_at=now, tries=0, lease_owner="", lease_until=None,
        )
    )  # fmt: skip
    return _told(changed, gateway)


def give_up(
    gateway: Gateway, *, failure: str, now: datetime, states: Collection[str] = LIVE_GATEWAY_STATES, **values: object
) -> bool:
    """Any live state, or one of `states`, → stopping, and its connections end; `failure` is empty for an orderly end.

    A worker that is at its driver keeps the lease: stopping waits until that call is over. One that is `wanted` is
    `stopped` at once: no driver was called for it, since `lease` makes it `starting` before. False also for a warm one
    that a session has claimed since it was read: then it is that session's worker's to give up.
    """
    with transaction.atomic():
        live = Gateway.objects.filter(pk=gateway.pk, session=gateway.session_id, state__in=states)
        changed = 0
        if gateway.state == GatewayState.WANTED:  # as read; another worker may have begun it since
            never_begun = live.filter(state=GatewayState.WANTED)
            changed = never_begun.update(state=GatewayState.STOPPED, failure=failure[:500], stopped_at=now)
        if not changed:
            changed = live.update(state=GatewayState.STOPPING, failure=failure[:500], due_at=now, tries=0, **values)
        if changed and failure:
            # The session's next desktop must not wait until the keeper of this one has noticed.
            _close_connections(gateway, detail="The gateway was lost.", now=now)
    return _told(changed, gateway)


def give_up_warm(driver: str, *, now: datetime) -> None:
    """All of a driver's that have no session → stopping: whoever starts next must not take them for ready."""
    warm = Gateway.objects.filter(session=None, driver=driver, state__in=LIVE_GATEWAY_STATES)
    warm.update(state=GatewayState.STOPPING, failure="", due_at=now, tries=0)


def make_room(gateway: Gateway, *, takes_warm: bool, now: datetime) -> Gateway | None:
    """Notes that a session's gateway finds no room, and gives up a warm one; which one.

    Once for each gateway, and once in MAKE_ROOM_EVERY for a session whose gateways fail for that: what made room may be
    stopping still. Where the session `takes_warm` ones, its own fleet's stay: it has the next that is ready. Of others'
    the newest that is ready goes, or the longest starting one, which has most likely found its place. None goes for one
    that was given up since its driver was asked.
    """
    if gateway.made_room_at is not None:
        return None
    before = Gateway.objects.filter(session=gateway.session_id, made_room_at__gt=now - MAKE_ROOM_EVERY)
    made_room_at = before.aggregate(last=Max("made_room_at"))["last"]
    in_the_way = list(Gateway.objects.filter(session=None, driver=gateway.driver, state__in=_HAS_ROOM))
    if takes_warm:
        in_the_way = [one for one in in_the_way if one.fleet_id != gateway.fleet_id]
    in_the_way.sort(
        key=lambda one: (
            one.fleet_id != gateway.fleet_id,
            one.ready_at is None,
            -one.ready_at.timestamp() if one.ready_at else one.wanted_at.timestamp(),
        )
    )
    with transaction.atomic():
        waits = Exists(SupportSession.objects.filter(pk=OuterRef("session"), state=State.STARTING))
        own = Gateway.objects.filter(waits, pk=gateway.pk, state=GatewayState.STARTING, made_room_at=None)
        noted = own.update(made_room_at=made_room_at or now)
        if made_room_at or not noted:
            return None
        # One that a session has claimed in this moment stays.
        return next((one for one in in_the_way if give_up(one, failure="", now=now)), None)


def set_stopped(gateway: Gateway, *, owner: str, now: datetime) -> bool:
    """stopping → stopped: the driver has confirmed it. What the keeper left open in the records ends too."""
    with transaction.atomic():
        changed = (
            _leased(gateway, owner)
            .filter(state=GatewayState.STOPPING)
            .update(state=GatewayState.STOPPED, stopped_at=now, lease_owner="", lease_until=None)
        )
        if changed:
            _close_connections(gateway, detail="The gateway was stopped.", now=now)
    return _told(changed, gateway)


def forget_process(name: str) -> None:
    """Frees what a process that is dead has leased, for its worker and for its keeper; `name` begins their names."""
    worker = Gateway.objects.filter(lease_owner__startswith=f"{name}:")
    keeper = Gateway.objects.filter(keeper__startswith=f"{name}:")
    if worker.update(lease_owner="", lease_until=None) + keeper.update(keeper="", keeper_until=None):
        for whom in (bell.WORK, bell.POOL):
            transaction.on_commit(partial(bell.ring, whom))


def count(session: SupportSession, *, since: datetime) -> tuple[int, int]:
    """How many gateways the sessions of a session's fleet have or are about to have; those that wait do not count.

    And how many its machine has that were wanted since then and have not stopped yet.
    """
    ours = Gateway.objects.filter(session__fleet_id=session.fleet_id, state__in=_NOT_STOPPED)
    is_its = Q(session__machine_id=session.machine_id, wanted_at__gt=since)
    found = ours.aggregate(live=Count("pk", filter=Q(state__in=LIVE_GATEWAY_STATES)), its=Count("pk", filter=is_its))
    return found["live"], found["its"]


def failures_in_a_row(session: SupportSession) -> int:
    """How many gateways of a session failed since the last one that was ready; those that found no room do not count.

    What ends a session without room is its time.
    """
    failures = 0
    for gateway in Gateway.objects.filter(session=session).order_by("-attempt"):
        if gateway.ready_at is not None:
            break
        failures += not found_no_room(gateway)
    return failures


def found_no_room(gateway: Gateway) -> bool:
    """Whether a session's gateway waits for room, or never came for want of it.

    One that got room and then failed did not, however long it had waited.
    """
    return gateway.ready_at is None and gateway.no_room_at is not None


def _close_connections(gateway: Gateway, *, detail: str, now: datetime) -> None:
    GuacamoleConnection.objects.filter(gateway=gateway, closed_at=None).update(
        closed_at=now, connection_id=None, detail=detail
    )


def _as_read(gateway: Gateway, now: datetime) -> QuerySet[Gateway]:
    """The row, if it is due still, in the state it was read in, and nobody's."""
    return Gateway.objects.filter(_unleased(now), pk=gateway.pk, state=gateway.state, due_at__lte=now)


def _unleased(now: datetime) -> Q:
    return Q(lease_until=None) | Q(lease_until__lt=now)


def _leased(gateway: Gateway, owner: str) -> QuerySet[Gateway]:
    return Gateway.objects.filter(pk=gateway.pk, lease_owner=owner)


def _told(changed: int, gateway: Gateway) -> bool:
    if changed:
        whom = bell.POOL if gateway.session_id is None else bell.WORK
        transaction.on_commit(partial(bell.ring, whom))
    return bool(changed)
