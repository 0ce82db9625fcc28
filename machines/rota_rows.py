"""What the rows say of a machine's people and place, for machines.rota to compute with.

For every press: a handful of queries, however many people there are.
"""

from __future__ import annotations

import zoneinfo
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta, tzinfo

from django.db.models import Q, QuerySet

from machines.models import Absence, Closure, Machine, OpeningHours, Operator, Shift, Site, WorkingHours
from machines.rota import duty
from machines.rota.duty import Person, Place, Turn
from machines.rota.public_holidays import public_holidays
from machines.rota.spans import EVER, SINCE_EVER, Span
from machines.rota.weekly import Weekly

_DAY = timedelta(days=1)


def zone_of(name: str) -> tzinfo:
    """The time zone of this name; UTC for one that this computer does not know: a wrong hour is better than nobody."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return UTC


def place_of(site: Site) -> Place:
    return Place(zone=zone_of(site.time_zone), languages=frozenset(site.languages))


def people_for(machine: Machine, *, now: datetime) -> list[Person]:
    """Those of the fleet who are active and can repair this model, with their shifts at this site; in four queries."""
    able = Operator.objects.filter(Q(skills=None) | Q(skills=machine.model_id), user__is_active=True)
    turns: dict[int, list[Turn]] = defaultdict(list)
    for operator, site, rank, days, starts, ends, first_day, last_day, every_weeks in (
        Shift.objects.filter(Q(site=None) | Q(site=machine.site_id), fleet=machine.fleet_id)
        .filter(Q(last_day=None) | Q(last_day__gte=now.date() - 3 * _DAY))
        .values_list("operator", "site", "rank", "weekdays", "starts", "ends", "first_day", "last_day", "every_weeks")
        .order_by()
    ):
        when = Weekly(frozenset(map(int, days)), starts, ends, first_day, last_day, every_weeks)
        turns[operator].append(Turn(when, rank, is_here=site is not None))
    return _people(able.filter(fleets=machine.fleet_id), Q(operator__fleets=machine.fleet_id), turns, now)


def person_of(operator: Operator, *, now: datetime) -> Person | None:
    """The operator without shifts, from the rows as they are now; None for who is gone."""
    return next(iter(_people(Operator.objects.filter(pk=operator.pk), Q(operator=operator.pk), {}, now)), None)


def is_open(site: Site, *, now: datetime) -> bool:
    """Whether the site is open; in two queries."""
    hours = OpeningHours.objects.filter(site=site).values_list("weekday", "opens", "closes").order_by()
    here = now.astimezone(zone_of(site.time_zone)).date()
    near = [here - 2 * _DAY, here - _DAY, here]
    closures = Closure.objects.filter(
        Q(site=site) | Q(fleet=site.fleet_id), first_day__lte=near[-1], last_day__gte=near[0]
    ).values_list("first_day", "last_day")
    closed: set[date] = {day for first, last in closures for day in near if first <= day <= last}
    if site.closed_on_public_holidays:
        closed |= {day for day in near if day in public_holidays(site.country, day.year)}
    plan = [Weekly(frozenset({weekday}), opens, closes) for weekday, opens, closes in hours]
    return duty.is_open(plan, zone_of(site.time_zone), now=now, closed=closed)


def _people(operators: QuerySet[Operator], theirs: Q, turns: dict[int, list[Turn]], now: datetime) -> list[Person]:
    hours: dict[int, list[Weekly]] = defaultdict(list)
    at_work = WorkingHours.objects.filter(theirs).order_by().values_list("operator", "weekday", "starts", "ends")
    for operator, weekday, starts, ends in at_work:
        hours[operator].append(Weekly(frozenset({weekday}), starts, ends))
    absences: dict[int, list[Span]] = defaultdict(list)
    away = Absence.objects.filter(theirs, ends_at__gt=now).order_by().values_list("operator", "starts_at", "ends_at")
    for operator, starts_at, ends_at in away:
        absences[operator].append(Span(starts_at, ends_at))
    people = []
    fields = ("pk", "user__username", "time_zone", "languages", "role", "is_available", "away_until")
    for pk, name, zone, languages, role, is_available, away_until in operators.order_by().values_list(*fields):
        if not is_available:
            absences[pk].append(Span(SINCE_EVER, away_until or EVER))
        people.append(
            Person(
                name=name,
                zone=zone_of(zone),
                hours=tuple(hours[pk]),
                absences=tuple(absences[pk]),
                turns=tuple(turns.get(pk, ())),
                languages=frozenset(languages),
                is_supervisor=role == Operator.Role.SUPERVISOR,
            )
        )
    return people
