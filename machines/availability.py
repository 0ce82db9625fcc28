"""When a person may be asked, as they say themselves: the switch, working hours and absences.

What is refused raises AvailabilityRefused, with a sentence or more for each field; nothing is changed then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from machines import rota_rows
from machines.errors import AvailabilityRefused
from machines.languages import validate_languages
from machines.models import Absence, Operator, WorkingHours, phone_validator, validate_time_zone
from machines.rota import duty
from machines.rota.wall import first_moment
from machines.rota_models import Weekday

# Longer than that is a wrong year, or somebody who no longer works here.
FARTHEST = timedelta(days=366)
HOURS_LIMIT = 42
ABSENCES_LIMIT = 100
_WEEK = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Hours:
    """Work that begins on a weekday (0 is Monday); an end at or before the start is on the next day."""

    weekday: int
    starts: time
    ends: time


def is_available_at(operator: Operator, moment: datetime) -> bool:
    """Whether the person may be asked then, as far as they themselves say: switch, hours and absences as stored now."""
    person = rota_rows.person_of(operator, now=moment)
    return person is not None and duty.is_free(person, moment)


def moment_of(operator: Operator, wall: datetime) -> datetime:
    """The moment at which the person's own clock shows this, for what they typed; aware times stay as they are."""
    if timezone.is_aware(wall):
        return wall
    return first_moment(wall, rota_rows.zone_of(operator.time_zone))


def set_available(
    operator: Operator, *, is_available: bool, until: datetime | None = None, now: datetime | None = None
) -> None:
    """Sets the switch; off `until` a moment, it comes on again by itself. Doing it twice changes nothing."""
    now = now or timezone.now()
    if until is not None:
        if is_available:
            raise _refused("until", "Who is available is not away until a time: leave it empty.")
        _check_moment("until", until, operator, now=now)
    Operator.objects.filter(pk=operator.pk).update(is_available=is_available, away_until=until)
    operator.is_available, operator.away_until = is_available, until


def set_time_zone(operator: Operator, name: str) -> None:
    """Says by which clock the person's working hours are meant."""
    try:
        validate_time_zone(name)
    except ValidationError as error:
        raise _refused("time_zone", *error.messages) from error
    Operator.objects.filter(pk=operator.pk).update(time_zone=name)
    operator.time_zone = name


def set_ways(operator: Operator, *, languages: list[str], wants_email: bool, wants_sms: bool, phone: str) -> None:
    """Says which languages the person speaks, and how they want to be told. All of it or nothing."""
    errors: dict[str, list[str]] = {}
    try:
        validate_languages(languages)
    except ValidationError as error:
        errors["languages"] = error.messages
    try:
        if phone:
            phone_validator(phone)
    except ValidationError as error:
        errors["phone"] = error.messages
    if wants_sms and not phone:
        errors["phone"] = ["For messages by SMS there must be a phone number."]
    if errors:
        raise AvailabilityRefused(errors)
    values = {"languages": languages, "wants_email": wants_email, "wants_sms": wants_sms, "phone": phone}
    Operator.objects.filter(pk=operator.pk).update(**values)
    for name, value in values.items():
        setattr(operator, name, value)


def replace_working_hours(operator: Operator, rows: Iterable[Hours]) -> list[WorkingHours]:
    """These and no others are the person's working hours from now on; none: at any time. All of them or nothing."""
    wanted = list(rows)
    _check_hours(wanted)
    with transaction.atomic():
        # Of two pages that save at once, the later one's hours stay, and never a mixture.
        Operator.objects.select_for_update(of=("self",)).get(pk=operator.pk)
        WorkingHours.objects.filter(operator=operator).delete()
        return WorkingHours.objects.bulk_create(
            WorkingHours(operator=operator, weekday=row.weekday, starts=row.starts, ends=row.ends) for row in wanted
        )


