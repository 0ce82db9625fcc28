"""How many gateways are to be ready, by the presses; and what a pool needs next. No rows, no clock."""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from sessions import pool
from sessions.models import Gateway
from sessions.states import GatewayState

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OLD = NOON - timedelta(hours=12)
START_S = st.floats(1, 300)
# Some alone, some in a rush: gaps of seconds and of hours.
PRESSES = st.lists(st.one_of(st.floats(0, 30), st.floats(0, 20_000)), max_size=120).map(
    lambda gaps: [sum(gaps[: number + 1]) for number in range(len(gaps))]
)
FEW = settings(max_examples=60, deadline=None)


def found_ready(presses: list[float], size: int, start_s: float) -> float:
    """The share of presses that find one ready where each that is claimed is refilled `start_s` later."""
    away: deque[float] = deque()
    found = 0
    for at in presses:
        while away and away[0] <= at - start_s:
            away.popleft()
        if len(away) < size:
            away.append(at)
            found += 1
    return found / len(presses)


@FEW
@given(PRESSES, START_S)
def test_nineteen_of_twenty_presses_find_one_ready(presses: list[float], start_s: float) -> None:
    sizing = pool.auto(presses, start_s=start_s)
    assert 0 <= sizing.size <= pool.MOST
    assert (sizing.size == 0) == (not presses)
    if presses:
        assert found_ready(presses, sizing.size, start_s) >= sizing.found - 1e-9
        assert sizing.found >= pool.SHARE or sizing.size == pool.MOST


@FEW
@given(PRESSES, START_S, st.integers(2, 5))
def test_more_presses_of_the_same_kind_never_make_it_fewer(presses: list[float], start_s: float, times: int) -> None:
    size = pool.auto(presses, start_s=start_s).size
    assert pool.auto([at for at in presses for _ in range(times)], start_s=start_s).size >= size
    assert pool.auto([at / times for at in presses], start_s=start_s).size >= size
    assert pool.auto(presses, start_s=start_s * times).size >= size


def test_figures_are_those_of_a_count_by_hand() -> None:
    # Nineteen alone, and a rush of three within a minute: 21 of 22 found one with two ready, 19 + 1 with one.
    alone = [hour * 3600.0 for hour in range(19)]
    rush = [100_000.0, 100_010.0, 100_020.0]
    sizing = pool.auto([*alone, *rush], start_s=60)
    assert (sizing.size, sizing.presses, round(sizing.found, 3)) == (2, 22, 0.955)
    assert str(sizing) == (
        "Help was pressed 22 times in the last 28 days, and a gateway takes 60 s to start: "
        "2 would have been enough for 95.5% of the presses."
    )
    # One that is ready again in that very moment is found.
    assert pool.auto([0, 60], start_s=60).size == 1
    assert pool.auto([0, 59.9], start_s=60).size == 2
    assert str(pool.auto([], start_s=60)) == "Nobody has pressed help in the last 28 days."
    assert "pressed once" in str(pool.auto([7], start_s=60))
    flood = pool.auto([number * 0.1 for number in range(1000)], start_s=60)
    assert flood.size == 20 and flood.found < 0.95 and "More than 20 are never kept" in str(flood)


def test_fifty_thousand_presses_are_counted_in_a_moment() -> None:
    began = time.thread_time()
    assert pool.auto([number * 40.0 for number in range(50_000)], start_s=60).size == 2
    assert time.thread_time() - began < 1


def test_time_to_start_is_what_nineteen_of_twenty_took() -> None:
    assert pool.start_seconds([]) == 60
    assert pool.start_seconds([0.05]) == 1
    assert pool.start_seconds([2.1] * 19 + [300.0]) == 3
    assert pool.start_seconds([2.1] * 18 + [300.0] * 2) == 300


# --- what a pool needs next -------------------------------------------------------------------------------------------


def ready(hours_old: float = 1) -> Gateway:
    return Gateway(state=GatewayState.READY, ready_at=NOON - timedelta(hours=hours_old), due_at=NOON)


def pending(state: GatewayState = GatewayState.STARTING) -> Gateway:
    return Gateway(state=state, due_at=NOON)


def plan(live: list[Gateway], size: int) -> pool.Plan:
    return pool.plan(live, size, too_old=OLD)


def test_what_is_missing_is_started_and_what_starts_already_counts() -> None:
    assert plan([], 3).start == 3
    assert plan([ready(), pending()], 3) == pool.Plan(start=1)
    assert plan([ready(), pending(), ready()], 3) == pool.Plan()


def test_of_too_many_those_go_that_have_come_least_far_then_the_oldest() -> None:
    wanted, starting, old, young = pending(GatewayState.WANTED), pending(), ready(3), ready(1)
    assert plan([young, starting, old, wanted], 3).surplus == [wanted]
    assert plan([young, starting, old, wanted], 2).surplus == [wanted, starting]
    assert plan([young, starting, old, wanted], 1).surplus == [wanted, starting, old]
    assert plan([young, starting, old, wanted], 0).surplus == [wanted, starting, old, young]


