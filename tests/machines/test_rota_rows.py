"""How the rota's rows become an answer: order, skill, place and hours; few queries, whatever is in the fleet."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from machines import availability, rota_rows
from machines.availability import Hours
from machines.models import (
    Closure,
    Machine,
    MachineModel,
    OpeningHours,
    Operator,
    Shift,
    User,
    VpnConnection,
    WorkingHours,
)
from machines.telemetry.base import Duty
from machines.telemetry.builtin import BuiltinTelemetry
from tests.machines.cast import new_machine
from tests.sessions.rescues import fleet, person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]

# A Monday, 12:00 in Milano.
NOON = datetime(2026, 11, 23, 11, tzinfo=UTC)
HOUR = timedelta(hours=1)


def ask(machine: Machine, now: datetime = NOON) -> Duty:
    return BuiltinTelemetry().who_is_responsible(Machine.objects.get(pk=machine.pk), now=now)


def names(duty: Duty) -> list[str]:
    return [one.username for one in duty.candidates]


def operator(name: str, **values: Any) -> Operator:
    found = person(name, of=values.pop("of", "North"), role=values.pop("role", "operator")).operator
    for field, value in values.items():
        setattr(found, field, value)
    found.save()
    return found


def shift(name: str, machine: Machine, *, everywhere: bool = False, **values: Any) -> Shift:
    given = {"weekdays": "0", "starts": time(8), "ends": time(18), **values}
    site = None if everywhere else machine.site
    return Shift.objects.create(fleet=machine.fleet, site=site, operator=operator(name), **given)


def test_responsible_one_is_on_the_rota_here_then_the_fleets_then_who_is_at_work() -> None:
    machine = new_machine()
    operator("Dora"), operator("Sue", role="supervisor"), operator("Charlie", of="South")
    shift("Bob", machine, everywhere=True)
    shift("Carl", machine, rank=2, ends=time(14))
    shift("Alice", machine)
    assert [(one.username, one.why) for one in ask(machine).candidates] == [
        ("alice", "on the rota here until 18:00"),
        ("carl", "on the rota here until 14:00"),
        ("bob", "on the rota for every site until 18:00"),
        ("dora", "available"),
    ]
    assert names(ask(machine, NOON + 8 * HOUR)) == ["alice", "bob", "carl", "dora"]


def test_supervisor_is_asked_on_a_shift() -> None:
    machine = new_machine()
    operator("Sue", role="supervisor")
    assert names(ask(machine)) == []
    shift("Sue", machine)
    assert names(ask(machine)) == ["sue"]


def test_shift_of_another_site_counts_there_alone() -> None:
    here, there = new_machine(), new_machine("A2")
    other = here.site
    other.pk, other.name, other._state.adding = None, "Airport", True
    other.save()
    Machine.objects.filter(pk=there.pk).update(site=other)
    there.refresh_from_db()
    operator("Alice")
    shift("Zoe", there)
    assert [one.why for one in ask(here).candidates] == ["available", "available"]
    assert names(ask(there)) == ["zoe", "alice"]


def test_only_who_can_repair_the_model_is_asked() -> None:
    machine = new_machine()
    alice, bob, carl = operator("Alice"), operator("Bob"), operator("Carl")
    other = MachineModel.objects.create(name="Baroque 2")
    alice.skills.set([other])
    bob.skills.set([other, machine.model])
    shift("Alice", machine)
    assert carl.skills.count() == 0
    assert names(ask(machine)) == ["bob", "carl"]


def test_who_speaks_a_language_of_the_site_comes_first_among_equals() -> None:
    machine = new_machine()
    machine.site.languages = ["it", "de"]
    machine.site.save()
    operator("Alice", languages=["en"]), operator("Bob", languages=["fr", "de"])
    assert names(ask(machine)) == ["bob", "alice"]
    shift("Alice", machine), shift("Bob", machine, rank=2)
    assert names(ask(machine)) == ["alice", "bob"], "rank goes before language"


def test_who_may_not_sign_in_left_the_fleet_or_is_away_is_not_asked() -> None:
    machine = new_machine()
    for name in ("Alice", "Bob", "Carl", "Dora", "Emil"):
        shift(name, machine)
    User.objects.filter(username="alice").update(is_active=False)
    operator("Bob").fleets.set([fleet("South")])
    availability.set_available(operator("Carl"), is_available=False)
    availability.add_absence(operator("Dora"), starts_at=NOON - HOUR, ends_at=NOON + HOUR, now=NOON)
    assert names(ask(machine)) == ["emil"]


def test_working_hours_count_on_a_shift_too_and_in_the_persons_own_zone() -> None:
    machine = new_machine()
    shift("Alice", machine)
    alice = operator("Alice", time_zone="America/New_York")
    availability.replace_working_hours(alice, [Hours(0, time(8), time(10))])
    assert ask(machine) == Duty((), "builtin", next_at=datetime(2026, 11, 23, 13, tzinfo=UTC))
    (found,) = ask(machine, NOON + 2 * HOUR).candidates
    assert found.why == "on the rota here until 16:00"


def test_end_of_work_is_told_by_the_sites_clock() -> None:
    machine = new_machine()
    alice = operator("Alice", time_zone="America/New_York")
    availability.replace_working_hours(alice, [Hours(0, time(5), time(9))])
    (found,) = ask(machine).candidates
    assert found.why == "at work until 15:00 there"


def test_at_a_closed_site_only_those_on_a_shift_are_woken() -> None:
    machine = new_machine()
    OpeningHours.objects.create(site=machine.site, weekday=0, opens=time(7), closes=time(19))
    operator("Alice")
    assert names(ask(machine, NOON + 10 * HOUR)) == ["alice"], "nobody is on a shift"
    shift("Bob", machine, starts=time(18), ends=time(8))
    assert names(ask(machine, NOON + 10 * HOUR)) == ["bob"]
    assert names(ask(machine, NOON + 6.5 * HOUR)) == ["bob", "alice"], "open still"
    assert names(ask(machine)) == ["alice", "bob"], "off shift, but to be had"


@pytest.mark.parametrize("whose", ["site", "fleet", "country"])
def test_site_is_closed_on_its_own_its_fleets_and_its_countrys_days(whose: str) -> None:
    machine = new_machine()
    operator("Alice"), shift("Bob", machine, weekdays="0123456")
    # 8 December 2026, a Tuesday, and a holiday in Italy.
    feast = NOON + timedelta(days=15)
    assert names(ask(machine, feast)) == ["bob", "alice"]
    if whose == "country":
        machine.site.closed_on_public_holidays = True
        machine.site.save()
    else:
        row = {"site": machine.site} if whose == "site" else {"fleet": machine.fleet}
        Closure.objects.create(name="Feast", first_day=date(2026, 12, 8), last_day=date(2026, 12, 8), **row)
    assert names(ask(machine, feast)) == ["bob"]
    assert names(ask(machine, feast + timedelta(days=1))) == ["bob", "alice"]


def test_nobody_now_says_from_when_somebody_will_be_there() -> None:
    machine = new_machine()
    for name, starts in (("Alice", time(7)), ("Bob", time(6))):
        availability.replace_working_hours(
            operator(name, time_zone="Europe/Rome"), [Hours(day, starts, time(17)) for day in range(5)]
        )
    availability.set_available(operator("Bob"), is_available=False, until=NOON + timedelta(days=3), now=NOON)
    assert ask(machine, NOON + 10 * HOUR) == Duty((), "builtin", next_at=datetime(2026, 11, 24, 6, tzinfo=UTC))


def test_fleet_without_anybody_has_an_answer_too() -> None:
    assert ask(new_machine()) == Duty((), "builtin")


def test_operator_of_two_fleets_is_asked_in_each_and_once() -> None:
    here, there = new_machine(), new_machine("B1", of="South")
    operator("Alice").fleets.add(fleet("South"))
    shift("Alice", here), shift("Alice", here, everywhere=True), shift("Alice", here, starts=time(9))
    assert names(ask(here)) == names(ask(there)) == ["alice"]
    assert ask(there).candidates[0].why == "available"


def test_zone_that_this_computer_does_not_know_leaves_nobody_out() -> None:
    machine = new_machine()
    type(machine.site).objects.filter(pk=machine.site_id).update(time_zone="Gone/Zone")
    shift("Alice", machine)
    Operator.objects.update(time_zone="../etc/passwd")
    assert names(ask(machine)) == ["alice"]


def test_queries_are_few_however_many_people_and_rows_there_are() -> None:
    machine = new_machine()
    shift("Alice", machine)
    loaded = Machine.objects.select_related("site").get(pk=machine.pk)

    def count() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            BuiltinTelemetry().who_is_responsible(loaded, now=NOON)
        return len(queries)

    few = count()
    for number in range(12):
        name = f"Op{number}"
        shift(name, machine, rank=number % 3 + 1), shift(name, machine, everywhere=True)
        operator(name).skills.set([machine.model])
        for day in range(7):
            WorkingHours.objects.create(operator=operator(name), weekday=day, starts=time(6), ends=time(20))
        availability.add_absence(operator(name), starts_at=NOON + 20 * HOUR, ends_at=NOON + 30 * HOUR, now=NOON)
        OpeningHours.objects.create(site=machine.site, weekday=number % 7, opens=time(number), closes=time(23))
    assert len(ask(machine).candidates) == 13
    assert count() == few == 6


def test_last_word_knows_of_the_vpn() -> None:
    from machines import identities

    machine, telemetry = new_machine(), BuiltinTelemetry()
    identity = identities.issue_identity(machine)
    connected = VpnConnection.objects.create(
        identity=identity, machine=machine, client_id=1, remote_address="192.0.2.7", remote_port=1194, heard_at=NOON
    )
    word = telemetry.last_word(machine)
    assert word is not None
    assert (word.at, word.is_connected, word.profile_version) == (NOON, True, identity.serial)
    VpnConnection.objects.filter(pk=connected.pk).update(ended_at=NOON)
    ended = telemetry.last_word(machine)
    assert ended is not None and ended.is_connected is False


def test_place_knows_its_zone_and_languages() -> None:
    machine = new_machine()
    place = rota_rows.place_of(machine.site)
    assert (str(place.zone), place.languages) == ("Europe/Rome", frozenset())
