"""A worker that dies at any step leaves nothing that the next one does not take up or undo (F1, F7).

A step is every write to the database and every call of a driver, before and after it. The whole rescue is run once for
each step: the worker dies there as by kill -9, its leases run out, and another one goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django.fixtures import Settings

from sessions import gateway_rows, services
from sessions.models import Gateway, GuacamoleConnection, RdpCredential, SessionEvent, SupportSession
from sessions.states import LIVE_GATEWAY_STATES, OPEN_STATES, EndReason, GatewayState, State
from sessions.worker import Worker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.rescues import Clock, press

pytestmark = pytest.mark.django_db


class Killed(BaseException):
    """kill -9: nothing catches it, `finally` has no effect that anybody outside would see."""


class Steps:
    """Counts steps, and kills at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at, self.count, self.is_armed = kill_at, 0, False

    def __call__(self, what: str) -> None:
        if self.is_armed:
            self.count += 1
            if self.count == self.kill_at:
                self.is_armed = False
                raise Killed(what)

    @contextmanager
    def of_worker(self) -> Iterator[None]:
        """Only a worker's own steps count, not those of the test or the keeper."""

        def write(execute: Callable[..., Any], sql: str, *args: Any) -> Any:
            if sql.split(None, 1)[0] in ("INSERT", "UPDATE", "DELETE"):
                self(sql)
            return execute(sql, *args)

        self.is_armed = self.count < self.kill_at
        try:
            with connection.execute_wrapper(write):
                yield
        finally:
            self.is_armed = False


class Rescue:
    """One rescue and the workers that look after it: when one is killed, another one goes on after its leases."""

    def __init__(self, kill_at: int) -> None:
        self.clock, self.driver, self.steps = Clock(), FakeGateways(), Steps(kill_at)
        self.driver.at_step = self.steps
        self.killed_at = ""
        self.tunnels_ended: list[str] = []
        self.worker = self._new_worker("first")
        self.session = press(f"K{kill_at}", now=self.clock())

    def _new_worker(self, name: str) -> Worker:
        rescue = self

        class Vpn:
            def check_address(self, address: str) -> None:
                return

            def end_tunnel(self, address: str) -> None:
                rescue.steps("before end_tunnel")
                rescue.tunnels_ended.append(address)
                rescue.steps("after end_tunnel")

            def last_heard(self, address: str) -> datetime | None:
                return None

        return Worker(name, now=self.clock, driver_for=lambda _: self.driver, vpn=Vpn)

    def work(self, passes: int = 4) -> None:
        """Some passes, a second apart; a killed worker's leases run out, then the next one looks."""
        for _ in range(passes):
            try:
                with self.steps.of_worker():
                    self.worker.run_pass()
            except Killed as error:
                self.killed_at = str(error)
                self.worker = self._new_worker("second")
                self.clock.tick(gateway_rows.LEASE.total_seconds())
            self.clock.tick(1)

    def fresh(self) -> SupportSession:
        return SupportSession.objects.select_related("fleet", "machine").get(pk=self.session.pk)

    def gateway(self) -> Gateway:
        return Gateway.objects.filter(session=self.session).order_by("-attempt")[0]

    def check_law(self) -> None:
        """What holds after every fault, at any time."""
        session = self.fresh()
        live = {str(pk) for pk in Gateway.objects.exclude(state=GatewayState.STOPPED).values_list("pk", flat=True)}
        assert set(self.driver.alive) <= live, "a gateway runs that no row knows of"
        assert Gateway.objects.filter(session=session, state__in=LIVE_GATEWAY_STATES).count() <= 1
        assert RdpCredential.objects.filter(session=session).exists() == (session.state in OPEN_STATES)
        kinds = list(SessionEvent.objects.filter(session=session).values_list("kind", flat=True))
        assert kinds[0] == "requested"
        for once in ("gateway_wanted", "ended", "cancelled", "vpn_told", "machine_not_told", "closed"):
            assert kinds.count(once) <= 1
        moves = SessionEvent.objects.filter(session=session).exclude(to_state="").values_list("from_state", "to_state")
        states = ["", *[to for _, to in moves]]
        assert [old for old, _ in moves] == states[:-1], "each move begins where the last one ended"


def _lives(kill_at: int, scenario: Callable[[Rescue], None]) -> bool:
    """Runs a scenario on a database of its own; False when it has fewer steps than that."""
    with transaction.atomic():
        rescue = Rescue(kill_at)
        try:
            scenario(rescue)
            rescue.check_law()
        except AssertionError as error:
            raise AssertionError(f"after a death at step {kill_at} ({rescue.killed_at}): {error}") from error
        transaction.set_rollback(True)
    return bool(rescue.killed_at)


