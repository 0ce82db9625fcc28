"""What is wished for each fleet's pool, and what the rows know of it. All workers go by the same rows: with numbers of
their own, one would start what another stops.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from machines.models import Fleet, Machine
from sessions import pool
from sessions.models import Gateway, Pool, SupportSession
from sessions.states import GatewayState

# The presses of four weeks do not change much in ten minutes, and reading them takes a moment.
SIZED_EVERY = timedelta(minutes=10)
# So many of the newest gateways say how long one takes to start.
_STARTS_SEEN = 100
# More failures in a row make the delay no longer.
_FAILURES_SEEN = 30
KEPT = timedelta(days=7)


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
    by_presses, found = [], []
    for fleet in fleets:
        number = setting if fleet.warm_gateways is None else fleet.warm_gateways
        if number == 0:
            found.append(_note(fleet, 0, "None are kept ready here."))
        elif not fleet.can_press:
            found.append(_note(fleet, 0, "No machine of this fleet can press help: none is active."))
        elif not can_be_warm():
            found.append(_note(fleet, 0, f"GATEWAY={driver} needs none: what it has is always there."))
        elif isinstance(number, int):
            whose = "GATEWAY_WARM says so" if fleet.warm_gateways is None else "This fleet's own number"
            found.append(_note(fleet, number, f"{whose}."))
        else:
            by_presses.append(fleet)
    return [*found, *_by_presses(by_presses, driver=driver, now=now)]


def _by_presses(fleets: Sequence[Fleet], *, driver: str, now: datetime) -> list[Wish]:
    due = [fleet for fleet in fleets if not _is_sized(fleet, now)]
    if due:
        start_s = start_seconds(driver)
        presses = _presses(due, now=now)
        for fleet in due:
            sizing = pool.auto(presses[fleet.pk], start_s=start_s)
            _note(fleet, sizing.size, str(sizing), sized_at=now)
        # Another worker may have been faster: its number holds for all.
        rows = Pool.objects.in_bulk([fleet.pk for fleet in fleets])
    else:
        rows = {fleet.pk: fleet.gateway_pool for fleet in fleets}
    return [Wish(pk, row.size, row.short_since) for pk, row in rows.items()]


def _is_sized(fleet: Fleet, now: datetime) -> bool:
    row: Pool | None = getattr(fleet, "gateway_pool", None)
    return row is not None and row.sized_at is not None and now - row.sized_at < SIZED_EVERY


def _presses(fleets: Iterable[Fleet], *, now: datetime) -> defaultdict[int, list[float]]:
    """When help was pressed, in seconds: those presses that needed a gateway, which is one for each session."""
    sessions = SupportSession.objects.filter(fleet__in=list(fleets), requested_at__gt=now - pool.WEEKS_SEEN)
    found: defaultdict[int, list[float]] = defaultdict(list)
    for fleet_id, at in sessions.order_by("requested_at").values_list("fleet_id", "requested_at").iterator():
        found[fleet_id].append(at.timestamp())
    return found


def _note(fleet: Fleet, size: int, reason: str, *, sized_at: datetime | None = None) -> Wish:
    """Writes it down if it is news, for the admin and for the other workers."""
    values = {"size": size, "reason": reason, "sized_at": sized_at}
    row: Pool | None = getattr(fleet, "gateway_pool", None)
    if row is None:
        row, _ = Pool.objects.get_or_create(fleet=fleet, defaults=values)
    if (row.size, row.reason, row.sized_at) != (size, reason, sized_at):
        Pool.objects.filter(pk=fleet.pk, sized_at=row.sized_at).update(**values)
    return Wish(fleet.pk, size, row.short_since)


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


def standing(row: Pool) -> str:
    """What there is of a fleet's warm gateways now, and why there are fewer than wanted, for the admin."""
    warm = Gateway.objects.filter(fleet=row.pk, session=None).select_related(None)
    states = Counter(warm.exclude(state=GatewayState.STOPPED).values_list("state", flat=True))
    ready, pending = states[GatewayState.READY], states[GatewayState.WANTED] + states[GatewayState.STARTING]
    said = [f"{ready} ready, {pending} starting, {states[GatewayState.STOPPING]} stopping."]
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
