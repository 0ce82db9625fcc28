"""Whom to ask about a machine: those on a shift by rank, then others who are at work, or nobody and from when somebody.

The rule that everything else serves: if anybody of the people given may be asked now, the answer is not empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo

from machines.rota import weekly
from machines.rota.spans import Span, common, end_of, without
from machines.rota.weekly import WHOLE_DAYS, Weekly

# How far ahead somebody is looked for.
FORESIGHT = timedelta(weeks=5)
# Most waits are short; a look at a few days is cheap.
_FIRST_LOOK = timedelta(days=3)
# A time of day says enough about when something ends only if it is less than a day ahead.
_A_DAY = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Turn:
    """A shift, in the time of the machine's site; `is_here` is one for that site alone."""

    when: Weekly
    rank: int = 1
    is_here: bool = True


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may be asked about the machine as far as skill and rights go.

    `hours` in their own zone; none: at any time. A supervisor is asked only on a shift.
    """

    name: str
    zone: tzinfo
    hours: tuple[Weekly, ...] = ()
    absences: tuple[Span, ...] = ()
    turns: tuple[Turn, ...] = ()
    languages: frozenset[str] = frozenset()
    is_supervisor: bool = False

    def free(self, since: datetime, until: datetime) -> list[Span]:
        """When they may be asked; of what goes on after `until`, at least the beginning."""
        at_work = weekly.spans(self.hours, self.zone, since, until) if self.hours else [Span(since, until)]
        return without(at_work, self.absences)


@dataclass(frozen=True, slots=True)
class Place:
    """The machine's site; `languages` spoken there, none: any."""

    zone: tzinfo
    languages: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Found:
    """Somebody to ask. `rank` is None without a shift; `until` is None if it goes on for a day or more."""

    name: str
    rank: int | None
    is_here: bool
    until: datetime | None


def in_order(people: list[Person], place: Place, *, now: datetime, is_open: Callable[[], bool]) -> list[Found]:
    """Whom to ask, each once: those on a shift, then others, unless the place is closed and somebody is on a shift."""
    found = on_shift(people, place, now=now)
    if found and not is_open():
        return found
    known = {one.name for one in found}
    return found + others([one for one in people if one.name not in known], place, now=now)


def on_shift(people: Iterable[Person], place: Place, *, now: datetime) -> list[Found]:
    """Who is on a shift now and may be asked: this site's by rank, then the fleet's; who speaks its language first."""
    found: list[tuple[tuple[object, ...], Found]] = []
    for person in people:
        if not person.turns or not is_free(person, now):
            continue
        now_on = [turn for turn in person.turns if _covers(turn, place, now)]
        if now_on:
            best = min(now_on, key=lambda turn: (not turn.is_here, turn.rank))
            one = Found(person.name, best.rank, best.is_here, _until(person, place, best, now))
            found.append(((not best.is_here, best.rank, *_preference(person, place)), one))
    return _sorted(found)


def others(people: Iterable[Person], place: Place, *, now: datetime) -> list[Found]:
    """Operators who may be asked now, whether on a shift or not; who speaks the site's language first."""
    found: list[tuple[tuple[object, ...], Found]] = []
    for person in people:
        if person.is_supervisor:
            continue
        ahead = now + _A_DAY
        end = end_of(person.free(now, ahead), now)
        if end is not None:
            until = end if person.hours and end < ahead else None
            found.append((_preference(person, place), Found(person.name, None, False, until)))
    return _sorted(found)


def next_moment(people: Iterable[Person], place: Place, *, now: datetime) -> datetime | None:
    """From when there is somebody to ask, if that is within FORESIGHT; `now` if there is somebody already."""
    known = list(people)
    for ahead in (_FIRST_LOOK, FORESIGHT):
        firsts = [first for person in known if (first := _first(person, place, now, now + ahead))]
        if firsts:
            return max(now, min(firsts))
    return None


def is_open(hours: Iterable[Weekly], zone: tzinfo, *, now: datetime, closed: Iterable[date] = ()) -> bool:
    """Whether a place is open; with no hours it always is. Of closed days, what began before goes on."""
    plan = list(hours) or [WHOLE_DAYS]
    return end_of(weekly.spans(plan, zone, now, now, closed=frozenset(closed)), now) is not None


def is_free(person: Person, now: datetime) -> bool:
    """Whether they may be asked now, as far as they themselves say."""
    return end_of(person.free(now, now + _A_DAY), now) is not None


def _covers(turn: Turn, place: Place, now: datetime) -> bool:
    return end_of(weekly.spans([turn.when], place.zone, now, now), now) is not None


def _until(person: Person, place: Place, best: Turn, now: datetime) -> datetime | None:
    """Until when one shift of this kind follows the other and the person may be asked."""
    ahead = now + _A_DAY
    plan = [turn.when for turn in person.turns if turn.is_here == best.is_here]
    on = common(weekly.spans(plan, place.zone, now, ahead), person.free(now, ahead))
    end = end_of(on, now)
    return end if end is not None and end < ahead else None


def _first(person: Person, place: Place, since: datetime, until: datetime) -> datetime | None:
    free = person.free(since, until)
    if person.is_supervisor:
        free = common(free, weekly.spans([turn.when for turn in person.turns], place.zone, since, until))
    return next((span.start for span in free if span.end > since), None)


def _preference(person: Person, place: Place) -> tuple[bool, str]:
    return bool(place.languages) and not place.languages & person.languages, person.name


def _sorted(found: list[tuple[tuple[object, ...], Found]]) -> list[Found]:
    return [one for _, one in sorted(found, key=lambda pair: pair[0])]
