"""What the rota has for one person in the days to come, as they read it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from enum import StrEnum

from machines import rota_rows
from machines.models import Absence, Operator, Shift, Site
from machines.rota.duty import FORESIGHT, Person
from machines.rota.spans import Span, common, end_of
from machines.rota.weekly import Weekly

DAYS = 7


@dataclass(frozen=True, slots=True)
class Turn:
    """One coming of a shift, in the zone of its site; `is_away`: the person is not to be asked for a part of it."""

    starts: datetime
    ends: datetime
    is_away: bool


@dataclass(frozen=True, slots=True)
class OwnShift:
    """A shift of the days to come, with its turns in order.

    `site` is empty for all sites of the fleet. `clock` names the time zone; empty: each site goes by its own clock, and
    the turns' moments are those of one of them.
    """

    fleet: str
    site: str
    clock: str
    rank: int
    is_now: bool
    turns: tuple[Turn, ...]


class Reason(StrEnum):
    """Why somebody is not asked."""

    SWITCH = "switch"
    ABSENCE = "absence"
    HOURS = "hours"


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a person may be asked at this moment; if not, why.

    `changes_at` is when that ends, one way or the other; None where it is not known or weeks away.
    """

    is_free: bool
    reason: Reason | None
    changes_at: datetime | None


def standing(operator: Operator, *, now: datetime) -> Standing:
    """How the person stands now, by what they have said themselves: switch, absences and working hours."""
    person = rota_rows.person_of(operator, now=now)
    free = person.free(now, now + FORESIGHT) if person else []
    until = end_of(free, now)
    if until is not None:
        return Standing(True, None, until if until < now + FORESIGHT else None)
    since = min((span.start for span in free if span.start > now), default=None)
    if not operator.is_available and (operator.away_until is None or operator.away_until > now):
        return Standing(False, Reason.SWITCH, operator.away_until)
    is_absent = Absence.objects.filter(operator=operator, starts_at__lte=now, ends_at__gt=now).exists()
    return Standing(False, Reason.ABSENCE if is_absent else Reason.HOURS, since)


def shifts_ahead(operator: Operator, *, now: datetime, days: int = DAYS) -> list[OwnShift]:
    """The shifts that go on now or begin within some days, the first to begin first; in six queries."""
    zones: dict[int, list[str]] = defaultdict(list)
    for fleet, zone in Site.objects.filter(fleet__operators=operator).values_list("fleet", "time_zone").distinct():
        zones[fleet].append(zone)
    person = rota_rows.person_of(operator, now=now)
    found = []
    for shift in Shift.objects.filter(operator=operator, fleet__operators=operator).select_related("fleet", "site"):
        clocks = [shift.site.time_zone] if shift.site else sorted(zones[shift.fleet_id])
        turns = _turns(shift, rota_rows.zone_of(clocks[0] if clocks else operator.time_zone), person, now, days)
        if turns:
            found.append(
                OwnShift(
                    fleet=shift.fleet.name,
                    site=shift.site.name if shift.site else "",
                    clock=clocks[0] if len(clocks) == 1 else "",
                    rank=shift.rank,
                    is_now=turns[0].starts <= now,
                    turns=tuple(turns),
                )
            )
    return sorted(found, key=lambda one: (one.turns[0].starts, one.rank, one.fleet, one.site))


def _turns(shift: Shift, zone: tzinfo, person: Person | None, now: datetime, days: int) -> list[Turn]:
    weekdays = frozenset(map(int, shift.weekdays))
    plan = Weekly(weekdays, shift.starts, shift.ends, shift.first_day, shift.last_day, shift.every_weeks)
    today = now.astimezone(zone).date()
    turns = []
    for day in (today + timedelta(days=ahead) for ahead in range(-1, days)):
        span = plan.span_of(day, zone)
        if not plan.begins_on(day) or span.end <= now or span.end <= span.start:
            continue
        rest = Span(max(span.start, now), span.end)
        free = common([rest], person.free(*rest)) if person else []
        turns.append(Turn(span.start.astimezone(zone), span.end.astimezone(zone), is_away=free != [rest]))
    return turns
