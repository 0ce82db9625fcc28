"""What is wished for each fleet's pool, and what the rows know of it. All workers go by the same rows: with numbers of
their own, one would start what another stops.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Count, Exists, Max, OuterRef, Q
from django.utils import timezone

from machines.models import Fleet, Machine
from sessions import pool
from sessions.models import Gateway, Pool, SupportSession
from sessions.states import GatewayState, State

# The presses of four weeks do not change much in ten minutes, and reading them takes a moment.
SIZED_EVERY = timedelta(minutes=10)
# So many of the newest gateways say how long one takes to start.
_STARTS_SEEN = 100
# More failures in a row make the delay no longer.
_FAILURES_SEEN = 30
KEPT = timedelta(days=7)
# After a rescue found no room no warm one is started for so long: else it would take what is made or comes free.
PAUSE = timedelta(minutes=2)
_SETTING = "GATEWAY_WARM says so."
_OWN = "This fleet's own number."


@dataclass(frozen=True, slots=True)
class Wish:
    """How many gateways a fleet is to have ready, and since when it has had fewer, as far as is written down."""

    fleet_id: int
    size: int
    short_since: datetime | None = None


def wishes(*, driver: str, can_be_warm: Callable[[], bool], now: datetime) -> list[Wish]:
    """One for each fleet that has a pool, or had one a moment ago. `can_be_warm` is asked only where one is wished."""
    setting = settings.GATEWAY_WARM
    able = Machine.objects.filter(fleet=OuterRef("pk"), is_active=True, frozen_at=None)
    fleets = Fleet.objects.annotate(can_press=Exists(able)).select_related("gateway_pool").order_by("pk")
    if setting == 0:
        has_row = Q(gateway_pool__size__gt=0) | Q(gateway_pool__short_since__isnull=False)
        fleets = fleets.filter(Q(warm_gateways__gt=0) | has_row)
    found: list[tuple[Fleet, int | None, str]] = []
    for fleet in fleets:
        number = setting if fleet.warm_gateways is None else fleet.warm_gateways
        if number == 0:
            found.append((fleet, 0, "None are kept ready here."))
        elif not fleet.can_press:
            found.append((fleet, 0, "No machine of this fleet can press help: none is active."))
        elif not can_be_warm():
            found.append((fleet, 0, f"GATEWAY={driver} needs none: what it has is always there."))
        elif isinstance(number, int):
            found.append((fleet, number, _SETTING if fleet.warm_gateways is None else _OWN))
        else:
            found.append((fleet, None, ""))
    if _count(found, driver=driver, now=now):
        # Another worker may have been faster: its numbers hold for all.
        rows = Pool.objects.in_bulk([fleet.pk for fleet, _, _ in found])
    else:
        rows = {fleet.pk: fleet.gateway_pool for fleet, _, _ in found}
    return _share([(fleet, rows[fleet.pk]) for fleet, _, _ in found if fleet.pk in rows])


def _count(found: Sequence[tuple[Fleet, int | None, str]], *, driver: str, now: datetime) -> bool:
    """Notes what each fleet would have alone, and how often it pressed; whether any of that is news."""
    due = {fleet.pk: fleet for fleet, number, _ in found if number != 0 and not _is_sized(fleet, now, number)}
    presses, start_s = (_presses(due.values(), now=now), start_seconds(driver)) if due else ({}, 0.0)
    is_news = False
    for fleet, number, reason in found:
        if fleet.pk in due:
            at = presses.get(fleet.pk, [])
            if number is None:
                sizing = pool.auto(at, start_s=start_s)
                number, reason = sizing.size, str(sizing)
            is_news |= _note(fleet, wished=number, reason=reason, presses=len(at), sized_at=now)
        elif number == 0:
            is_news |= _note(fleet, wished=0, reason=reason, presses=0, sized_at=None)
        elif number is not None:
            row: Pool = fleet.gateway_pool
            is_news |= _note(fleet, wished=number, reason=reason, presses=row.presses, sized_at=row.sized_at)
    return is_news


def _share(found: Sequence[tuple[Fleet, Pool]]) -> list[Wish]:
    """What each fleet gets of GATEWAY_WARM_MAX, for the admin and for the other workers, too."""
    asked = [pool.Share(fleet.pk, fleet.name, row.wished, row.presses) for fleet, row in found]
    sizes = pool.shares(asked, settings.GATEWAY_WARM_MAX)
    for fleet, row in found:
        if row.size != sizes[fleet.pk]:
            Pool.objects.filter(pk=fleet.pk).update(size=sizes[fleet.pk])
    return [Wish(fleet.pk, sizes[fleet.pk], row.short_since) for fleet, row in found]


def _is_sized(fleet: Fleet, now: datetime, number: int | None) -> bool:
    row: Pool | None = getattr(fleet, "gateway_pool", None)
    if row is None or row.sized_at is None or (number is None and row.reason in (_SETTING, _OWN)):
        return False
    return now - row.sized_at < SIZED_EVERY


def _presses(fleets: Iterable[Fleet], *, now: datetime) -> defaultdict[int, list[float]]:
    """When help was pressed, in seconds: those presses that needed a gateway, which is one for each session."""
    sessions = SupportSession.objects.filter(fleet__in=list(fleets), requested_at__gt=now - pool.WEEKS_SEEN)
    found: defaultdict[int, list[float]] = defaultdict(list)
    for fleet_id, at in sessions.order_by("requested_at").values_list("fleet_id", "requested_at").iterator():
        found[fleet_id].append(at.timestamp())
    return found


def _note(fleet: Fleet, **values: object) -> bool:
    """Writes down what is news, for the admin and for the other workers; whether it was."""
    row: Pool | None = getattr(fleet, "gateway_pool", None)
    if row is None:
        Pool.objects.get_or_create(fleet=fleet, defaults=values)
        return True
    if all(getattr(row, name) == value for name, value in values.items()):
        return False
    Pool.objects.filter(pk=fleet.pk, sized_at=row.sized_at).update(**values)
    return True


def set_short(fleet_id: int, since: datetime | None) -> None:
    """Keeps since when a fleet has had too few; None: it has them all."""
    Pool.objects.filter(pk=fleet_id).exclude(short_since=since).update(short_since=since)


def start_seconds(driver: str) -> float:
    """How long a gateway of this driver takes to start, from the newest ones; warm ones if there are any."""
    for born_warm in (True, False):
        rows = Gateway.objects.filter(born_warm=born_warm, driver=driver, ready_at__isnull=False)
        if not born_warm:
            rows = rows.filter(attempt=1)  # later ones were wanted before they were begun
        times = rows.order_by("-wanted_at").values_list("wanted_at", "ready_at")[:_STARTS_SEEN]
        seen = [(ready_at - wanted_at).total_seconds() for wanted_at, ready_at in times if ready_at]
        if seen:
            break
    return pool.start_seconds(seen)


def failures_in_a_row(driver: str, *, now: datetime) -> int:
    """How many warm gateways of this driver failed since the last good one, whichever fleets they were for."""
    # What was put off before it began tells nothing, and may be many.
    tried = Gateway.objects.filter(~Q(failure="") | Q(ready_at__isnull=False), born_warm=True, driver=driver)
    return pool.failures_in_a_row(tried.order_by("-wanted_at")[:_FAILURES_SEEN], now=now)


def paused_until(driver: str, *, now: datetime) -> datetime | None:
    """When warm gateways may be started again; None: now. A rescue waits for minutes at most, hence the hour.

    While one waits for room still, the time has not even begun.
    """
    rows = Gateway.objects.filter(born_warm=False, driver=driver, wanted_at__gt=now - timedelta(hours=1))
    found = rows.aggregate(
        last=Max("made_room_at", filter=Q(made_room_at__gt=now - PAUSE)),
        waiting=Count(
            "pk", filter=Q(made_room_at__isnull=False, state=GatewayState.STARTING, session__state=State.STARTING)
        ),
    )
    last = now if found["waiting"] else found["last"]
    return None if last is None else last + PAUSE


def standing(row: Pool) -> str:
    """What there is of a fleet's warm gateways now, and why there are fewer than wanted, for the admin."""
    warm = Gateway.objects.filter(fleet=row.pk, session=None).select_related(None)
    states = Counter(warm.exclude(state=GatewayState.STOPPED).values_list("state", flat=True))
    ready, pending = states[GatewayState.READY], states[GatewayState.WANTED] + states[GatewayState.STARTING]
    said = [f"{ready} ready, {pending} starting, {states[GatewayState.STOPPING]} stopping."]
    if row.size < row.wished:
        most = f"all fleets together have {settings.GATEWAY_WARM_MAX} at most (GATEWAY_WARM_MAX)"
        said.append(f"It would have {row.wished}, but {most}, and those with more presses come first.")
    until = paused_until(settings.GATEWAY, now=timezone.now()) if ready < row.size else None
    if until is not None:
        said.append(f"A rescue needed the room: none is started before {timezone.localtime(until):%H:%M:%S}.")
    failed = Gateway.objects.filter(born_warm=True, driver=settings.GATEWAY).exclude(failure="")
    last = failed.order_by("-wanted_at").first() if ready < row.size else None
    if last is not None and row.short_since is not None:
        said.append(f"The last one that failed: {last.failure}")
    waiting = warm.filter(state=GatewayState.WANTED, due_at__gt=timezone.now()).order_by("due_at").first()
    if waiting is not None:
        said.append(f"The next try is at {timezone.localtime(waiting.due_at):%H:%M:%S}.")
    return " ".join(said)


def erase_old(*, now: datetime) -> None:
    """Warm gateways that no session ever had are of no interest after a week."""
    old = Gateway.objects.filter(session=None, state=GatewayState.STOPPED, stopped_at__lt=now - KEPT)
    old.delete()
