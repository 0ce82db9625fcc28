"""Gateways are ready before help is pressed: claimed at once, refilled, replaced, stopped, and never used twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.db import DatabaseError, connection, transaction
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from machines.models import Fleet, Machine, User
from sessions import attachments, gateway_rows, keeper_rows, pool_rows, selectors, services
from sessions.gateways.fixed import FixedGateways
from sessions.models import Gateway, GuacamoleConnection, Pool, SessionEvent, SupportSession
from sessions.states import EndReason, GatewayState, State
from sessions.worker import Stoker, Worker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.rescues import Clock, fleet, machine, person, press

pytestmark = pytest.mark.django_db


class House:
    """A worker and a stoker with gateways in memory; Alice's machine A1 can press."""

    def __init__(self) -> None:
        self.clock, self.driver = Clock(), FakeGateways()
        self.worker = Worker("worker", now=self.clock, driver_for=lambda _: self.driver)
        self.stoker = Stoker("stoker", now=self.clock, driver_for=lambda _: self.driver)
        machine("A1")

    def stoke(self, passes: int = 3, *, every_s: float = 1) -> None:
        for _ in range(passes):
            self.stoker.run_pass()
            self.clock.tick(every_s)

    def work(self, passes: int = 2) -> None:
        for _ in range(passes):
            self.worker.run_pass()
            self.stoker.run_pass()
            self.clock.tick(1)

    def press(self, serial: str = "A1") -> SupportSession:
        return press(serial, now=self.clock())

    def warm(self, state: GatewayState = GatewayState.READY, *, of: str = "North") -> list[Gateway]:
        return list(Gateway.objects.filter(session=None, state=state, fleet=fleet(of)).order_by("ready_at", "pk"))

    def of(self, session: SupportSession) -> Gateway:
        return session.gateways.order_by("-attempt")[0]


@pytest.fixture
def house(settings: Settings) -> House:
    settings.GATEWAY_WARM = 1
    return House()


def fresh(session: SupportSession) -> SupportSession:
    return SupportSession.objects.select_related("fleet", "machine").get(pk=session.pk)


def hold_desktop(session: SupportSession, clock: Clock) -> None:
    gateway = session.gateways.get(state=GatewayState.READY)
    GuacamoleConnection.objects.create(
        session=session, gateway=gateway, hostname="127.64.0.1", port=3390, connection_id="$1"
    )
    services.desktop_ready(fresh(session), now=clock())


def test_press_gets_the_ready_gateway_in_the_workers_first_pass_and_the_keeper_takes_it(house: House) -> None:
    house.stoke()
    (warm,) = house.warm()
    assert keeper_rows.take("keeper", now=house.clock()) == set(), "nobody keeps what has no session"
    session = house.press()
    house.worker.run_pass()
    claimed = house.of(session)
    assert (claimed.pk, claimed.state, claimed.attempt) == (warm.pk, GatewayState.READY, 1)
    assert claimed.claimed_at == house.clock()
    assert (fresh(session).state, fresh(session).attempts) == (State.STARTING, 1)
    assert keeper_rows.take("keeper", now=house.clock()) == {warm.pk}
    target = keeper_rows.prepare(warm.pk, "keeper", now=house.clock())
    assert target is not None and target.connection.hostname == session.machine.vpn_address
    assert len(house.driver.started) == 1, "none was started for it"


def test_claimed_one_is_refilled_at_once_and_stopped_with_its_session_never_back_in_the_pool(house: House) -> None:
    house.stoke()
    session = house.press()
    house.work()
    used = house.of(session)
    assert len(house.warm()) == 1 and house.warm()[0].pk != used.pk
    services.cancel(fresh(session), now=house.clock())
    services.machine_told(fresh(session), now=house.clock())
    house.work(3)
    assert fresh(session).state == State.CLOSED
    used.refresh_from_db()
    assert (used.state, used.session_id) == (GatewayState.STOPPED, session.pk)
    assert list(house.driver.alive) == [str(row.pk) for row in house.warm()]


def test_warm_request_names_no_machine_and_says_the_fleet(house: House) -> None:
    house.stoke()
    (request,) = house.driver.requests
    assert (request.session_id, request.machine_address, request.fleet) == ("", "", "north")


