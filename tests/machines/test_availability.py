"""What people say of themselves: the switch, working hours and absences."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from django.db import DatabaseError, transaction

from machines import availability
from machines.availability import Hours
from machines.errors import AvailabilityRefused
from machines.models import Absence, Operator, WorkingHours
from tests.sessions.rescues import person

pytestmark = pytest.mark.django_db

# A Monday.
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def operator(name: str = "Alice", *, zone: str = "UTC") -> Operator:
    found = person(name).operator
    availability.set_time_zone(found, zone)
    return found


def is_available(found: Operator, at: datetime = NOON) -> bool:
    return availability.is_available_at(found, at)


def test_new_person_is_available_day_and_night() -> None:
    assert is_available(operator())


def test_switch_goes_off_and_on() -> None:
    alice = operator()
    availability.set_available(alice, is_available=False)
    assert not is_available(alice)
    assert not is_available(alice, NOON + timedelta(days=3000))
    availability.set_available(alice, is_available=True)
    assert is_available(alice)


def test_switch_comes_on_again_by_itself_to_the_second() -> None:
    alice = operator()
    availability.set_available(alice, is_available=False, until=NOON + HOUR, now=NOON)
    assert not is_available(alice, NOON + HOUR - timedelta(seconds=1))
    assert is_available(alice, NOON + HOUR)


def test_working_hours_are_by_the_persons_own_clock() -> None:
    alice = operator(zone="Asia/Tokyo")
    availability.replace_working_hours(alice, [Hours(0, time(8), time(17))])
    tokyo_eight = datetime(2026, 11, 22, 23, tzinfo=UTC)
    assert not is_available(alice, tokyo_eight - timedelta(seconds=1))
    assert is_available(alice, tokyo_eight)
    assert not is_available(alice, tokyo_eight + 9 * HOUR)


def test_working_hours_are_replaced_as_a_whole_and_none_means_any_time() -> None:
    alice = operator()
    availability.replace_working_hours(alice, [Hours(1, time(8), time(12)), Hours(1, time(13), time(17))])
    assert not is_available(alice)
    availability.replace_working_hours(alice, [Hours(0, time(11), time(13))])
    assert is_available(alice)
    assert WorkingHours.objects.count() == 1
    availability.replace_working_hours(alice, [])
    assert is_available(alice, NOON + 6 * HOUR)


def test_absence_is_a_while_without_questions() -> None:
    alice = operator()
    absence = availability.add_absence(alice, starts_at=NOON, ends_at=NOON + HOUR, note=" dentist\n ", now=NOON)
    assert absence.note == "dentist"
    assert [is_available(alice, NOON + at * HOUR) for at in (-1, 0, 1)] == [True, False, True]
    availability.remove_absence(alice, absence.pk)
    assert is_available(alice)


def test_bobs_absence_is_not_alices_to_remove() -> None:
    absence = availability.add_absence(operator("Bob"), starts_at=NOON, ends_at=NOON + HOUR, now=NOON)
    with pytest.raises(Absence.DoesNotExist):
        availability.remove_absence(operator(), absence.pk)
    assert Absence.objects.count() == 1


def test_typed_time_is_by_the_persons_own_clock() -> None:
    alice = operator(zone="Europe/Rome")
    assert availability.moment_of(alice, datetime(2026, 7, 1, 12)) == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert availability.moment_of(alice, datetime(2026, 3, 29, 2, 30)) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    assert availability.moment_of(alice, NOON) == NOON


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([Hours(7, time(8), time(9))], "Found weekday 7; expected 0"),
        (
            [Hours(0, time(8), time(12)), Hours(0, time(11), time(13))],
            "Monday 08:00–12:00 and Monday 11:00–13:00 overlap",
        ),
        (
            [Hours(0, time(22), time(6)), Hours(1, time(5), time(7))],
            "Monday 22:00–06:00 and Tuesday 05:00–07:00 overlap",
        ),
        ([Hours(6, time(8), time(8)), Hours(0, time(7), time(9))], "Sunday 08:00–08:00 and Monday 07:00–09:00 overlap"),
        ([Hours(0, time(8), time(9)), Hours(0, time(8), time(9))], "overlap"),
        ([Hours(0, time(0, minute), time(0, minute + 1)) for minute in range(43)], "Found 43 rows"),
    ],
)
def test_hours_that_cannot_be_are_refused_in_words_and_change_nothing(rows: list[Hours], words: str) -> None:
    alice = operator()
    availability.replace_working_hours(alice, [Hours(3, time(1), time(2))])
    with pytest.raises(AvailabilityRefused, match=words) as refused:
        availability.replace_working_hours(alice, rows)
    assert set(refused.value.errors) == {"hours"}
    assert WorkingHours.objects.get().weekday == 3


def test_hours_that_meet_do_not_overlap() -> None:
    rows = [Hours(0, time(8), time(12)), Hours(0, time(12), time(8)), Hours(6, time(8), time(8))]
    availability.replace_working_hours(operator(), rows)
    assert WorkingHours.objects.count() == 3


@pytest.mark.parametrize(
    ("starts_at", "ends_at", "note", "field"),
    [
        (NOON, NOON - HOUR, "", "ends_at"),
        (NOON + 2 * HOUR, NOON + HOUR, "", "ends_at"),
        (NOON, NOON + timedelta(days=367), "", "ends_at"),
        (NOON - timedelta(days=300), NOON + timedelta(days=300), "", "starts_at"),
        (NOON.replace(tzinfo=None), NOON + HOUR, "", "starts_at"),
        (NOON, (NOON + HOUR).replace(tzinfo=None), "", "ends_at"),
        (NOON, NOON + HOUR, "x" * 121, "note"),
        (NOON, NOON + HOUR, "a\x00b", "note"),
    ],
)
def test_absence_that_cannot_be_is_refused(starts_at: datetime, ends_at: datetime, note: str, field: str) -> None:
    with pytest.raises(AvailabilityRefused) as refused:
        availability.add_absence(operator(), starts_at=starts_at, ends_at=ends_at, note=note, now=NOON)
    assert set(refused.value.errors) == {field}
    assert not Absence.objects.exists()


def test_absences_have_a_limit() -> None:
    alice = operator()
    Absence.objects.bulk_create(
        Absence(operator=alice, starts_at=NOON, ends_at=NOON + HOUR) for _ in range(availability.ABSENCES_LIMIT)
    )
    with pytest.raises(AvailabilityRefused, match="remove one first"):
        availability.add_absence(alice, starts_at=NOON, ends_at=NOON + HOUR, now=NOON)


@pytest.mark.parametrize("until", [NOON, NOON + timedelta(days=400), (NOON + HOUR).replace(tzinfo=None)])
def test_switch_is_set_until_a_time_to_come(until: datetime) -> None:
    alice = operator()
    with pytest.raises(AvailabilityRefused):
        availability.set_available(alice, is_available=False, until=until, now=NOON)
    with pytest.raises(AvailabilityRefused, match="leave it empty"):
        availability.set_available(alice, is_available=True, until=NOON + HOUR, now=NOON)
    assert is_available(alice)


def test_time_zone_is_one_that_there_is() -> None:
    with pytest.raises(AvailabilityRefused, match="'Mars/Base' is no IANA time zone"):
        availability.set_time_zone(operator(), "Mars/Base")


def test_database_keeps_who_is_available_from_being_away() -> None:
    alice = operator()
    with pytest.raises(DatabaseError), transaction.atomic():
        Operator.objects.filter(pk=alice.pk).update(is_available=True, away_until=NOON)
