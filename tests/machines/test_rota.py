"""The rota against looks at the clock: nobody is forgotten and nobody called too early, whatever clocks do."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from machines.rota import duty, weekly
from machines.rota.duty import Person, Place, Turn
from machines.rota.public_holidays import is_known, public_holidays
from machines.rota.spans import Span, common, end_of, merged, without
from machines.rota.wall import end_moment, first_moment
from machines.rota.weekly import WHOLE_DAYS, Weekly

ROME, NEW_YORK, TOKYO = ZoneInfo("Europe/Rome"), ZoneInfo("America/New_York"), ZoneInfo("Asia/Tokyo")
# Half an hour of daylight saving; clocks put forward at midnight; a day that never was.
LORD_HOWE, SANTIAGO, APIA = ZoneInfo("Australia/Lord_Howe"), ZoneInfo("America/Santiago"), ZoneInfo("Pacific/Apia")
ZONES = [ROME, NEW_YORK, TOKYO, LORD_HOWE, SANTIAGO, APIA, ZoneInfo("Africa/Casablanca"), ZoneInfo("UTC")]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
# Around which clocks are changed, one way and the other, in these zones.
CHANGES = [
    *(datetime(2026, 3, 29, 1), datetime(2026, 10, 25, 1), datetime(2026, 3, 8, 7), datetime(2026, 11, 1, 6)),
    *(datetime(2026, 4, 4, 15), datetime(2026, 10, 3, 15, 30), datetime(2026, 9, 6, 4), datetime(2026, 4, 5, 3)),
    *(datetime(2011, 12, 30, 10), datetime(2026, 2, 15, 2), datetime(2026, 3, 22, 2), datetime(2025, 12, 31, 23)),
]


def at(text: str, zone: ZoneInfo = ROME) -> datetime:
    """The moment of an unambiguous local time."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def clock(text: str) -> time:
    return time.fromisoformat(text)


def on(days: str, starts: str, ends: str, **more: object) -> Weekly:
    return Weekly(frozenset(map(int, days)), clock(starts), clock(ends), **more)  # type: ignore[arg-type]


def local(span: Span, zone: ZoneInfo = ROME) -> tuple[str, str]:
    return tuple(f"{moment.astimezone(zone):%d %H:%M%z}" for moment in span)  # type: ignore[return-value]


# --- What clocks show


@pytest.mark.parametrize(
    ("days", "starts", "ends", "found"),
    [
        # Sunday 29 March 2026: 02:00 to 03:00 is left out.
        ("6", "01:30", "03:30", ("29 01:30+0100", "29 03:30+0200")),
        ("6", "02:30", "04:00", ("29 03:00+0200", "29 04:00+0200")),
        ("5", "22:00", "02:30", ("28 22:00+0100", "29 03:00+0200")),
        ("5", "22:00", "02:00", ("28 22:00+0100", "29 03:00+0200")),
        ("5", "22:00", "03:00", ("28 22:00+0100", "29 03:00+0200")),
        ("6", "00:00", "00:00", ("29 00:00+0100", "30 00:00+0200")),
    ],
)
def test_shift_in_the_night_when_clocks_are_put_forward(
    days: str, starts: str, ends: str, found: tuple[str, str]
) -> None:
    (span,) = weekly.spans([on(days, starts, ends)], ROME, at("2026-03-28T12:00"), at("2026-03-29T20:00"))
    assert local(span) == found


def test_shift_all_of_which_is_left_out_does_not_happen_that_night() -> None:
    plan = [on("6", "02:15", "02:45")]
    assert weekly.spans(plan, ROME, at("2026-03-28T12:00"), at("2026-03-29T20:00")) == []
    assert len(weekly.spans(plan, ROME, at("2026-04-04T12:00"), at("2026-04-05T20:00"))) == 1


@pytest.mark.parametrize(
    ("days", "starts", "ends", "found"),
    [
        # Sunday 25 October 2026: 02:00 to 03:00 comes twice.
        ("6", "02:30", "02:45", ("25 02:30+0200", "25 02:45+0100")),
        ("6", "02:30", "04:00", ("25 02:30+0200", "25 04:00+0100")),
        ("5", "22:00", "02:30", ("24 22:00+0200", "25 02:30+0100")),
        ("5", "22:00", "02:00", ("24 22:00+0200", "25 02:00+0200")),
        ("5", "22:00", "03:00", ("24 22:00+0200", "25 03:00+0100")),
        ("6", "00:00", "00:00", ("25 00:00+0200", "26 00:00+0100")),
    ],
)
def test_shift_in_the_night_when_clocks_are_put_back(days: str, starts: str, ends: str, found: tuple[str, str]) -> None:
    (span,) = weekly.spans([on(days, starts, ends)], ROME, at("2026-10-24T12:00"), at("2026-10-25T20:00"))
    if found[1] == "25 02:00+0200":
        # 02:00 comes first as the end of the summer's last hour: until then every time before it has been shown.
        assert span.end == datetime(2026, 10, 25, 0, tzinfo=UTC)
    assert local(span) == found