def test_fleet_never_gets_anothers_warm_gateway(house: House) -> None:
    machine("C1", of="South")
    Fleet.objects.filter(name="South").update(warm_gateways=0)
    house.stoke()
    session = press("C1", of="South", now=house.clock())
    house.work()
    assert house.of(session).claimed_at is None
    assert len(house.warm()) == 1 and house.warm(of="South") == []


def test_warm_ones_do_not_count_among_open_rescues_but_a_claimed_one_does(house: House) -> None:
    Fleet.objects.update(max_open_sessions=1, warm_gateways=3)
    machine("A2")
    house.stoke()
    assert len(house.warm()) == 3
    first, second = house.press("A1"), house.press("A2")
    house.work()
    assert house.of(first).claimed_at
    assert (fresh(second).state, second.gateways.count()) == (State.REQUESTED, 0)


def test_with_none_ready_a_rescue_starts_its_own(house: House) -> None:
    house.driver.starts.append(Start.SLOW)
    house.stoke(1)
    assert house.warm(GatewayState.STARTING)
    session = house.press()
    house.worker.run_pass()
    house.worker.run_pass()
    assert house.of(session).state == GatewayState.READY and not house.of(session).born_warm


def test_warm_one_that_dies_is_replaced_and_no_rescue_hears_of_it(house: House) -> None:
    house.stoke()
    (dead,) = house.warm()
    house.clock.tick(600)
    house.driver.die()
    house.stoke(4)
    (alive,) = house.warm()
    assert alive.pk != dead.pk and list(house.driver.alive) == [str(alive.pk)]
    dead.refresh_from_db()
    assert dead.state == GatewayState.STOPPED and "It is gone." in dead.failure
    assert not SessionEvent.objects.exists()


def test_one_that_died_as_it_was_claimed_is_a_lost_gateway_and_the_next_is_started_anew(house: House) -> None:
    Fleet.objects.update(warm_gateways=2)
    house.stoke()
    session = house.press()
    house.driver.die()
    house.worker.run_pass()
    lost = house.of(session)
    assert lost.claimed_at and lost.state == GatewayState.STOPPED and "lost" in lost.failure
    assert fresh(session).notice == "The gateway was lost. A new one is starting."
    house.work(12)  # one after the other, as the warm ones had not lasted
    mine = house.of(session)
    assert (mine.attempt, mine.born_warm, mine.state) == (2, False, GatewayState.READY)
    assert len(house.warm()) == 2
    assert set(house.driver.alive) == {str(mine.pk), *(str(row.pk) for row in house.warm())}


def test_lost_gateway_that_held_a_desktop_is_followed_by_a_warm_one(house: House) -> None:
    house.stoke()
    session = house.press()
    house.work()
    hold_desktop(session, house.clock)
    house.clock.tick(60)
    house.driver.alive.pop(str(house.of(session).pk))
    house.worker.run_pass()
    house.worker.run_pass()
    assert house.of(session).claimed_at == house.clock() and house.of(session).attempt == 2


