"""How many warm gateways there are: of a fleet, of all together, and while settings change."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from machines.models import Fleet, Machine
from sessions import pool_rows, services
from sessions.gateways.fixed import FixedGateways
from sessions.models import Gateway, Pool, SupportSession
from sessions.states import GatewayState
from sessions.worker import Stoker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.pooling import House
from tests.sessions.rescues import fleet, machine, press
from tests.sessions.working import fresh

pytestmark = pytest.mark.django_db


# --- of a fleet -------------------------------------------------------------------------------------------------------


def test_fleets_own_number_counts_more_than_the_setting(house: House) -> None:
    machine("C1", of="South")
    Fleet.objects.filter(name="North").update(warm_gateways=3)
    house.stoke()
    assert (len(house.warm()), len(house.warm(of="South"))) == (3, 1)
    reasons = dict(Pool.objects.values_list("fleet__name", "reason"))
    assert reasons == {"North": "This fleet's own number.", "South": "GATEWAY_WARM says so."}


def test_too_many_are_stopped_after_a_while_but_not_at_once(house: House) -> None:
    Fleet.objects.update(warm_gateways=3)
    house.stoke()
    Fleet.objects.update(warm_gateways=1)
    house.stoke(20)
    assert len(house.warm()) == 3, "another process may have an older setting"
    house.stoke(20)
    assert len(house.warm()) == len(house.driver.alive) == 1


@pytest.mark.parametrize("why", ["the setting", "no machine"])
def test_pool_that_is_no_longer_wanted_is_emptied(house: House, settings: Settings, why: str) -> None:
    house.stoke()
    if why == "the setting":
        settings.GATEWAY_WARM = 0
    else:
        Machine.objects.update(is_active=False)
    house.stoke(5, every_s=15)
    assert house.driver.alive == {}
    assert not Gateway.objects.exclude(state=GatewayState.STOPPED).exists()
    assert Pool.objects.get().size == 0


def test_fleet_that_is_deleted_takes_its_warm_gateways_with_it(house: House) -> None:
    lonely = fleet("Empty")
    Gateway.objects.create(
        fleet=lonely, born_warm=True, driver="local", state=GatewayState.READY, ready_at=house.clock()
    )
    lonely.delete()
    house.stoke(2)
    assert {row.fleet for row in Gateway.objects.filter(state=GatewayState.STOPPED)} == {None}


def test_those_of_another_driver_are_claimed_by_nobody_and_stopped(house: House, settings: Settings) -> None:
    house.stoke()
    (old,) = house.warm()
    settings.GATEWAY = "tests.fakes.gateway_driver.FakeGateways"
    session = house.press()
    house.work()
    assert house.of(session).pk != old.pk
    house.stoke(5, every_s=10)
    old.refresh_from_db()
    assert old.state == GatewayState.STOPPED and str(old.pk) not in house.driver.alive
    assert [row.driver for row in house.warm()] == [settings.GATEWAY]


def test_old_one_is_replaced_when_the_new_one_is_ready(house: House, settings: Settings) -> None:
    house.stoke()
    (old,) = house.warm()
    house.clock.tick(settings.GATEWAY_WARM_HOURS * 3600)
    house.driver.starts.append(Start.SLOW)
    house.stoke(1)
    assert house.warm() == [old] and house.warm(GatewayState.STARTING), "the new one first"
    house.stoke(5)
    (new,) = house.warm()
    assert new.pk != old.pk and list(house.driver.alive) == [str(new.pk)]


def test_old_one_whose_successor_does_not_start_stays_and_tries_grow_fewer(house: House, settings: Settings) -> None:
    house.stoke()
    (old,) = house.warm()
    house.clock.tick(settings.GATEWAY_WARM_HOURS * 3600)
    house.driver.starts.extend([Start.FAILED] * 100)
    house.stoke(60)
    assert house.warm() == [old] and 3 < len(house.driver.requests) < 9


def test_fixed_hosts_have_no_pool(house: House, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.GATEWAY, settings.GATEWAY_FIXED_HOSTS = "fixed", ["127.0.0.1:1"]
    monkeypatch.setattr(house.stoker._passes, "driver_for", lambda _: FixedGateways())
    house.stoke()
    assert not Gateway.objects.exists()
    assert "GATEWAY=fixed needs none" in Pool.objects.get().reason


def test_number_by_presses_is_counted_every_ten_minutes_for_all_workers(house: House, settings: Settings) -> None:
    settings.GATEWAY_WARM = "auto"
    house.stoke()
    assert (Pool.objects.get().size, house.warm()) == (0, [])
    for number in range(3):  # within the minute that an unknown gateway is said to take
        services.cancel(press(f"M{number}", now=house.clock()), now=house.clock())
    house.stoke()
    assert Pool.objects.get().size == 0
    house.clock.tick(600)
    house.stoke()
    row = Pool.objects.get()
    assert (row.size, len(house.warm())) == (3, 3)
    assert row.reason.startswith("Help was pressed 3 times in the last 28 days, and a gateway takes 60 s to start")
    other = Stoker("other", now=house.clock, driver_for=lambda _: house.driver)
    SupportSession.objects.update(requested_at=house.clock() - timedelta(days=29))
    other.run_pass()
    assert Pool.objects.get().size == 3, "it goes by the row, not by a count of its own"
    house.clock.tick(600)
    other.run_pass()
    assert Pool.objects.get().reason == "Nobody has pressed help in the last 28 days."


def test_time_to_start_is_measured(house: House) -> None:
    Fleet.objects.update(warm_gateways=0)
    assert pool_rows.start_seconds("local") == 60
    house.press()
    house.worker.run_pass()
    assert pool_rows.start_seconds("local") == 1
    Gateway.objects.update(ready_at=house.clock() + timedelta(seconds=41.5))
    assert pool_rows.start_seconds("local") == 42
    assert pool_rows.start_seconds("another") == 60


# --- of all fleets together -------------------------------------------------------------------------------------------


def test_all_fleets_together_have_so_many_at_most_and_those_with_more_presses_first(
    house: House, settings: Settings
) -> None:
    settings.GATEWAY_WARM_MAX = 2
    for name in ("Anton", "Berta", "Zeppelin"):
        machine(f"{name}1", of=name)
    services.cancel(press("Zeppelin1", of="Zeppelin", now=house.clock()), now=house.clock())
    house.stoke(4)
    sizes = {row.fleet.name: row.size for row in Pool.objects.select_related("fleet")}
    assert sizes == {"Anton": 1, "Berta": 0, "North": 0, "Zeppelin": 1}
    assert len(house.driver.started) == 2 and house.warm(of="Anton") and house.warm(of="Zeppelin")
    said = pool_rows.standing(Pool.objects.get(fleet__name="Berta"))
    assert "It would have 1, but all fleets together have 2 at most (GATEWAY_WARM_MAX)" in said
    settings.GATEWAY_WARM_MAX = 0
    house.stoke(5, every_s=10)
    assert house.driver.alive == {}


def test_with_all_old_one_alone_is_replaced_at_a_time(house: House, settings: Settings) -> None:
    settings.GATEWAY_WARM_MAX = 3
    for name in ("Anton", "Berta"):
        machine(f"{name}1", of=name)
    house.stoke()
    old = set(house.driver.alive)
    house.clock.tick(settings.GATEWAY_WARM_HOURS * 3600)
    for _ in range(12):
        house.stoke(1)
        assert len(house.driver.alive) <= 4
    assert len(house.driver.alive) == 3 and not old & set(house.driver.alive)


@pytest.mark.parametrize("how", [Start.NO_ROOM, Start.WAITING])
def test_rescue_that_finds_no_room_gets_that_of_anothers_newest_and_none_is_refilled_at_once(
    house: House, how: Start
) -> None:
    for name in ("South", "West"):
        machine(f"{name}1", of=name)
    Fleet.objects.filter(name="North").update(warm_gateways=0)
    Fleet.objects.filter(name="South").update(warm_gateways=2)
    house.stoke()
    Gateway.objects.filter(fleet=fleet("West")).update(ready_at=house.clock() + timedelta(seconds=1))
    kept = set(house.warm(of="South"))
    house.driver.starts.append(how)
    session = house.press()
    house.work(5)
    assert house.warm(of="West") == [] and set(house.warm(of="South")) == kept, "one, the newest"
    assert session.gateways.get(attempt=1).made_room_at is not None
    assert "A rescue needed the room" in pool_rows.standing(Pool.objects.get(fleet__name="West"))
    services.cancel(fresh(session), now=house.clock())
    house.stoke(3, every_s=30)
    assert house.warm(of="West") == []
    house.stoke(3, every_s=30)
    assert len(house.warm(of="West")) == 1


def test_rescue_without_room_pauses_the_pool_also_where_nothing_makes_room(house: House) -> None:
    machine("C1", of="South")
    Fleet.objects.filter(name="North").update(warm_gateways=0)
    house.driver.starts.extend([Start.WAITING, Start.WAITING])
    house.stoke(1)
    (unplaced,) = house.warm(GatewayState.STARTING, of="South")
    session = house.press()
    house.worker.run_pass()
    house.stoke(10, every_s=30)
    unplaced.refresh_from_db()
    assert unplaced.state == GatewayState.STOPPED, "it waited for the same place"
    assert list(house.driver.alive) == [str(house.of(session).pk)], "none is started while the rescue waits"
    services.cancel(fresh(session), now=house.clock())
    house.work(1)
    house.stoke(5, every_s=30)
    assert len(house.warm(of="South")) == 1


def test_one_that_waits_for_room_itself_gives_way_to_a_rescue(house: House) -> None:
    house.driver.starts.extend([Start.WAITING, Start.WAITING])
    house.stoke(1)
    (own,) = house.warm(GatewayState.STARTING)
    session = house.press()
    house.worker.run_pass()
    own.refresh_from_db()
    assert own.state == GatewayState.STARTING, "the rescue would take it as soon as it is ready"
    house.stoke(2)
    assert list(house.driver.alive) == [str(house.of(session).pk)]


def test_rescue_that_takes_no_warm_one_gets_the_room_of_its_own_fleets(house: House) -> None:
    machine("C1", of="South")
    house.stoke()
    session = house.press()
    house.worker.run_pass()
    house.driver.alive.pop(str(house.of(session).pk))
    house.work(1)
    house.driver.starts.append(Start.WAITING)
    for _ in range(4):
        house.clock.tick(2)
        house.worker.run_pass()
    assert house.of(session).made_room_at
    assert not house.warm() and len(house.warm(of="South")) == 1


def test_one_that_was_wanted_before_the_pause_is_wanted_anew_after_it(house: House) -> None:
    session = house.press()
    now = house.clock()
    Gateway.objects.create(session=session, driver="local", state="stopped", wanted_at=now, made_room_at=now)
    wanted = Gateway.objects.create(fleet=fleet("North"), born_warm=True, driver="local", due_at=now, wanted_at=now)
    told: list[str] = []
    house.driver.at_step = told.append
    house.stoke(4, every_s=29)
    wanted.refresh_from_db()
    assert (wanted.state, wanted.stopped_at) == (GatewayState.STOPPED, now)
    assert not told, "no driver is asked to stop what was never ordered"
    house.driver.starts.append(Start.SLOW)
    house.stoke(8, every_s=2)
    assert len(house.warm()) == 1 and len(house.driver.started) == 1


# --- settings that changed --------------------------------------------------------------------------------------------


def test_those_ordered_with_earlier_settings_are_replaced_the_new_one_first(house: House) -> None:
    house.driver.ordered_with = {"mark": "old", "since": 100}
    Fleet.objects.update(warm_gateways=2)
    house.stoke()
    old = set(house.driver.alive)
    house.driver.ordered_with = {"mark": "new", "since": 200}
    house.stoke(5, every_s=5)
    assert set(house.driver.alive) == old, "not at once"
    for _ in range(20):
        house.stoke(1, every_s=5)
        assert len(house.warm()) >= 2
    assert len(house.driver.alive) == 2 and not old & set(house.driver.alive)


def test_workers_with_old_and_new_settings_come_to_rest_side_by_side(house: House) -> None:
    early, late = FakeGateways(), house.driver
    late.alive, late.started = early.alive, early.started  # one cluster
    early.ordered_with, late.ordered_with = {"mark": "old", "since": 100}, {"mark": "new", "since": 200}
    other = Stoker("other", now=house.clock, driver_for=lambda _: early)
    Fleet.objects.update(warm_gateways=2)
    for _ in range(40):
        other.run_pass()
        house.stoke(1, every_s=4)
    assert {row.handle["mark"] for row in house.warm()} == {"new"} and len(house.driver.alive) == 2
    assert len(early.started) <= 6
    at_rest = len(early.started)
    for _ in range(30):
        other.run_pass()
        house.stoke(1, every_s=10)
    assert len(early.started) == at_rest
