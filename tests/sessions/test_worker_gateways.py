"""The worker replaces gateways that fail or are lost, keeps to the fleet's number, and leaves none behind."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db import OperationalError
from pytest_django.fixtures import Settings

from sessions import bell, gateway_rows, services
from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus, Handle, StillStopping
from sessions.models import Gateway, RdpCredential, SessionEvent, SupportSession
from sessions.states import EndReason, GatewayState, State
from sessions.worker import Worker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.rescues import Clock, fleet, person, press
from tests.sessions.working import FakeVpn, fresh, gateway_of, hold_desktop, kinds

pytestmark = pytest.mark.django_db


# --- gateways that fail ----------------------------------------------------------------------------------------------


def test_slow_starts_keep_nothing_else_waiting(
    worker: Worker, driver: FakeGateways, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take 15 s where a driver is not answered; meanwhile other gateways die, and rescues end."""
    monkeypatch.setattr("sessions.passes.STEPS_S", 0.05)
    before = press("B1", now=clock())
    worker.run_pass()
    driver.die()
    driver.at_step = lambda step: time.sleep(0.06) if step == "before start" else None
    sessions = [press(f"C{number}", now=clock()) for number in range(3)]
    clock.tick(1)
    rung = bell.count(bell.WORK)
    worker.run_pass()
    assert gateway_of(before).state == GatewayState.STOPPED
    assert sum(gateway_of(session).state == GatewayState.READY for session in sessions) == 1
    assert bell.count(bell.WORK) > rung
    for _ in range(4):
        clock.tick(5)
        worker.run_pass()
    assert {gateway_of(session).state for session in [before, *sessions]} == {GatewayState.READY}


def test_database_that_fails_under_a_driver_fails_no_gateway(
    worker: Worker, driver: FakeGateways, clock: Clock
) -> None:
    session = press(now=clock())
    errors = [OperationalError("database is locked")]

    def fail(step: str) -> None:
        if step == "after start" and errors:
            raise errors.pop()

    driver.at_step = fail
    worker.run_pass()
    assert gateway_of(session).state == GatewayState.STARTING
    clock.tick(1)
    worker.run_pass()
    gateway = gateway_of(session)
    assert (gateway.state, gateway.attempt, len(driver.started)) == (GatewayState.READY, 1, 1)


@pytest.mark.parametrize("plan", [Start.THROTTLED, Start.FAILED, Start.LOST_ANSWER, Start.BROKEN])
def test_failed_start_is_tried_again_with_a_word_to_the_operator(
    worker: Worker, driver: FakeGateways, clock: Clock, plan: Start
) -> None:
    driver.starts.append(plan)
    session = press(now=clock())
    worker.run_pass()
    assert fresh(session).notice == "The gateway did not start. Another one is being tried."
    worker.run_pass()
    clock.tick(2)
    worker.run_pass()
    gateway = gateway_of(session)
    assert (gateway.attempt, gateway.state) == (2, GatewayState.READY)
    assert list(driver.alive) == [str(gateway.pk)], "what the failed attempt may have started is gone"
    assert Gateway.objects.get(session=session, attempt=1).state == GatewayState.STOPPED
    assert Gateway.objects.get(session=session, attempt=1).failure
    assert fresh(session).attempts == 2
    assert "attempt_failed" in kinds(session)