def test_session_that_ended_in_the_same_moment_leaves_the_gateway_warm(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.stoke()
    session = house.press()
    begin_starting = services.begin_starting

    def ended_meanwhile(*args: Any, **kwargs: Any) -> SupportSession:
        found = begin_starting(*args, **kwargs)
        services.cancel(fresh(session), now=house.clock())
        return found

    monkeypatch.setattr(services, "begin_starting", ended_meanwhile)
    house.worker.run_pass()
    assert len(house.warm()) == 1 and not session.gateways.exists()


def test_session_whose_gateway_another_one_takes_in_that_moment_gets_the_next(house: House) -> None:
    Fleet.objects.update(warm_gateways=2)
    house.stoke()
    first, second = house.press("A1"), house.press("A2")
    values: dict[str, Any] = {"driver": "local", "attempt": 1, "now": house.clock()}
    taken: list[Gateway | None] = []

    def be_faster(execute: Any, sql: str, *args: Any) -> Any:
        if "claimed_at" in sql.partition("WHERE")[0] and sql.startswith("UPDATE") and not taken:
            taken.append(None)
            taken.append(gateway_rows.claim(second, **values))
        return execute(sql, *args)

    with connection.execute_wrapper(be_faster):
        mine = gateway_rows.claim(first, **values)
    assert mine is not None and taken[1] is not None and mine.pk != taken[1].pk
    assert house.of(first).pk == mine.pk and house.of(second).pk == taken[1].pk
    assert gateway_rows.claim(house.press("A3"), **values) is None


def test_pool_gives_up_nothing_that_was_claimed_since_it_looked(house: House) -> None:
    house.stoke()
    (as_read,) = house.warm()
    session = house.press()
    house.worker.run_pass()
    assert not gateway_rows.give_up(as_read, failure="It seemed lost.", now=house.clock())
    assert house.of(session).state == GatewayState.READY


def test_gateway_of_a_session_can_be_given_to_no_other(house: House) -> None:
    house.stoke()
    first = house.press()
    house.work()
    second = press("A2", now=house.clock())
    for session in (second, None):
        with pytest.raises(DatabaseError, match="claimed once"), transaction.atomic():
            Gateway.objects.filter(session=first).update(session=session)
    Gateway.objects.filter(session=None).update(state=GatewayState.STOPPING)
    with pytest.raises(DatabaseError, match="claimed once"), transaction.atomic():
        Gateway.objects.filter(session=None).update(session=second)


# --- how many ---------------------------------------------------------------------------------------------------------


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


# --- how many all fleets have together --------------------------------------------------------------------------------


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


def test_one_that_was_wanted_before_the_pause_is_wanted_anew_after_it(house: House) -> None:
    now, session = house.clock(), house.press()
    Gateway.objects.create(session=session, driver="local", state="stopped", wanted_at=now, made_room_at=now)
    wanted = Gateway.objects.create(fleet=fleet("North"), born_warm=True, driver="local", due_at=now, wanted_at=now)
    house.stoke(4, every_s=29)
    wanted.refresh_from_db()
    assert wanted.state == GatewayState.STOPPED and not house.driver.started
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


# --- when they do not start -------------------------------------------------------------------------------------------


def test_what_fails_is_tried_ever_more_seldom_one_at_a_time_for_all_fleets(house: House) -> None:
    machine("C1", of="South")
    Fleet.objects.update(warm_gateways=3)
    house.driver.starts.extend([Start.FAILED] * 1000)
    house.stoke(150, every_s=12)
    assert 8 < len(house.driver.requests) < 16, "half an hour of trying"
    assert not house.warm() and not house.driver.alive
    session = house.press()
    house.work(10)
    assert fresh(session).end_reason is None or fresh(session).end_reason == EndReason.GATEWAY_FAILED
    assert SessionEvent.objects.filter(session=session, kind="attempt_failed").exists(), "it tried by itself"
    house.driver.starts.clear()
    house.stoke(40, every_s=10)
    assert (len(house.warm()), len(house.warm(of="South"))) == (3, 3), "as soon as one is good, all come"


def test_one_that_starts_and_dies_at_once_is_not_replaced_for_ever(house: House) -> None:
    for _ in range(120):
        house.stoke(1, every_s=5)
        house.driver.die()
    assert len(house.driver.started) < 12


def test_those_that_die_each_minute_are_not_all_replaced_each_minute(house: House) -> None:
    Fleet.objects.update(warm_gateways=8)
    for seconds in range(0, 1800, 25):
        house.stoke(1, every_s=25)
        if seconds % 75 == 0:
            house.driver.die()
    assert len(house.driver.started) < 30, "half an hour of dying"
    house.stoke(44, every_s=25)
    assert len(house.warm()) == 8, "as soon as one has lasted, all come"


def test_what_was_put_off_hides_no_failure(house: House) -> None:
    now, ours = house.clock(), {"fleet": fleet("North"), "born_warm": True, "driver": "local", "state": "stopped"}
    Gateway.objects.create(**ours, wanted_at=now, failure="No capacity.")
    Gateway.objects.bulk_create(Gateway(**ours, wanted_at=now + timedelta(seconds=1)) for _ in range(40))
    assert pool_rows.failures_in_a_row("local", now=now) == 1


def test_one_that_never_gets_ready_is_given_up(house: House, settings: Settings) -> None:
    house.driver.starts.append(Start.SLOW)
    house.driver._looks = {"": 0}
    house.stoke(1)
    (slow,) = house.warm(GatewayState.STARTING)
    house.driver._looks[str(slow.pk)] = -10_000
    house.stoke(10, every_s=settings.GATEWAY_DEADLINE_S / 5)
    slow.refresh_from_db()
    assert slow.failure == f"It was not ready within {settings.GATEWAY_DEADLINE_S} s."
    assert str(slow.pk) not in house.driver.alive


def test_pool_that_stays_short_is_written_down_and_told_with_the_reason(house: House) -> None:
    house.driver.starts.extend([Start.FAILED] * 10)
    house.stoke(30)
    assert Pool.objects.get().short_since is None, "a gap that a claim leaves is as long"
    house.stoke(60)
    row = Pool.objects.get()
    assert row.short_since is not None
    assert pool_rows.standing(row).startswith("0 ready, 1 starting, ")
    assert "The last one that failed: No capacity." in pool_rows.standing(row)
    house.driver.starts.clear()
    house.stoke(40, every_s=10)
    assert Pool.objects.get().short_since is None
    assert pool_rows.standing(Pool.objects.get()) == "1 ready, 0 starting, 0 stopping."


def test_driver_that_is_not_there_is_said_and_harms_no_pass(house: House, settings: Settings) -> None:
    settings.GATEWAY = "fixed"

    def none(_: str) -> FakeGateways:
        raise ValueError("nothing of that name")

    stoker = Stoker("stoker", now=house.clock, driver_for=none)
    stoker.run_pass()
    stoker.run_pass()
    assert "The gateway driver fixed failed: ValueError." in Gateway.objects.get(state="stopping").failure


# --- what else reads gateways -----------------------------------------------------------------------------------------


def test_warm_gateways_have_no_passage_and_a_claimed_one_has_its_machines(house: House) -> None:
    Fleet.objects.update(warm_gateways=2)
    house.stoke()
    Gateway.objects.update(handle={"uid": 61000})
    assert selectors.passages() == []
    session = house.press()
    house.worker.run_pass()
    (passage,) = selectors.passages()
    assert passage.machine_address == session.machine.vpn_address


def test_old_records_of_those_that_nobody_had_are_erased(house: House, settings: Settings) -> None:
    house.stoke()
    session = house.press()
    house.work()
    settings.GATEWAY_WARM = 0
    house.stoke(4, every_s=20)
    assert Gateway.objects.count() == 2
    house.clock.tick(8 * 86_400)
    house.stoke(1)
    assert list(Gateway.objects.all()) == [house.of(session)]


def test_end_of_the_server_leaves_no_row_that_looks_ready(house: House) -> None:
    house.stoke()
    gateway_rows.give_up_warm("local", now=house.clock())
    house.driver.die()
    session = house.press()
    house.worker.run_pass()
    assert house.of(session).claimed_at is None


def test_admin_says_warm_and_shows_the_pool_on_its_fleets_page(house: House) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"), backend="django.contrib.auth.backends.ModelBackend")
    house.stoke()
    assert 'field-whose">warm' in client.get(reverse("admin:support_gateway_changelist")).content.decode()
    session = house.press()
    house.work()
    page = client.get(reverse("admin:support_gateway_changelist")).content.decode()
    assert f"{session}, was warm" in page
    page = client.get(reverse("admin:machines_fleet_change", args=[fleet().pk])).content.decode()
    assert "GATEWAY_WARM says so." in page and "1 ready, 0 starting" in page
    assert Gateway in admin.site._registry


def test_managers_see_the_warm_gateways_of_their_own_fleets_alone(house: House) -> None:
    machine("C1", of="South")
    house.stoke()
    bob = person("Bob")
    request: Any = type("Request", (), {"user": bob})()
    shown = admin.site._registry[Gateway].get_queryset(request)
    assert {row.fleet.name for row in shown if row.fleet} == {"North"}


def test_operator_attaches_to_a_desktop_at_a_claimed_gateway(house: House) -> None:
    alice = person("Alice")
    house.stoke()
    session = services.claim(house.press(), user=alice)
    house.work()
    hold_desktop(session, house.clock)
    ticket = attachments.issue_ticket(fresh(session), user=alice, role="controller")
    attachments.redeem_ticket(ticket, session_id=session.pk, user=alice)
    assert fresh(session).state == State.ACTIVE