def test_day_that_never_was_is_jumped_over() -> None:
    # Apia left out 30 December 2011, a Friday.
    around = datetime(2011, 12, 28, tzinfo=UTC), datetime(2012, 1, 2, tzinfo=UTC)
    assert weekly.spans([on("4", "08:00", "17:00")], APIA, *around) == []
    (span,) = weekly.spans([on("3", "22:00", "08:00")], APIA, *around)
    assert local(span, APIA) == ("29 22:00-1000", "31 00:00+1400")


walls = st.builds(
    lambda change, minutes: change + minutes * MINUTE,
    st.sampled_from(CHANGES),
    st.integers(-36 * 60, 36 * 60),
)


@settings(max_examples=300, deadline=None)
@given(zone=st.sampled_from(ZONES), wall=walls)
def test_what_meets_on_the_wall_leaves_no_gap(zone: ZoneInfo, wall: datetime) -> None:
    first, end = first_moment(wall, zone), end_moment(wall, zone)
    assert first <= end
    shown = first.astimezone(zone).replace(tzinfo=None)
    assert shown >= wall
    if shown > wall:  # left out: then it is the very moment of the jump
        assert (first - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None) < wall
    assert (end - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None) < wall
    for later in range(0, 26 * 60, 13):
        assert (end + later * MINUTE).astimezone(zone).replace(tzinfo=None) >= wall


# --- The week, against every minute's clock