def add_absence(
    operator: Operator, *, starts_at: datetime, ends_at: datetime, note: str = "", now: datetime | None = None
) -> Absence:
    """The new absence; absences may overlap, and one that has begun may still be added."""
    now = now or timezone.now()
    _check_moment("ends_at", ends_at, operator, now=now)
    if timezone.is_naive(starts_at):
        raise _refused("starts_at", "Found a time without its zone; expected one with it.")
    if ends_at <= starts_at:
        raise _refused(
            "ends_at",
            f"Found an end at {_shown(ends_at, operator)}, "
            f"which is not after the start at {_shown(starts_at, operator)}.",
        )
    if ends_at - starts_at > FARTHEST:
        raise _refused("starts_at", f"Found {(ends_at - starts_at).days} days; expected {FARTHEST.days} at most.")
    note = " ".join(note.split())
    if len(note) > 120 or not note.isprintable():
        raise _refused("note", f"Found {len(note)} characters; expected a text of 120 at most.")
    with transaction.atomic():
        Operator.objects.select_for_update(of=("self",)).get(pk=operator.pk)
        if Absence.objects.filter(operator=operator, ends_at__gt=now).count() >= ABSENCES_LIMIT:
            raise _refused("starts_at", f"You have {ABSENCES_LIMIT} absences to come; remove one first.")
        return Absence.objects.create(operator=operator, starts_at=starts_at, ends_at=ends_at, note=note)


def remove_absence(operator: Operator, absence_id: int) -> None:
    """Forgets one of the person's own absences. Raises Absence.DoesNotExist for another's, and for one that is gone."""
    gone, _ = Absence.objects.filter(operator=operator, pk=absence_id).delete()
    if not gone:
        raise Absence.DoesNotExist(f"You have no absence {absence_id}.")


def _check_hours(rows: list[Hours]) -> None:
    if len(rows) > HOURS_LIMIT:
        raise _refused("hours", f"Found {len(rows)} rows; expected {HOURS_LIMIT} at most.")
    stretches = []
    for row in rows:
        if row.weekday not in Weekday.values:
            raise _refused("hours", f"Found weekday {row.weekday!r}; expected 0 (Monday) to 6 (Sunday).")
        start = row.weekday * 86_400 + _seconds(row.starts)
        length = (_seconds(row.ends) - _seconds(row.starts)) % 86_400 or 86_400
        stretches.append((start, start + length, row))
    stretches.sort(key=lambda one: one[0])
    # The last ones of a week may reach into the first ones of the next.
    following = [*stretches[1:], *((start + _WEEK, end + _WEEK, row) for start, end, row in stretches[:1])]
    for (_, end, row), (start, _, other) in zip(stretches, following, strict=True):
        if start < end and len(stretches) > 1:
            raise _refused("hours", f"{_words(row)} and {_words(other)} overlap; make one of them.")


def _check_moment(field: str, moment: datetime, operator: Operator, *, now: datetime) -> None:
    if timezone.is_naive(moment):
        raise _refused(field, "Found a time without its zone; expected one with it.")
    if moment <= now:
        raise _refused(field, f"Found {_shown(moment, operator)}, which is over; expected a time to come.")
    if moment - now > FARTHEST:
        raise _refused(field, f"Found {_shown(moment, operator)}; expected a time within {FARTHEST.days} days.")


def _refused(field: str, *words: str) -> AvailabilityRefused:
    return AvailabilityRefused({field: list(words)})


def _seconds(at: time) -> int:
    return (at.hour * 60 + at.minute) * 60 + at.second


def _words(row: Hours) -> str:
    return f"{Weekday(row.weekday).label} {row.starts:%H:%M}–{row.ends:%H:%M}"


def _shown(moment: datetime, operator: Operator) -> str:
    """As the person's own clock shows it, by which they have typed it."""
    return f"{moment.astimezone(rota_rows.zone_of(operator.time_zone)):%Y-%m-%d %H:%M}"