def test_next_gateway_waits_a_little_longer_each_time(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    driver.starts.extend([Start.THROTTLED, Start.THROTTLED])
    session = press(now=clock())
    worker.run_pass()
    worker.run_pass()
    second = gateway_of(session)
    assert second.attempt == 2
    assert timedelta(seconds=1) <= second.due_at - clock() <= timedelta(seconds=1.3)
    clock.tick(2)
    worker.run_pass()
    worker.run_pass()
    third = gateway_of(session)
    assert third.attempt == 3
    assert timedelta(seconds=3) <= third.due_at - clock() <= timedelta(seconds=3.9)


def test_session_ends_when_all_attempts_have_failed(
    worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock
) -> None:
    driver.starts.extend([Start.THROTTLED] * settings.GATEWAY_ATTEMPTS)
    session = press(now=clock())
    for _ in range(settings.GATEWAY_ATTEMPTS):
        worker.run_pass()  # tries it
        worker.run_pass()  # sees that it is gone
        clock.tick(5)
    assert fresh(session).state == State.CLOSING
    assert fresh(session).end_reason == EndReason.GATEWAY_FAILED
    assert Gateway.objects.filter(session=session).count() == settings.GATEWAY_ATTEMPTS


def test_refusal_for_good_ends_the_session_at_once(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    driver.starts.append(Start.REFUSED)
    session = press(now=clock())
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.GATEWAY_FAILED
    assert SessionEvent.objects.get(session=session, kind="ended").detail["detail"] == "No such image."


def test_slow_gateway_is_asked_after_until_it_is_ready(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    driver.starts.append(Start.SLOW)
    session = press(now=clock())
    worker.run_pass()
    assert gateway_of(session).state == GatewayState.STARTING
    for _ in range(3):
        clock.tick(1)
        worker.run_pass()
    assert gateway_of(session).state == GatewayState.READY
    assert len(driver.started) == 1


def test_gateway_that_is_never_ready_is_stopped_at_the_deadline(
    worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock
) -> None:
    driver.starts.append(Start.SLOW)
    session = press(now=clock())
    worker.run_pass()
    driver._looks[str(gateway_of(session).pk)] = -1000
    clock.tick(settings.GATEWAY_DEADLINE_S)
    worker.run_pass()
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.GATEWAY_FAILED
    assert driver.alive == {}


def test_lost_gateway_is_replaced_and_the_desktop_comes_back(
    worker: Worker, driver: FakeGateways, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    connection = hold_desktop(session, clock)
    clock.tick(60)
    driver.die()
    driver.stops_refused = 1
    worker.run_pass()
    worker.run_pass()
    session = fresh(session)
    assert session.state == State.STARTING
    assert session.notice == "The gateway was lost. A new one is starting."
    connection.refresh_from_db()
    assert connection.closed_at == clock(), "the next desktop does not wait until the old gateway is cleared away"
    assert gateway_of(session).attempt == 2
    worker.run_pass()
    assert gateway_of(session).state == GatewayState.READY
    hold_desktop(session, clock)
    assert fresh(session).state == State.READY
    assert fresh(session).notice == ""


def test_gateways_lost_hours_apart_do_not_use_up_the_attempts(
    worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    services.claim(session, user=person("Alice"), now=clock())
    for _ in range(settings.GATEWAY_ATTEMPTS + 2):
        worker.run_pass()
        worker.run_pass()
        hold_desktop(session, clock)
        SupportSession.objects.filter(pk=session.pk).update(unattended_since=None)
        clock.tick(3600)
        driver.die()
        worker.run_pass()
    worker.run_pass()
    assert fresh(session).is_open


def test_gateway_that_cannot_be_asked_after_is_lost_at_the_third_time(
    worker: Worker, driver: FakeGateways, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    for refused, state in [(2, GatewayState.READY), (3, GatewayState.STOPPED)]:
        driver.looks_refused = refused
        for _ in range(3):
            clock.tick(1)
            worker.run_pass()
        assert Gateway.objects.get(session=session, attempt=1).state == state


def test_desktop_without_any_gateway_row_gets_one(worker: Worker, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    Gateway.objects.filter(session=session).update(state=GatewayState.STOPPED)
    clock.tick(60)
    worker.run_pass()
    assert gateway_of(session).attempt == 2
    assert fresh(session).state == State.STARTING


def test_session_that_ends_while_its_next_gateway_is_thought_about_gets_none(
    worker: Worker, driver: FakeGateways, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.starts.append(Start.THROTTLED)
    session = press(now=clock())
    worker.run_pass()
    real = gateway_rows.failures_in_a_row

    def failures_in_a_row(starting: SupportSession) -> int:
        services.cancel(fresh(starting), now=clock())
        return real(starting)

    monkeypatch.setattr(gateway_rows, "failures_in_a_row", failures_in_a_row)
    worker.run_pass()
    assert Gateway.objects.filter(session=session).count() == 1


def test_session_that_ends_while_its_gateway_starts_leaves_none(
    worker: Worker, driver: FakeGateways, vpn: FakeVpn, clock: Clock
) -> None:
    other = Worker("other", now=clock, driver_for=lambda _: driver, vpn=lambda: vpn)
    worker.run_pass()
    session = press(now=clock())

    def cancel_meanwhile(step: str) -> None:
        driver.at_step = lambda _: None
        services.cancel(fresh(session), now=clock())
        other.run_pass()
        assert gateway_of(session).state == GatewayState.STOPPING, "it is not stopped under the starter's hands"

    driver.at_step = cancel_meanwhile
    worker.run_pass()
    assert driver.started
    assert gateway_of(session).state == GatewayState.STOPPED
    assert driver.alive == {}


# --- caps and leftovers ----------------------------------------------------------------------------------------------


def test_full_fleet_waits_for_a_free_gateway_and_says_so(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    full = fleet()
    full.max_open_sessions = 1
    full.save()
    first, second = press("A1", now=clock()), press("A2", now=clock.tick(1))
    other = press("C1", of="South", now=clock())
    worker.run_pass()
    worker.run_pass()
    assert fresh(first).state == State.STARTING
    assert fresh(second).state == State.REQUESTED
    assert fresh(second).notice == "All gateways of the fleet are busy. This machine gets the next free one."
    assert kinds(second).count("notice") == 1
    assert fresh(other).state == State.STARTING, "another fleet does not wait"
    services.cancel(fresh(first), now=clock())
    worker.run_pass()
    worker.run_pass()
    assert fresh(second).state == State.STARTING
    assert fresh(second).notice == ""


def test_gateway_without_a_row_is_swept(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    driver.alive["left-over"] = driver.alive[str(gateway_of(session).pk)]
    clock.tick(29)
    worker.run_pass()
    assert "left-over" in driver.alive
    clock.tick(1)
    worker.run_pass()
    assert list(driver.alive) == [str(gateway_of(session).pk)]


def test_sweep_that_came_to_nothing_is_repeated_soon(
    worker: Worker, driver: FakeGateways, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is left over would live for more than 90 s when the driver fails twice."""
    real = driver.running

    def running() -> list[str]:
        raise GatewayError("Throttled.")

    driver.alive["left-over"] = GatewayStatus("ready")
    monkeypatch.setattr(driver, "running", running)
    worker.run_pass()
    monkeypatch.setattr(driver, "running", real)
    driver.stops_refused = 1
    for _ in range(2):
        assert "left-over" in driver.alive
        clock.tick(10)
        worker.run_pass()
    assert driver.alive == {}


def test_long_pass_does_not_hold_up_the_sweep(
    worker: Worker, driver: FakeGateways, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many presses at a driver that hangs, one pass lasts for minutes."""
    worker.run_pass()
    real = driver.start
    seen: list[bool] = []

    def start(request: GatewayRequest) -> GatewayStatus:
        seen.append("left-over" in driver.alive)
        clock.tick(15)
        return real(request)

    for number in range(4):
        press(f"A{number}", now=clock())
    driver.alive["left-over"] = GatewayStatus("ready")
    monkeypatch.setattr(driver, "start", start)
    worker.run_pass()
    assert seen == [True, True, False, False]


def test_gateway_that_is_still_stopping_is_no_error_and_is_asked_after(
    worker: Worker,
    driver: FakeGateways,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    session = press(now=clock())
    worker.run_pass()
    services.cancel(fresh(session), now=clock())
    real = driver.stop

    def stop(attempt_id: str, handle: Handle) -> None:
        raise StillStopping("It is DEPROVISIONING.")

    monkeypatch.setattr(driver, "stop", stop)
    for _ in range(20):
        worker.run_pass()
        clock.tick(1)
    assert gateway_of(session).state == GatewayState.STOPPING
    assert "does not stop" not in caplog.text
    monkeypatch.setattr(driver, "stop", real)
    worker.run_pass()
    assert gateway_of(session).state == GatewayState.STOPPED


def test_one_that_came_too_late_is_stopped_by_its_handle(
    worker: Worker, driver: FakeGateways, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that would have to search for it might not find it yet."""
    handles: list[Handle] = []
    real_start, real_stop = driver.start, driver.stop

    def start(request: GatewayRequest) -> GatewayStatus:
        services.cancel(fresh(session), now=clock())
        Worker("other", now=clock, driver_for=lambda _: driver).run_pass()
        return real_start(request)

    def stop(attempt_id: str, handle: Handle) -> None:
        handles.append(dict(handle))
        real_stop(attempt_id, handle)

    session = press(now=clock())
    monkeypatch.setattr(driver, "start", start)
    monkeypatch.setattr(driver, "stop", stop)
    worker.run_pass()
    worker.run_pass()
    assert handles == [{"number": 0}]
    assert driver.alive == {}


def test_operator_reads_plain_words_and_the_row_keeps_the_exact_ones(
    worker: Worker, driver: FakeGateways, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(request: GatewayRequest) -> GatewayStatus:
        return GatewayStatus("failed", detail="There is no room.", record="ecs:RunTask: RESOURCE:ENI")

    monkeypatch.setattr(driver, "start", start)
    session = press(now=clock())
    worker.run_pass()
    assert gateway_of(session).failure == "ecs:RunTask: RESOURCE:ENI"
    told = SessionEvent.objects.filter(session=session, kind="attempt_failed").get()
    assert told.detail["detail"] == "There is no room."


def test_driver_that_cannot_say_what_runs_holds_up_no_ending(
    worker: Worker, driver: FakeGateways, vpn: FakeVpn, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def running() -> list[str]:
        raise GatewayError("The list of gateways cannot be had.")

    session = press(now=clock())
    services.cancel(fresh(session), now=clock())
    services.machine_told(fresh(session), now=clock())
    monkeypatch.setattr(driver, "running", running)
    worker.run_pass()
    assert fresh(session).state == State.CLOSED


def test_login_left_in_an_ended_session_is_erased(worker: Worker, clock: Clock) -> None:
    session = press(now=clock())
    services.cancel(fresh(session), now=clock())
    RdpCredential.objects.create(session=session, username="u", password="p")
    worker.run_pass()
    assert not RdpCredential.objects.exists()


def test_one_poisoned_session_does_not_hold_up_the_others(
    worker: Worker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned, healthy = press("A1", now=clock()), press("A2", now=clock.tick(1))
    real = services.begin_starting

    def begin_starting(session: SupportSession, **kwargs: object) -> SupportSession:
        if session.pk == poisoned.pk:
            raise ValueError("poison")
        return real(session, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "begin_starting", begin_starting)
    worker.run_pass()
    assert fresh(poisoned).state == State.REQUESTED
    assert fresh(healthy).state == State.STARTING