times = st.builds(lambda slot: time(slot // 4, slot % 4 * 15), st.integers(0, 95))
weekdays = st.frozensets(st.integers(0, 6), min_size=1)
plans = st.lists(st.builds(Weekly, weekdays, times, times), max_size=4).map(tuple)
moments = st.builds(
    lambda change, minutes: (change + minutes * 15 * MINUTE).replace(tzinfo=UTC),
    st.sampled_from(CHANGES),
    st.integers(-200, 200),
)


def is_on_by_the_clock(one: Weekly, zone: ZoneInfo, moment: datetime) -> bool:
    """By looking: a stretch lasts from the first to the last quarter of an hour whose clock shows a time within it."""
    shown = moment.astimezone(zone).replace(tzinfo=None)
    for back in (0, 1, 2):
        day = shown.date() - back * DAY
        if day.weekday() not in one.weekdays:
            continue
        starts = datetime.combine(day, one.starts)
        ends = datetime.combine(day if one.ends > one.starts else day + DAY, one.ends)
        # A clock is put back by an hour at most: what is within is within now, or around an hour of now on both sides.
        near = [
            starts <= (moment + step * 15 * MINUTE).astimezone(zone).replace(tzinfo=None) < ends
            for step in range(-8, 9)
        ]
        if any(near[:9]) and any(near[8:]):
            return True
    return False


@settings(max_examples=150, deadline=None)
@given(zone=st.sampled_from(ZONES), plan=plans, since=moments)
@example(zone=ROME, plan=(on("6", "02:30", "02:45"),), since=datetime(2026, 10, 24, 20, tzinfo=UTC))
@example(zone=SANTIAGO, plan=(on("5", "23:30", "00:15"),), since=datetime(2026, 4, 4, 20, tzinfo=UTC))
def test_week_is_what_the_clocks_show(zone: ZoneInfo, plan: tuple[Weekly, ...], since: datetime) -> None:
    found = weekly.spans(plan, zone, since, since + 12 * HOUR)
    for step in range(48):
        moment = since + step * 15 * MINUTE
        by_the_clock = any(is_on_by_the_clock(one, zone, moment) for one in plan)
        assert (end_of(found, moment) is not None) == by_the_clock, moment.astimezone(zone)


def test_second_weeks_are_counted_from_the_first_days_week() -> None:
    # The first day is a Wednesday; its week counts from its Monday, which itself is too early.
    one = on("04", "08:00", "09:00", first_day=date(2026, 11, 25), last_day=date(2026, 12, 21), every_weeks=2)
    days = [date(2026, 11, 16) + number * DAY for number in range(60)]
    assert [day.isoformat()[5:] for day in days if one.begins_on(day)] == ["11-27", "12-07", "12-11", "12-21"]


def test_weeks_go_on_over_the_turn_of_the_year_with_53_weeks() -> None:
    one = on("0", "08:00", "09:00", first_day=date(2026, 12, 14), every_weeks=2)
    days = [date(2026, 12, 14) + number * DAY for number in range(40)]
    assert [day.isoformat()[5:] for day in days if one.begins_on(day)] == ["12-14", "12-28", "01-11"]


# --- Stretches

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
minutes = st.integers(0, 40)
stretches = st.lists(
    st.builds(lambda a, b: Span(NEW_YEAR + a * MINUTE, NEW_YEAR + b * MINUTE), minutes, minutes), max_size=6
)


@settings(max_examples=150, deadline=None)
@given(one=stretches, other=stretches)
def test_stretches_are_sets_of_minutes(one: list[Span], other: list[Span]) -> None:
    def minutes_of(spans: list[Span]) -> set[int]:
        return {n for n in range(42) if any(s.start <= NEW_YEAR + n * MINUTE < s.end for s in spans)}

    assert minutes_of(merged(one)) == minutes_of(one)
    assert minutes_of(common(merged(one), merged(other))) == minutes_of(one) & minutes_of(other)
    assert minutes_of(without(merged(one), other)) == minutes_of(one) - minutes_of(other)
    for found in (merged(one), without(merged(one), other)):
        assert all(a.end < b.start for a, b in pairwise(found))


# --- Whom to ask

HERE = Place(ROME)


def names(found: list[duty.Found]) -> list[str]:
    return [one.name for one in found]


def somebody(name: str, **more: object) -> Person:
    return Person(name, more.pop("zone", ROME), **more)  # type: ignore[arg-type]


MONDAY_NOON = at("2026-11-23T12:00")
ALWAYS = Turn(WHOLE_DAYS)


def test_here_by_rank_then_the_fleets_by_rank_then_by_language_then_by_name() -> None:
    italian = frozenset({"it"})
    people = [
        somebody("fleet1", turns=(Turn(WHOLE_DAYS, 1, False),)),
        somebody("here2", turns=(Turn(WHOLE_DAYS, 2),)),
        somebody("here1-b", turns=(ALWAYS,)),
        somebody("here1-a", turns=(ALWAYS,)),
        somebody("here1-z", turns=(ALWAYS, Turn(WHOLE_DAYS, 1, False)), languages=italian),
        somebody("idle", languages=italian),
    ]
    found = duty.on_shift(people, Place(ROME, frozenset({"it", "de"})), now=MONDAY_NOON)
    assert names(found) == ["here1-z", "here1-a", "here1-b", "here2", "fleet1"]
    assert names(duty.on_shift(people, HERE, now=MONDAY_NOON)) == ["here1-a", "here1-b", "here1-z", "here2", "fleet1"]


def test_shift_is_by_the_clock_of_the_site_and_work_by_the_persons_own() -> None:
    early = somebody(
        "early", zone=NEW_YORK, hours=(on("0", "08:00", "12:00"),), turns=(Turn(on("0", "08:00", "20:00")),)
    )
    assert names(duty.on_shift([early], HERE, now=at("2026-11-23T13:59"))) == []
    (found,) = duty.on_shift([early], HERE, now=at("2026-11-23T14:00"))
    assert found.until == at("2026-11-23T18:00")
    assert duty.next_moment([early], HERE, now=at("2026-11-23T09:00")) == at("2026-11-23T14:00")


def test_shifts_that_follow_each_other_are_one_until() -> None:
    turns = (
        Turn(on("0", "08:00", "16:00")),
        Turn(on("0", "16:00", "22:00"), 2),
        Turn(on("0", "22:00", "23:00"), 1, False),
    )
    (found,) = duty.on_shift([somebody("a", turns=turns)], HERE, now=MONDAY_NOON)
    assert found.until == at("2026-11-23T22:00")
    (found,) = duty.on_shift([somebody("a", turns=(ALWAYS,))], HERE, now=MONDAY_NOON)
    assert found.until is None


def test_empty_week_has_nobody_and_no_next_moment() -> None:
    never = Span(MONDAY_NOON - DAY, MONDAY_NOON + 100 * DAY)
    for people in ([], [somebody("a", absences=(never,))], [somebody("sue", is_supervisor=True)]):
        assert duty.on_shift(people, HERE, now=MONDAY_NOON) == duty.others(people, HERE, now=MONDAY_NOON) == []
        assert duty.next_moment(people, HERE, now=MONDAY_NOON) is None


def test_whoever_comes_back_from_an_absence_is_the_next() -> None:
    away = (Span(MONDAY_NOON - DAY, MONDAY_NOON + 20 * DAY),)
    people = [somebody("a", absences=away), somebody("b", absences=away, hours=(on("0", "08:00", "09:00"),))]
    assert duty.next_moment(people, HERE, now=MONDAY_NOON) == MONDAY_NOON + 20 * DAY
    assert duty.next_moment(people[1:], HERE, now=MONDAY_NOON) == at("2026-12-14T08:00")


quarters = st.integers(-400, 400)
people_lists = st.lists(
    st.builds(
        lambda zone, hours, away, turns, is_supervisor: (zone, hours, away, turns, is_supervisor),
        st.sampled_from(ZONES),
        plans,
        st.lists(st.tuples(quarters, st.integers(1, 300)), max_size=2),
        st.lists(
            st.builds(Turn, st.builds(Weekly, weekdays, times, times), st.integers(1, 3), st.booleans()), max_size=2
        ),
        st.booleans(),
    ),
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(zone=st.sampled_from(ZONES), drawn=people_lists, now=moments)
def test_nobody_is_asked_only_if_nobody_can_be_and_the_next_moment_is_the_first(
    zone: ZoneInfo,
    drawn: list[tuple[ZoneInfo, tuple[Weekly, ...], list[tuple[int, int]], list[Turn], bool]],
    now: datetime,
) -> None:
    place = Place(zone)
    people = [
        Person(
            f"p{number}",
            of,
            hours,
            tuple(Span(now + a * 15 * MINUTE, now + (a + length) * 15 * MINUTE) for a, length in away),
            tuple(turns),
            is_supervisor=is_supervisor,
        )
        for number, (of, hours, away, turns, is_supervisor) in enumerate(drawn)
    ]

    def can_be_asked(one: Person, moment: datetime) -> bool:
        if any(gone.start <= moment < gone.end for gone in one.absences):
            return False
        assert isinstance(one.zone, ZoneInfo)
        if one.hours and not any(is_on_by_the_clock(hours, one.zone, moment) for hours in one.hours):
            return False
        return not one.is_supervisor or any(is_on_by_the_clock(turn.when, zone, moment) for turn in one.turns)

    able = {one.name for one in people if can_be_asked(one, now)}
    found = names(duty.in_order(people, place, now=now, is_open=lambda: True))
    assert set(found) == able and len(found) == len(able)
    at_night = names(duty.in_order(people, place, now=now, is_open=lambda: False))
    assert at_night == (names(duty.on_shift(people, place, now=now)) or found)

    expected = next(
        (now + step * 15 * MINUTE for step in range(4 * 24 * 8) if _any(people, can_be_asked, now, step)), None
    )
    next_moment = duty.next_moment(people, place, now=now)
    if expected is not None:
        assert next_moment == expected
    else:
        assert next_moment is None or next_moment >= now + 8 * DAY


def _any(people: list[Person], can_be_asked: object, now: datetime, step: int) -> bool:
    assert callable(can_be_asked)
    return any(can_be_asked(one, now + step * 15 * MINUTE) for one in people)


# --- Opening hours and holidays


def test_place_without_hours_is_open_but_on_closed_days() -> None:
    assert duty.is_open([], ROME, now=MONDAY_NOON)
    assert not duty.is_open([], ROME, now=MONDAY_NOON, closed=[date(2026, 11, 23)])
    assert duty.is_open([], ROME, now=at("2026-11-24T00:00"), closed=[date(2026, 11, 23)])


def test_what_opened_the_evening_before_a_closed_day_goes_on() -> None:
    bar = [on("06", "18:00", "02:00")]
    closed = [date(2026, 11, 23)]
    assert duty.is_open(bar, ROME, now=at("2026-11-23T01:59"), closed=closed)
    assert not duty.is_open(bar, ROME, now=at("2026-11-23T02:00"), closed=closed)
    assert not duty.is_open(bar, ROME, now=at("2026-11-23T19:00"), closed=closed)
    assert not duty.is_open(bar, ROME, now=at("2026-11-24T01:00"), closed=closed)


def test_public_holidays_are_those_of_the_country() -> None:
    assert date(2026, 12, 8) in public_holidays("IT", 2026)
    assert date(2026, 12, 8) not in public_holidays("DE", 2026)
    assert date(2027, 3, 29) in public_holidays("DE", 2027), "Easter moves"
    assert public_holidays("XX", 2026) == frozenset()
    assert is_known("IT") and not is_known("XX")
