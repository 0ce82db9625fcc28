"""The worker brings a rescue from the press to the end, replaces what is lost, and keeps every time limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from django.db import OperationalError
from pytest_django.fixtures import Settings

from machines import identities
from machines.vpn.base import TunnelStillUp, VpnError
from sessions import attachments, bell, gateway_rows, keeper_rows, services
from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus, Handle, StillStopping
from sessions.models import Attachment, Gateway, GuacamoleConnection, RdpCredential, SessionEvent, SupportSession
from sessions.states import EndReason, GatewayState, State
from sessions.worker import Worker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.rescues import Clock, fleet, machine, person, press

pytestmark = pytest.mark.django_db


class FakeVpn:
    """Tunnels that were ended; the first `refused` tries fail, the next `lingering` find the tunnel still up."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.refused = 0
        self.lingering = 0
        self.heard_at: datetime | None = None

    def check_address(self, address: str) -> None:
        return

    def end_tunnel(self, address: str) -> None:
        if self.refused:
            self.refused -= 1
            raise VpnError("The management socket does not answer.")
        if self.lingering:
            self.lingering -= 1
            raise TunnelStillUp("It has been told.")
        self.ended.append(address)

    def last_heard(self, address: str) -> datetime | None:
        return self.heard_at


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver() -> FakeGateways:
    return FakeGateways()


@pytest.fixture
def vpn() -> FakeVpn:
    return FakeVpn()


@pytest.fixture
def worker(clock: Clock, driver: FakeGateways, vpn: FakeVpn) -> Worker:
    return Worker("test worker", now=clock, driver_for=lambda _: driver, vpn=lambda: vpn)


def fresh(session: SupportSession) -> SupportSession:
    return SupportSession.objects.select_related("fleet", "machine", "operator").get(pk=session.pk)


def gateway_of(session: SupportSession) -> Gateway:
    """The latest one."""
    return Gateway.objects.filter(session=session).order_by("-attempt")[0]


def kinds(session: SupportSession) -> list[str]:
    return list(SessionEvent.objects.filter(session=session).values_list("kind", flat=True))


def hold_desktop(session: SupportSession, clock: Clock) -> GuacamoleConnection:
    """What the keeper does when it has logged in."""
    connection = GuacamoleConnection.objects.create(
        session=session, gateway=gateway_of(session), hostname="127.64.0.1", port=3390, connection_id="$1"
    )
    services.desktop_ready(fresh(session), now=clock())
    return connection


# --- from the press to the end ----------------------------------------------------------------------------------------


