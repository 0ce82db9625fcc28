"""Warm gateways that do not start, or do not last: tried ever more seldom, and told with the reason."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest
from pytest_django.fixtures import Settings

from machines.models import Fleet
from sessions import bell, gateway_rows, pool_rows
from sessions.gateways.base import GatewayStatus, Handle, StillStopping
from sessions.models import Gateway, Pool, SessionEvent
from sessions.states import EndReason, GatewayState
from sessions.worker import Stoker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.pooling import House
from tests.sessions.rescues import Clock, fleet, machine
from tests.sessions.working import fresh

pytestmark = pytest.mark.django_db


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
    house.stoke(45, every_s=10)
    assert (len(house.warm()), len(house.warm(of="South"))) == (3, 3), "as soon as one is good, all come"


def test_slow_starts_and_stops_do_not_hold_up_the_rest_of_the_pool(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take seconds where computers do not answer; meanwhile one that is ready dies."""
    monkeypatch.setattr("sessions.passes.STEPS_S", 0.05)
    house.stoke()
    (dead,) = house.warm()
    house.clock.tick(600)
    Fleet.objects.update(warm_gateways=4)
    slow = "before start"
    house.driver.at_step = lambda step: time.sleep(0.06) if step == slow else None
    rung = bell.count(bell.POOL)
    house.driver.die()
    house.stoke(1)
    assert (len(house.driver.started), bell.count(bell.POOL) > rung) == (2, True), "one, and then what else there is"
    dead.refresh_from_db()
    assert dead.state == GatewayState.STOPPED
    house.stoke(4, every_s=5)
    assert len(house.warm()) == 4
    Fleet.objects.update(warm_gateways=0)
    house.stoke(1, every_s=60)
    slow = "before stop"
    house.stoke(1)
    assert len(house.driver.alive) == 3


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


# --- no room, where nothing waits for it by itself --------------------------------------------------------------------


class Cluster(FakeGateways):
    """It has so many places, and one is free fifteen seconds after its gateway was told to stop."""

    def __init__(self, clock: Clock, *, places: int) -> None:
        super().__init__()
        self.clock, self.places = clock, places
        self.told: dict[str, datetime] = {}

    def _start(self, attempt_id: str) -> GatewayStatus:
        if attempt_id not in self.alive and len(self.alive) >= self.places:
            return GatewayStatus("failed", detail="No room.", no_room=True)
        return super()._start(attempt_id)

    def stop(self, attempt_id: str, handle: Handle) -> None:
        told = self.told.setdefault(attempt_id, self.clock())
        if attempt_id in self.alive and self.clock() - told < timedelta(seconds=15):
            raise StillStopping("It is still stopping.")
        super().stop(attempt_id, handle)


def test_rescue_gets_the_room_that_is_on_its_way_and_one_warm_gateway_makes_it(house: House) -> None:
    house.driver = Cluster(house.clock, places=2)
    machine("C1", of="South")
    Fleet.objects.filter(name="North").update(warm_gateways=0)
    Fleet.objects.filter(name="South").update(warm_gateways=2)
    house.stoke()
    assert len(house.warm(of="South")) == 2
    session = house.press()
    house.work(12)
    assert fresh(session).is_open, "with three attempts in the time that a stop takes it was over"
    assert fresh(session).notice == "There is no room for another gateway yet. It is tried again every few seconds."
    house.work(12)
    assert house.of(session).state == GatewayState.READY
    assert len(house.warm(of="South")) == 1, "one made room, however often it was tried"
    assert SessionEvent.objects.filter(session=session, kind="attempt_failed").count() == 1


class Computers(FakeGateways):
    """Each waits until another computer is there, and then does not start on it."""

    def _start(self, attempt_id: str) -> GatewayStatus:
        self.alive[attempt_id] = GatewayStatus("starting", handle={"number": 1}, no_room=True)
        return self.alive[attempt_id]

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        if self.alive[attempt_id].no_room:
            self.alive[attempt_id] = GatewayStatus("starting", handle=dict(handle))
            return self.alive[attempt_id]
        return GatewayStatus("failed", detail="No such image.")


def test_what_got_room_and_then_fails_is_tried_no_more_often_than_what_never_lacked_it(
    house: House, settings: Settings
) -> None:
    house.driver = Computers()
    Fleet.objects.update(warm_gateways=0)
    session = house.press()
    house.worker.run_pass()
    assert gateway_rows.found_no_room(house.of(session)), "as far as one can tell now"
    house.work(30)
    assert fresh(session).end_reason == EndReason.GATEWAY_FAILED
    assert session.gateways.count() == settings.GATEWAY_ATTEMPTS
    assert all(one.made_room_at and not gateway_rows.found_no_room(one) for one in session.gateways.all())


def test_rescue_takes_its_fleets_that_was_just_starting_and_had_the_last_place(house: House) -> None:
    house.driver = Cluster(house.clock, places=1)
    house.driver.starts.append(Start.SLOW)
    house.stoke(1)
    session = house.press()
    house.worker.run_pass()
    house.worker.run_pass()
    assert house.of(session).state == GatewayState.WANTED, "the next try is in a while"
    house.work(4)
    assert house.of(session).claimed_at and house.of(session).state == GatewayState.READY
    assert not session.gateways.exclude(state__in=[GatewayState.READY, GatewayState.STOPPED]).exists()


def test_rescue_that_never_gets_room_ends_in_time_and_with_the_reason(house: House, settings: Settings) -> None:
    house.driver = Cluster(house.clock, places=0)
    Fleet.objects.update(warm_gateways=0)
    session = house.press()
    for _ in range(settings.GATEWAY_DEADLINE_S // 2):
        assert fresh(session).is_open
        house.worker.run_pass()
        house.clock.tick(2)
    house.worker.run_pass()
    assert fresh(session).end_reason == EndReason.GATEWAY_FAILED
    assert SessionEvent.objects.get(session=session, kind="ended").detail["detail"] == "No room."
    assert session.gateways.count() <= settings.GATEWAY_DEADLINE_S / 5