def _hold_desktop(rescue: Rescue) -> None:
    GuacamoleConnection.objects.create(
        session=rescue.session, gateway=rescue.gateway(), hostname="127.64.0.1", port=3390, connection_id="$1"
    )
    services.desktop_ready(rescue.fresh(), now=rescue.clock())


def _good_rescue(rescue: Rescue) -> None:
    rescue.work()
    rescue.check_law()
    assert rescue.gateway().state == GatewayState.READY
    assert rescue.gateway().attempt == 1, "a start that was cut off is taken up, not begun anew"
    assert list(rescue.driver.alive) == [str(rescue.gateway().pk)]
    assert len(rescue.driver.started) == 1
    _hold_desktop(rescue)
    services.cancel(rescue.fresh(), now=rescue.clock())
    services.machine_told(rescue.fresh(), now=rescue.clock())
    rescue.work()
    assert rescue.fresh().state == State.CLOSED
    assert rescue.driver.alive == {}
    assert rescue.tunnels_ended
    assert not GuacamoleConnection.objects.filter(session=rescue.session, closed_at=None).exists()


def _failing_starts(rescue: Rescue) -> None:
    rescue.driver.starts.extend([Start.LOST_ANSWER, Start.THROTTLED])
    rescue.work(14)
    rescue.check_law()
    assert rescue.gateway().state == GatewayState.READY
    assert list(rescue.driver.alive) == [str(rescue.gateway().pk)]


def _gateway_lost(rescue: Rescue) -> None:
    rescue.work()
    _hold_desktop(rescue)
    rescue.clock.tick(30)
    rescue.driver.die()
    rescue.work(6)
    rescue.check_law()
    assert rescue.fresh().state == State.STARTING
    assert rescue.gateway().state == GatewayState.READY
    assert list(rescue.driver.alive) == [str(rescue.gateway().pk)]
    assert not GuacamoleConnection.objects.filter(session=rescue.session, closed_at=None).exists()


def _unanswered(rescue: Rescue) -> None:
    rescue.work()
    _hold_desktop(rescue)
    rescue.clock.tick(3600)
    rescue.work()
    rescue.clock.tick(60)
    rescue.work(3)
    assert rescue.fresh().end_reason == EndReason.UNANSWERED
    assert rescue.fresh().state == State.CLOSED
    assert rescue.driver.alive == {}


def _refused_for_good(rescue: Rescue) -> None:
    rescue.driver.starts.extend([Start.REFUSED] * 2)
    rescue.work()
    rescue.clock.tick(60)
    rescue.work()
    assert rescue.fresh().end_reason == EndReason.GATEWAY_FAILED
    assert rescue.fresh().state == State.CLOSED


@pytest.mark.parametrize(
    "scenario",
    [_good_rescue, _failing_starts, _gateway_lost, _unanswered, _refused_for_good],
    ids=lambda one: one.__name__,
)
def test_death_at_any_step_is_healed_by_the_next_worker(scenario: Callable[[Rescue], None], settings: Settings) -> None:
    settings.MACHINE_TELL_DEADLINE_S = 30
    kill_at = 1
    while _lives(kill_at, scenario):
        kill_at += 1
    # Fewer would mean that the steps are not seen, and nothing was tried.
    assert kill_at > 10


def test_both_workers_die_while_starting_and_the_deadline_still_holds(settings: Settings) -> None:
    rescue = Rescue(kill_at=6)
    rescue.work(1)
    assert rescue.killed_at
    assert rescue.fresh().state == State.STARTING
    rescue.clock.tick(settings.GATEWAY_DEADLINE_S)
    rescue.work(2)
    rescue.clock.tick(settings.MACHINE_TELL_DEADLINE_S + 20)
    rescue.work(3)
    rescue.check_law()
    assert rescue.fresh().state == State.CLOSED
    assert rescue.driver.alive == {}


def test_pause_longer_than_the_lease_does_not_leave_a_gateway_behind() -> None:
    """As SIGSTOP in the middle of a start: meanwhile the session ended and another worker confirmed the stop."""
    clock, driver = Clock(), FakeGateways()
    slow = Worker("slow", now=clock, driver_for=lambda _: driver)
    other = Worker("other", now=clock, driver_for=lambda _: driver)
    slow.run_pass()  # its first sweep, which would hide what the start itself forgets
    session = press("P1", now=clock())
    real_start = driver._start

    def paused(attempt_id: str) -> Any:
        driver._lock.release()
        services.cancel(SupportSession.objects.get(pk=session.pk), now=clock())
        clock.tick(gateway_rows.LEASE.total_seconds() + 1)
        other.run_pass()
        assert Gateway.objects.get(session=session).state == GatewayState.STOPPED
        driver._lock.acquire()
        return real_start(attempt_id)

    driver._start = paused  # type: ignore[method-assign]
    slow.run_pass()
    assert driver.started, "it did start, too late"
    assert driver.alive == {}