def test_press_has_its_gateway_after_one_pass(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    gateway = gateway_of(session)
    assert (gateway.state, gateway.host, gateway.port) == (GatewayState.READY, "127.0.0.1", 40000)
    assert gateway.attempt == 1
    assert list(driver.alive) == [str(gateway.pk)]
    assert fresh(session).state == State.STARTING
    (request,) = driver.requests
    assert (request.machine_address, request.machine_port) == (session.machine.vpn_address, 3390)


def test_more_passes_change_nothing(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    before = (kinds(session), fresh(session).version, driver.started)
    for _ in range(5):
        worker.run_pass()
        clock.tick(2)
    assert (kinds(session), fresh(session).version, driver.started) == before


def test_idle_pass_writes_nothing(
    worker: Worker, clock: Clock, django_assert_max_num_queries: Callable[..., object]
) -> None:
    press(now=clock())
    worker.run_pass()
    with django_assert_max_num_queries(12) as queries:  # type: ignore[attr-defined]
        worker.run_pass()
    assert all(query["sql"].startswith("SELECT") for query in queries.captured_queries)


def test_closed_rescue_leaves_nothing(worker: Worker, driver: FakeGateways, vpn: FakeVpn, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    connection = hold_desktop(session, clock)
    alice = person("Alice")
    services.claim(fresh(session), user=alice, now=clock())
    services.close(fresh(session), user=alice, outcome=EndReason.RESOLVED, cause="Beans", fix="Cleaned", now=clock())
    services.machine_told(fresh(session), now=clock())
    for _ in range(3):
        worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert driver.alive == {}
    assert gateway_of(session).state == GatewayState.STOPPED
    assert vpn.ended == [session.machine.vpn_address]
    assert not RdpCredential.objects.exists()
    connection.refresh_from_db()
    assert connection.closed_at is not None
    assert connection.connection_id is None
    assert kinds(session)[-3:] == ["machine_told", "vpn_told", "closed"]


def test_cancelled_before_any_gateway_is_closed_too(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    session = press(now=clock())
    services.cancel(fresh(session), now=clock())
    services.machine_told(fresh(session), now=clock())
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert driver.started == []


def test_machine_out_of_reach_is_waited_for_and_then_written_down(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    services.cancel(fresh(session), now=clock())
    for _ in range(3):
        worker.run_pass()
    assert fresh(session).state == State.CLOSING
    clock.tick(settings.MACHINE_TELL_DEADLINE_S)
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert kinds(session).count("machine_not_told") == 1


def test_session_is_closing_until_the_gateway_has_surely_stopped(
    worker: Worker, driver: FakeGateways, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    driver.stops_refused = 4
    services.cancel(fresh(session), now=clock())
    services.machine_told(fresh(session), now=clock())
    for _ in range(4):
        worker.run_pass()
        assert fresh(session).state == State.CLOSING
        assert driver.alive
        clock.tick(30)
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert driver.alive == {}


def test_session_is_closing_until_the_vpn_was_told(worker: Worker, vpn: FakeVpn, clock: Clock) -> None:
    session = press(now=clock())
    vpn.refused = 3
    services.cancel(fresh(session), now=clock())
    services.machine_told(fresh(session), now=clock())
    worker.run_pass()
    worker.run_pass()
    assert vpn.refused == 2, "the second try waits"
    for _ in range(3):
        assert fresh(session).state == State.CLOSING
        clock.tick(30)
        worker.run_pass()
    assert fresh(session).state == State.CLOSED


def test_tunnel_is_left_to_the_next_rescue_of_its_machine(worker: Worker, vpn: FakeVpn, clock: Clock) -> None:
    first = press(now=clock())
    services.cancel(fresh(first), now=clock())
    services.machine_told(fresh(first), now=clock())
    second = press(key="again", now=clock())
    worker.run_pass()
    assert (fresh(first).state, vpn.ended) == (State.CLOSED, [])
    services.cancel(fresh(second), now=clock())
    services.machine_told(fresh(second), now=clock())
    worker.run_pass()
    assert (fresh(second).state, vpn.ended) == (State.CLOSED, [second.machine.vpn_address])


def test_machine_that_presses_and_cancels_in_turn_cannot_pile_up_gateways(
    worker: Worker, driver: FakeGateways, clock: Clock
) -> None:
    """They take a while to stop elsewhere, and count among no open rescues by then (T23)."""
    driver.stops_refused = 10_000
    for _ in range(12):
        session = press(now=clock())
        worker.run_pass()
        services.cancel(fresh(session), now=clock())
        worker.run_pass()
        clock.tick(1)
    assert len(driver.alive) == 5
    waiting, other = press(now=clock()), press("A2", now=clock())
    worker.run_pass()
    assert fresh(waiting).state == State.REQUESTED and "still stopping" in fresh(waiting).notice
    assert gateway_of(other).state == GatewayState.READY
    # Not for ever: what cannot be stopped must not keep help away.
    clock.tick(600)
    worker.run_pass()
    assert gateway_of(waiting).state == GatewayState.READY


# --- gateways that fail -----------------------------------------------------------------------------------------------


def test_slow_starts_keep_nothing_else_waiting(
    worker: Worker, driver: FakeGateways, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take 15 s where a driver is not answered; meanwhile other gateways die, and rescues end."""
    monkeypatch.setattr("sessions.gateway_passes._STEPS_S", 0.05)
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


# --- caps and leftovers -----------------------------------------------------------------------------------------------


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


# --- time limits ------------------------------------------------------------------------------------------------------


def test_no_desktop_in_time_with_a_gateway_means_the_machine_is_out_of_reach(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    clock.tick(settings.GATEWAY_DEADLINE_S - 1)
    worker.run_pass()
    assert fresh(session).is_open
    clock.tick(1)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE


def test_press_beyond_the_cap_waits_as_long_as_for_an_answer(worker: Worker, settings: Settings, clock: Clock) -> None:
    full = fleet()
    full.max_open_sessions = 0
    full.save()
    claimed, waiting = press("A1", now=clock()), press("A2", now=clock())
    services.claim(claimed, user=person("Alice"), now=clock())
    clock.tick(settings.ANSWER_DEADLINE_S - 1)
    worker.run_pass()
    assert fresh(claimed).is_open
    assert fresh(waiting).is_open
    clock.tick(1)
    worker.run_pass()
    assert fresh(claimed).end_reason == EndReason.GATEWAY_FAILED
    assert fresh(waiting).end_reason == EndReason.UNANSWERED


def test_gateway_that_comes_free_late_still_has_its_whole_time(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    full = fleet()
    full.max_open_sessions = 1
    full.save()
    first = press("A1", now=clock())
    worker.run_pass()
    hold_desktop(first, clock)
    second = press("A2", now=clock())
    clock.tick(settings.GATEWAY_DEADLINE_S + 5)
    worker.run_pass()
    services.cancel(fresh(first), now=clock())
    worker.run_pass()
    worker.run_pass()
    assert fresh(second).state == State.STARTING
    assert fresh(second).gateway_due_at == clock() + timedelta(seconds=settings.GATEWAY_DEADLINE_S)


def test_refused_login_is_the_reason_when_it_was_the_last_failure(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    services.note_attempt(
        fresh(session),
        detail="The machine refused the one-off login (status 769).",
        notice="",
        due_at=None,
        now=clock(),
    )
    clock.tick(settings.GATEWAY_DEADLINE_S)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.CREDENTIALS_REFUSED


def test_gateway_that_hangs_is_replaced_and_never_blamed_on_the_machine(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    first = gateway_of(session)
    assert keeper_rows.take("a keeper", now=clock()) == {first.pk}
    keeper_rows.give_up(first.pk, "a keeper", detail="The gateway does not answer: it was silent.", now=clock())
    worker.run_pass()
    clock.tick(2)
    worker.run_pass()
    assert (gateway_of(session).attempt, gateway_of(session).state) == (2, GatewayState.READY)
    assert fresh(session).notice == "The gateway hangs. A new one is starting."
    clock.tick(settings.GATEWAY_DEADLINE_S)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.GATEWAY_FAILED


@pytest.mark.parametrize("had_desktop", [True, False])
def test_minutes_without_any_keeper_are_no_part_of_the_time_for_a_desktop(
    worker: Worker, settings: Settings, clock: Clock, had_desktop: bool
) -> None:
    session = press(now=clock())
    worker.run_pass()
    gateway = gateway_of(session)
    keeper_rows.take("old", now=clock())
    if had_desktop:
        hold_desktop(session, clock)
    keeper_rows.let_go(gateway.pk, "old", detail="told to stop", notice=keeper_rows.RESTARTING, now=clock())
    clock.tick(settings.MACHINE_GONE_S * 3)
    worker.run_pass()
    assert fresh(session).state == State.STARTING
    keeper_rows.take("new", now=clock())
    for left in (settings.MACHINE_GONE_S, 10):
        assert keeper_rows.prepare(gateway.pk, "new", now=clock()), "it is tried"
        assert fresh(session).gateway_due_at == clock() + timedelta(seconds=left), "each try has the same deadline"
        clock.tick(settings.MACHINE_GONE_S - 10 if left > 10 else 10)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE


def test_rescue_whose_keeper_never_comes_back_ends(worker: Worker, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    keeper_rows.take("old", now=clock())
    hold_desktop(session, clock)
    keeper_rows.let_go(gateway_of(session).pk, "old", detail="told to stop", notice=keeper_rows.RESTARTING, now=clock())
    services.claim(fresh(session), user=person("Alice"), now=clock())
    clock.tick(keeper_rows.NO_KEEPER_DEADLINE.total_seconds())
    worker.run_pass()
    assert not fresh(session).is_open


def test_lost_desktop_that_does_not_come_back_ends_as_out_of_reach(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    clock.tick(3600 // 4)
    services.desktop_lost(fresh(session), detail="no instruction for 15 s", notice="The machine is gone.", now=clock())
    clock.tick(settings.MACHINE_GONE_S - 1)
    worker.run_pass()
    assert fresh(session).is_open
    clock.tick(1)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE


def test_request_that_nobody_claims_ends(worker: Worker, settings: Settings, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    clock.tick(settings.ANSWER_DEADLINE_S - 1)
    worker.run_pass()
    assert fresh(session).is_open
    clock.tick(1)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.UNANSWERED


def test_claim_in_the_last_moment_wins_over_the_deadline(
    worker: Worker, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    clock.tick(settings.ANSWER_DEADLINE_S)
    real = services.end

    def end(overdue: SupportSession, *args: object, **kwargs: object) -> SupportSession:
        services.claim(fresh(session), user=person("Alice"), now=clock())
        return real(overdue, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "end", end)
    worker.run_pass()
    assert fresh(session).is_open
    assert fresh(session).operator == person("Alice")


def test_desktop_in_the_last_moment_wins_over_the_deadline(
    worker: Worker, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = press(now=clock())
    worker.run_pass()
    clock.tick(settings.GATEWAY_DEADLINE_S)
    real = services.end

    def end(overdue: SupportSession, *args: object, **kwargs: object) -> SupportSession:
        hold_desktop(session, clock)
        return real(overdue, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "end", end)
    worker.run_pass()
    assert fresh(session).state == State.READY


def test_claim_of_an_absent_operator_goes_back_to_the_queue(worker: Worker, settings: Settings, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    services.claim(fresh(session), user=person("Alice"), now=clock())
    clock.tick(settings.ABANDONED_AFTER_S - 1)
    worker.run_pass()
    assert fresh(session).operator is not None
    clock.tick(1)
    worker.run_pass()
    session = fresh(session)
    assert session.operator is None
    assert session.is_open
    assert session.answer_due_at > clock(), "the queue has its full time again"


def test_operator_at_the_desktop_keeps_the_claim(worker: Worker, settings: Settings, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    services.claim(fresh(session), user=person("Alice"), now=clock())
    ticket = attachments.issue_ticket(fresh(session), user=person("Alice"), role="controller", now=clock())
    attached = attachments.redeem_ticket(ticket, session_id=session.pk, user=person("Alice"), now=clock())
    clock.tick(settings.ABANDONED_AFTER_S * 3)
    attachments.heard([attached.pk], now=clock())
    worker.run_pass()
    assert fresh(session).operator == person("Alice")


def test_tunnel_that_has_been_told_is_asked_after_with_each_pass(
    worker: Worker, vpn: FakeVpn, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    vpn.lingering = 2
    session = press(now=clock())
    services.cancel(session, now=clock())
    services.machine_told(fresh(session), now=clock())
    for _ in range(2):
        worker.run_pass()
        assert fresh(session).state == State.CLOSING
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert not caplog.records


# --- silent lines -----------------------------------------------------------------------------------------------------


def test_silent_line_is_said_taken_back_and_given_up_only_in_the_end(
    worker: Worker, vpn: FakeVpn, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    vpn.heard_at = clock()

    clock.tick(5)
    worker.run_pass()
    assert fresh(session).notice == "", "a few seconds are nothing to speak of"
    clock.tick(25)
    worker.run_pass()
    assert fresh(session).notice.startswith("Machine unreachable")
    assert fresh(session).state == State.READY
    vpn.heard_at = clock.tick(2)
    worker.run_pass()
    assert fresh(session).notice == ""
    clock.tick(settings.MACHINE_GONE_S - 1)
    worker.run_pass()
    assert fresh(session).is_open
    clock.tick(1)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE
    ended = SessionEvent.objects.get(session=session, kind="ended")
    assert "Nothing came through the machine's tunnel for 120 s" in ended.detail["detail"]


# --- what changed under a rescue --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["switched off", "frozen", "moved"])
def test_rescue_of_a_machine_that_a_manager_withdraws_ends_and_leaves_nothing(
    change: str, worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    withdrawn = session.machine
    if change == "switched off":
        withdrawn.is_active = False
    elif change == "frozen":
        withdrawn.frozen_at = clock()
    else:
        withdrawn.fleet = fleet("South")
        withdrawn.site = machine("C1", of="South").site
    withdrawn.save()

    worker.run_pass()

    assert fresh(session).end_reason == EndReason.MACHINE_WITHDRAWN
    assert not RdpCredential.objects.exists()
    clock.tick(settings.MACHINE_TELL_DEADLINE_S)
    worker.run_pass()
    worker.run_pass()
    assert not driver.running()
    assert fresh(session).state == State.CLOSED


def test_worker_says_daily_what_the_vpn_needs(worker: Worker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    identities.crl_pem(now=clock() - timedelta(days=20))
    for _ in range(3):
        worker.run_pass()
        clock.tick(60)
    assert caplog.text.count("list of revocations ends on") == 1
    clock.tick(86_400)
    worker.run_pass()
    assert caplog.text.count("list of revocations ends on") == 2


def test_desktop_that_comes_when_its_operator_waits_already_is_being_repaired(worker: Worker, clock: Clock) -> None:
    alice = person("Alice")
    session = press(now=clock())
    worker.run_pass()
    session = services.claim(fresh(session), user=alice, now=clock())
    ticket = attachments.issue_ticket(session, user=alice, role="controller", now=clock())
    attachments.redeem_ticket(ticket, session_id=session.pk, user=alice, now=clock())

    hold_desktop(session, clock)
    worker.run_pass()

    assert fresh(session).state == State.ACTIVE
    assert fresh(session).unattended_since is None


def test_presence_that_a_dying_process_did_not_write_down_is_put_right(worker: Worker, clock: Clock) -> None:
    alice = person("Alice")
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    session = services.claim(fresh(session), user=alice, now=clock())
    ticket = attachments.issue_ticket(session, user=alice, role="controller", now=clock())
    attached = attachments.redeem_ticket(ticket, session_id=session.pk, user=alice, now=clock())
    assert fresh(session).state == State.ACTIVE

    Attachment.objects.filter(pk=attached.pk).update(detached_at=clock())
    worker.run_pass()

    assert fresh(session).state == State.READY
    assert fresh(session).unattended_since == clock()


def test_one_row_that_cannot_be_put_right_does_not_hold_up_the_others(
    worker: Worker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned, healthy, ending = press("A1", now=clock()), press("A2", now=clock.tick(1)), press("A3", now=clock())
    worker.run_pass()
    for session in (poisoned, healthy):
        # As a process leaves it that dies before it has written down who left.
        hold_desktop(session, clock)
        SupportSession.objects.filter(pk=session.pk).update(state=State.ACTIVE)
    services.cancel(fresh(ending), now=clock())
    services.machine_told(fresh(ending), now=clock())
    real = services.controllers_changed

    def controllers_changed(session: SupportSession, **kwargs: object) -> SupportSession:
        if session.pk == poisoned.pk:
            raise ValueError("poison")
        return real(session, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "controllers_changed", controllers_changed)
    worker.run_pass()
    assert fresh(healthy).state == State.READY
    assert fresh(ending).state == State.CLOSED