def test_an_old_one_stays_until_its_successor_is_ready_and_one_is_replaced_at_a_time() -> None:
    oldest, older, young = ready(20), ready(13), ready()
    assert plan([oldest, older], 2) == pool.Plan(start=1)
    assert plan([oldest, older, pending()], 2) == pool.Plan()
    assert plan([oldest, older, young], 2) == pool.Plan(replaced=[oldest])
    assert plan([older, young], 2) == pool.Plan(start=1)
    assert plan([older], 0) == pool.Plan(replaced=[older])


@FEW
@given(
    st.lists(st.sampled_from(["wanted", "starting", "young", "old"]), max_size=12),
    st.integers(0, 6),
)
def test_every_pool_comes_to_as_many_young_ones_as_wanted(kinds: list[str], size: int) -> None:
    makers = {"wanted": lambda: pending(GatewayState.WANTED), "starting": pending, "young": ready}
    live = [makers.get(kind, lambda: ready(20))() for kind in kinds]
    for _ in range(30):
        step = plan(live, size)
        gone = [*step.replaced, *step.surplus]
        assert sum(row.state == GatewayState.READY for row in live if row not in gone) >= min(
            size, sum(row.state == GatewayState.READY for row in live)
        ), "what is ready stays as long as it is needed"
        live = [row for row in live if row not in gone] + [pending() for _ in range(step.start)]
        assert len(live) <= max(size + 1, 0 if gone else size + 1)
        for row in live:
            if row.state != GatewayState.READY:
                row.state, row.ready_at = GatewayState.READY, NOON
    assert len(live) == size and all(row.ready_at and row.ready_at > OLD for row in live)


def share(name: str, wished: int, presses: int = 0) -> pool.Share:
    return pool.Share(ord(name), name, wished, presses)


def test_what_all_fleets_may_have_is_given_in_turn_to_those_with_more_presses_first() -> None:
    def found(*asked: pool.Share, most: int) -> str:
        sizes = pool.shares(asked, most)
        return " ".join(f"{one.name}{sizes[one.fleet_id]}" for one in asked)

    assert found(share("a", 2), share("b", 3), most=5) == "a2 b3"
    assert found(share("a", 1), share("b", 1), share("c", 1, presses=1), most=2) == "a1 b0 c1"
    assert found(share("a", 20, presses=900), share("b", 1), share("c", 5, presses=1), most=6) == "a3 b1 c2"
    assert found(share("a", 2), share("b", 0), most=0) == "a0 b0"
    assert pool.shares([], 9) == {}


def test_of_two_workers_with_different_settings_the_later_one_replaces_and_the_other_does_not() -> None:
    early, late = pool.Order("o", 100), pool.Order("n", 200)
    assert late.replaces(early) and not early.replaces(late)
    assert late.replaces(pool.Order.read({})), "one from before gateways were marked"
    assert not pool.Order("o", 300).replaces(early), "the same settings"
    assert not pool.Order.read({}).replaces(early)
    begun = pending()
    begun.handle = {"mark": "n", "since": 200}
    assert pool.plan([ready(), begun], 1, too_old=OLD, order=early) == pool.Plan()
    assert pool.plan([ready(), begun], 1, too_old=OLD, order=pool.Order("x", 300)).surplus == [begun]


def outcome(kind: str) -> Gateway:
    row = Gateway(state=GatewayState.STOPPED, wanted_at=NOON)
    match kind:
        case "failed":
            row.failure = "No capacity."
        case "short":
            row.failure, row.ready_at, row.stopped_at = "Lost.", NOON, NOON + timedelta(seconds=5)
        case "lost":
            row.failure, row.ready_at, row.stopped_at = "Lost.", NOON, NOON + timedelta(hours=5)
        case "claimed":
            row.failure, row.ready_at, row.claimed_at = "Lost.", NOON, NOON
        case "good":
            row.state, row.ready_at = GatewayState.READY, NOON
        case "pending":
            row.state = GatewayState.STARTING
    return row


def test_failures_count_until_a_good_one_and_a_short_life_is_a_failure() -> None:
    def count(*kinds: str) -> int:
        return pool.failures_in_a_row([outcome(kind) for kind in kinds], now=NOON + timedelta(minutes=9))

    assert count() == 0
    assert count("failed", "pending", "short", "good", "failed") == 2
    assert count("good", "failed") == count("lost", "failed") == count("claimed", "failed") == 0


def test_one_that_is_ready_shows_that_others_start_but_not_yet_that_they_last() -> None:
    def count(minutes: int) -> int:
        kinds = ["good", "short", "short", "failed", "lost", "failed"]
        return pool.failures_in_a_row([outcome(kind) for kind in kinds], now=NOON + timedelta(minutes=minutes))

    assert (count(9), count(10)) == (2, 0)


def test_delays_grow_to_five_minutes() -> None:
    assert [pool.delay_s(failures) for failures in range(5)] == [0, 2, 4, 8, 16]
    assert pool.delay_s(9) == pool.delay_s(10_000) == 300
