"""Gateways are ready before help is pressed: claimed at once, refilled, replaced, and never used twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from pytest_django.fixtures import Settings

from machines.models import Fleet
from sessions import gateway_rows, keeper_rows, pool_rows, services
from sessions.gateway_passes import LOST, NO_ROOM, TRYING_AGAIN
from sessions.gateways.base import GatewayStatus
from sessions.models import Gateway, SessionEvent, SupportSession
from sessions.reach_passes import UNREACHABLE
from sessions.states import EndReason, GatewayState, State
from sessions.worker import Worker
from tests.fakes.gateway_driver import Start
from tests.sessions.pooling import House
from tests.sessions.rescues import fleet, machine, press
from tests.sessions.working import fresh

pytestmark = pytest.mark.django_db


def _ready_one(house: House, *, of: str = "North") -> Gateway:
    """A warm one that the pool has got meanwhile."""
    ready = GatewayStatus("ready", "127.0.0.1", 42000, {})
    made = gateway_rows.want_warm(fleet(of).pk, driver="local", due_at=house.clock())
    house.driver.alive[str(made.pk)] = ready
    Gateway.objects.filter(pk=made.pk).update(state=GatewayState.READY, ready_at=house.clock(), host="127.0.0.1")
    return made


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


def test_rescue_whose_own_waits_for_room_takes_the_next_that_is_ready(house: House) -> None:
    machine("A2")
    house.stoke()
    house.press("A1")
    house.driver.starts.extend([Start.SLOW, Start.WAITING])
    house.work(1)
    (refill,) = house.warm(GatewayState.STARTING)
    second = house.press("A2")
    house.worker.run_pass()
    own = house.of(second)
    assert (own.state, own.made_room_at) == (GatewayState.STARTING, house.clock())
    house.work(3)
    taken = house.of(second)
    assert (taken.pk, taken.attempt, taken.state) == (refill.pk, 2, GatewayState.READY)
    assert taken.claimed_at and fresh(second).attempts == 2
    own.refresh_from_db()
    assert (own.state, own.failure) == (GatewayState.STOPPED, "") and str(own.pk) not in house.driver.alive


def test_of_two_that_wait_the_older_takes_the_one_that_is_ready_and_the_other_keeps_its_own(house: House) -> None:
    for serial in ("A1", "A2", "A3"):
        machine(serial)
    house.driver.starts.extend([Start.WAITING, Start.WAITING])
    older, younger = house.press("A1"), house.press("A2")
    SupportSession.objects.filter(pk=younger.pk).update(requested_at=house.clock() + timedelta(seconds=1))
    house.worker.run_pass()
    _ready_one(house)
    newest = house.press("A3")
    house.worker.run_pass()
    assert house.of(older).claimed_at and not house.warm()
    assert (house.of(younger).attempt, house.of(younger).state) == (1, GatewayState.STARTING)
    assert house.of(newest).claimed_at is None


def test_after_a_warm_one_that_brought_no_desktop_the_next_is_waited_for(house: House) -> None:
    house.stoke()
    session = house.press()
    house.worker.run_pass()
    house.driver.die()
    house.driver.starts.append(Start.WAITING)
    for _ in range(4):
        house.clock.tick(2)
        house.worker.run_pass()
    _ready_one(house)
    house.worker.run_pass()
    assert (house.of(session).attempt, house.of(session).state) == (2, GatewayState.STARTING)
    assert len(house.warm()) == 1


def test_exchange_that_comes_to_nothing_leaves_all_as_it_was(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.driver.starts.append(Start.WAITING)
    session = house.press()
    house.worker.run_pass()
    own = house.of(session)
    assert gateway_rows.exchange(own, attempt=2, now=house.clock()) is None, "none is ready"
    _ready_one(house)
    Gateway.objects.filter(pk=own.pk).update(state=GatewayState.READY)
    assert gateway_rows.exchange(own, attempt=2, now=house.clock()) is None, "it is ready itself by now"
    Gateway.objects.filter(pk=own.pk).update(state=GatewayState.STARTING)
    monkeypatch.setattr(gateway_rows, "takes_warm", lambda *_, **__: services.cancel(session, now=house.clock()))
    house.worker.run_pass()
    assert len(house.warm()) == 1, "the session ended in the same moment"
    assert session.gateways.get().pk == own.pk


def test_rescue_takes_the_one_that_is_ready_while_its_own_is_being_ordered(house: House) -> None:
    other = Worker("other", now=house.clock, driver_for=lambda _: house.driver)
    session = house.press()

    def meanwhile(step: str) -> None:
        house.driver.at_step = lambda _: None
        _ready_one(house)
        other.run_pass()

    house.driver.at_step = lambda step: meanwhile(step) if step == "after start" else None
    house.worker.run_pass()
    assert house.of(session).claimed_at and house.of(session).state == GatewayState.READY
    house.work(1)
    own = session.gateways.get(attempt=1)
    assert own.state == GatewayState.STOPPED and str(own.pk) not in house.driver.alive


def test_exchange_in_the_last_moment_leaves_time_for_the_desktop(house: House, settings: Settings) -> None:
    house.driver.starts.append(Start.WAITING)
    session = house.press()
    house.worker.run_pass()
    house.clock.tick(settings.GATEWAY_DEADLINE_S - 1)
    _ready_one(house)
    house.worker.run_pass()
    assert house.of(session).claimed_at
    house.clock.tick(29)
    house.worker.run_pass()
    assert fresh(session).is_open
    house.clock.tick(1)
    house.worker.run_pass()
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE


@pytest.mark.parametrize(
    ("notice", "stays"),
    [("AWS has no room.", False), (NO_ROOM, False), (TRYING_AGAIN, False), (LOST, True), (UNREACHABLE, True)],
)
def test_what_was_said_of_a_gateway_is_taken_back_with_its_exchange(house: House, notice: str, stays: bool) -> None:
    house.driver.starts.append(Start.WAITING)
    session = house.press()
    house.worker.run_pass()
    if notice in (NO_ROOM, TRYING_AGAIN, LOST):
        services.note_attempt(fresh(session), detail="No.", notice=notice, due_at=None, now=house.clock())
    else:
        services.set_notice(fresh(session), notice, now=house.clock())
    _ready_one(house)
    house.worker.run_pass()
    assert house.of(session).claimed_at
    assert fresh(session).notice == (notice if stays else "")


def test_that_there_is_no_room_is_taken_back_with_the_claim_of_a_warm_one(house: House) -> None:
    house.driver.starts.append(Start.NO_ROOM)
    session = house.press()
    house.worker.run_pass()
    assert fresh(session).notice == NO_ROOM
    _ready_one(house)
    house.worker.run_pass()
    assert house.of(session).claimed_at and fresh(session).notice == ""


def test_early_exchange_takes_no_time_away(house: House) -> None:
    house.driver.starts.append(Start.WAITING)
    session = house.press()
    house.worker.run_pass()
    due_at = fresh(session).gateway_due_at
    _ready_one(house)
    house.worker.run_pass()
    assert house.of(session).claimed_at and fresh(session).gateway_due_at == due_at


@pytest.mark.parametrize("meanwhile", [State.STARTING, State.READY, State.CLOSING])
def test_what_a_driver_says_too_late_of_one_that_was_given_up_does_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, meanwhile: State
) -> None:
    other = Worker("other", now=house.clock, driver_for=lambda _: house.driver)
    anothers = _ready_one(house, of="South")
    session = house.press()

    def start(request: Any) -> GatewayStatus:
        if meanwhile == State.CLOSING:
            services.cancel(fresh(session), now=house.clock())
        else:
            _ready_one(house)
            other.run_pass()  # exchanges it
        if meanwhile == State.READY:
            house.hold_desktop(session)
        return GatewayStatus("starting", handle={"number": 1}, detail="There is no room.", no_room=True)

    monkeypatch.setattr(house.driver, "start", start)
    house.worker.run_pass()
    assert (fresh(session).state, fresh(session).notice) == (meanwhile, "")
    assert house.warm(of="South") == [anothers], "none makes room for it"
    assert pool_rows.paused_until("local", now=house.clock()) is None


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
    house.hold_desktop(session)
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


def test_one_that_was_begun_since_it_was_read_is_stopped_by_its_driver(house: House) -> None:
    house.driver.starts.append(Start.SLOW)
    as_read = gateway_rows.want_warm(fleet("North").pk, driver="local", due_at=house.clock())
    house.stoke(1)
    assert house.driver.alive
    assert gateway_rows.give_up(as_read, failure="", now=house.clock())
    as_read.refresh_from_db()
    assert as_read.state == GatewayState.STOPPING
    house.stoke(1)
    assert str(as_read.pk) not in house.driver.alive


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
