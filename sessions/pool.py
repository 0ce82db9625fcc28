"""How many gateways a fleet has ready before help is pressed, and what is to be done to have them: pure functions.

The rule `auto` (GATEWAY_WARM=auto): a gateway that is claimed is missing until another one has started. So for each
press of the last 28 days count the presses of its fleet in the time that a gateway takes to start, up to and with it:
so many had to be ready for it to find one. Ready are as many as would have been enough for 95 % of the presses, 20 at
most, and none where nobody pressed. The same presses more often, or closer together, or gateways that start more
slowly never make it fewer. Presses that come one by one may: they find a ready one anyhow, and so many of them leave a
rush of presses within the other 5 %.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sessions.models import Gateway
from sessions.states import GatewayState

MOST = 20
SHARE = 0.95
WEEKS_SEEN = timedelta(days=28)

# A ready one that lived for less than this counts as one that failed, and is no proof that others do better: else those
# that die each minute or two would be replaced for ever.
SHORT_LIFE = timedelta(minutes=10)
_FIRST_DELAY_S = 2.0
_LONGEST_DELAY_S = 300.0


@dataclass(frozen=True, slots=True)
class Sizing:
    """What the rule says, and its figures: `found` is the share of presses that `size` would have been enough for."""

    size: int
    presses: int
    start_s: float
    found: float

    def __str__(self) -> str:
        days = WEEKS_SEEN.days
        if not self.presses:
            return f"Nobody has pressed help in the last {days} days."
        times = "once" if self.presses == 1 else f"{self.presses} times"
        most = f" More than {MOST} are never kept." if self.size == MOST else ""
        return (
            f"Help was pressed {times} in the last {days} days, and a gateway takes {self.start_s:.0f} s to start: "
            f"{self.size} would have been enough for {self.found:.1%} of the presses.{most}"
        )


def auto(presses: Sequence[float], *, start_s: float) -> Sizing:
    """How many are to be ready, by the rule above; `presses` are a fleet's, in seconds, the oldest first."""
    needed: Counter[int] = Counter()
    first = 0
    for last, at in enumerate(presses):
        while presses[first] <= at - start_s and first < last:
            first += 1
        needed[min(last - first + 1, MOST + 1)] += 1
    enough = size = 0
    while size < MOST and enough < SHARE * len(presses):
        size += 1
        enough += needed[size]
    return Sizing(size, len(presses), start_s, enough / len(presses) if presses else 1.0)


def start_seconds(seen: Sequence[float], *, unknown: float = 60.0) -> float:
    """How long a gateway takes to start, in whole seconds: nineteen of twenty that were seen took no longer."""
    if not seen:
        return unknown
    in_order = sorted(seen)
    return max(1.0, float(math.ceil(in_order[math.ceil(len(in_order) * SHARE) - 1])))


@dataclass(frozen=True, slots=True)
class Share:
    """What a fleet asks for of what all have together."""

    fleet_id: int
    name: str
    wished: int
    presses: int


def shares(fleets: Iterable[Share], most: int) -> dict[int, int]:
    """How many each fleet gets where all together have `most` at most: one each in turn, more presses first."""
    in_turn = sorted(fleets, key=lambda one: (-one.presses, one.name, one.fleet_id))
    found = {one.fleet_id: 0 for one in in_turn}
    left = min(most, sum(one.wished for one in in_turn))
    while left:
        for one in in_turn:
            if left and found[one.fleet_id] < one.wished:
                found[one.fleet_id] += 1
                left -= 1
    return found


@dataclass(frozen=True, slots=True)
class Order:
    """With which settings a worker orders gateways, and since when: of two workers the one that began later is right.

    By that alone no two replace what the other starts in turn, whatever settings they have.
    """

    mark: str
    since: int

    @classmethod
    def read(cls, said: Mapping[str, object]) -> Order:
        """From what a driver or a handle says; one that says nothing is the oldest."""
        mark, since = said.get("mark", ""), said.get("since", 0)
        return cls(str(mark), since if isinstance(since, int) else 0)

    def replaces(self, other: Order) -> bool:
        return bool(self.mark) and self.mark != other.mark and self.since > other.since


@dataclass(frozen=True, slots=True)
class Plan:
    """What a fleet's pool needs: so many new ones, and which ones go. `replaced` have a successor that is ready."""

    start: int = 0
    replaced: list[Gateway] = field(default_factory=list)
    surplus: list[Gateway] = field(default_factory=list)


def plan(
    live: Iterable[Gateway],
    size: int,
    *,
    too_old: datetime,
    outdated: Collection[UUID] = (),
    order: Order | None = None,
) -> Plan:
    """From a fleet's warm gateways, wanted, starting or ready, to `size` of them.

    Those that were ready at `too_old` already and the `outdated` are replaced, one at a time, and stay until the new
    one is there. What a worker with later settings than `order` has begun is not ours to end before it is ready.
    """
    rows = list(live)
    ready = sorted((row for row in rows if row.state == GatewayState.READY), key=_ready_at)
    pending = [row for row in rows if row.state != GatewayState.READY]
    old = [row for row in ready if _ready_at(row) <= too_old or row.pk in outdated]
    successors = 1 if old and 0 < len(ready) <= size else 0
    too_many = max(0, len(ready) - size)
    replaced = old[:too_many]
    # Of those that are not ready yet, the ones that have not even begun go first.
    pending.sort(key=lambda row: (row.state != GatewayState.WANTED, -row.due_at.timestamp()))
    room = max(0, size - len(ready)) + successors
    spare = pending[: max(0, len(pending) - room)]
    if order is not None:
        spare = [row for row in spare if not Order.read(row.handle).replaces(order)]
    kept = [row for row in ready if row not in replaced]
    return Plan(
        start=max(0, room - len(pending)),
        replaced=replaced,
        surplus=[*spare, *kept[: too_many - len(replaced)]],
    )


def failures_in_a_row(newest_first: Iterable[Gateway], *, now: datetime) -> int:
    """How many warm gateways failed since the last good one; those of which nobody knows yet do not count.

    One that is ready shows that others can start; that they last is shown by one that a session took, or that lived
    for SHORT_LIFE.
    """
    failures, can_start = 0, False
    for row in newest_first:
        if row.ready_at is None:
            failures += bool(row.failure) and not can_start
        elif _was_good(row, row.ready_at, now):
            break
        else:
            can_start = True
            failures += bool(row.failure)
    return failures


def delay_s(failures: int) -> float:
    """Seconds until the next try: none, 2, 4, 8, … up to five minutes."""
    if failures < 1:
        return 0.0
    return min(_FIRST_DELAY_S * 2.0 ** min(failures - 1, 20), _LONGEST_DELAY_S)


def _was_good(row: Gateway, ready_at: datetime, now: datetime) -> bool:
    """One that a session took, or that stood ready for a while, whatever became of it then."""
    return row.claimed_at is not None or (row.stopped_at or now) - ready_at >= SHORT_LIFE


def _ready_at(row: Gateway) -> datetime:
    assert row.ready_at is not None  # what is ready has its time
    return row.ready_at
