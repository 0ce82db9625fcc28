"""A process that dies at any step of the pool leaves nothing running that no row knows, nothing too many, nothing lost.

Steps are as in test_worker_crashes.py; worker and stoker are one process here, and die together.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.db import transaction
from pytest_django.fixtures import Settings

from sessions import gateway_rows, services
from sessions.models import Gateway, SupportSession
from sessions.states import LIVE_GATEWAY_STATES, GatewayState, State
from sessions.worker import Stoker, Worker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.rescues import Clock, machine, press
from tests.sessions.test_worker_crashes import Killed, Steps

pytestmark = pytest.mark.django_db


class House:
    """A pool of one, and the processes that look after it and after a rescue, one after the other."""

    def __init__(self, kill_at: int, settings: Settings) -> None:
        self.clock, self.driver, self.steps, self.settings = Clock(), FakeGateways(), Steps(kill_at), settings
        self.driver.at_step = self.steps
        self.killed_at = ""
        settings.GATEWAY_WARM = 1
        machine("K1")
        self._begin("first")

    def _begin(self, name: str) -> None:
        self.hands: dict[str, Worker | Stoker] = {
            "worker": Worker(f"{name}:1", now=self.clock, driver_for=lambda _: self.driver),
            "stoker": Stoker(f"{name}:stoker", now=self.clock, driver_for=lambda _: self.driver),
        }

    def work(self, passes: int = 3, *, every_s: float = 1) -> None:
        for _ in range(passes):
            # Without a rescue the worker has nothing to do, and costs the test half of its time.
            for name in ("worker", "stoker") if SupportSession.objects.exists() else ("stoker",):
                try:
                    with self.steps.of_worker():
                        self.hands[name].run_pass()
                except Killed as error:
                    self.killed_at = str(error)
                    self._begin("second")
                    self.clock.tick(gateway_rows.LEASE.total_seconds())
            self.check_law()
            self.clock.tick(every_s)

    def warm(self) -> list[Gateway]:
        return list(Gateway.objects.filter(session=None, state=GatewayState.READY))

    def alive(self) -> set[str]:
        return set(self.driver.alive)

    def check_law(self) -> None:
        rows = Gateway.objects.exclude(state=GatewayState.STOPPED)
        assert self.alive() <= {str(pk) for pk in rows.values_list("pk", flat=True)}, "it runs, and no row knows of it"
        warm = rows.filter(session=None, state__in=LIVE_GATEWAY_STATES)
        assert warm.count() <= 2, "one, and its successor"
        for session in SupportSession.objects.all():
            assert session.gateways.filter(state__in=LIVE_GATEWAY_STATES).count() <= 1


def _claimed_and_refilled(house: House) -> None:
    house.work(2)
    session = press("K1", now=house.clock())
    house.work(4)
    used = session.gateways.get()
    (warm,) = house.warm()
    assert (used.state, used.claimed_at is None) == (GatewayState.READY, False)
    assert SupportSession.objects.get(pk=session.pk).attempts == 1
    assert house.alive() == {str(used.pk), str(warm.pk)}
    assert len(house.driver.started) == 2, "a start that was cut off is taken up, not begun anew"
    services.cancel(SupportSession.objects.get(pk=session.pk), now=house.clock())
    services.machine_told(SupportSession.objects.get(pk=session.pk), now=house.clock())
    house.work(3)
    assert SupportSession.objects.get(pk=session.pk).state == State.CLOSED
    assert house.alive() == {str(warm.pk)}


def _dead_as_it_is_claimed(house: House) -> None:
    house.work(2)
    session = press("K1", now=house.clock())
    house.driver.die()
    house.work(5, every_s=3)
    (used,) = session.gateways.filter(state=GatewayState.READY)
    (warm,) = house.warm()
    assert house.alive() == {str(used.pk), str(warm.pk)}


def _failing_and_lost(house: House) -> None:
    house.driver.starts.extend([Start.FAILED, Start.LOST_ANSWER, Start.SLOW])
    house.work(9, every_s=4)
    (warm,) = house.warm()
    assert house.alive() == {str(warm.pk)}


def _replaced_then_given_up(house: House) -> None:
    house.work(2)
    (old,) = house.warm()
    house.clock.tick(house.settings.GATEWAY_WARM_HOURS * 3600)
    house.work(4)
    (new,) = house.warm()
    assert new.pk != old.pk and house.alive() == {str(new.pk)}
    house.settings.GATEWAY_WARM = 0
    house.work(6, every_s=15)
    assert house.alive() == set() and not Gateway.objects.exclude(state=GatewayState.STOPPED).exists()


def _own_waits_beside_a_ready_one(house: House) -> None:
    house.driver.starts.append(Start.SLOW)
    while not house.driver.started:
        house.work(1)
    house.driver.starts.append(Start.WAITING)
    session = press("K1", now=house.clock())
    house.work(5)
    used = session.gateways.get(state=GatewayState.READY)
    assert used.born_warm and house.alive() == {str(used.pk)}
    assert SupportSession.objects.get(pk=session.pk).attempts == used.attempt


def _lives(kill_at: int, scenario: Callable[[House], None], settings: Settings) -> bool:
    """Runs a scenario on rows of its own; False when it has fewer steps than that."""
    with transaction.atomic():
        house = House(kill_at, settings)
        try:
            scenario(house)
            house.check_law()
        except (AssertionError, ValueError) as error:
            raise AssertionError(f"after a death at step {kill_at} ({house.killed_at}): {error}") from error
        transaction.set_rollback(True)
    return bool(house.killed_at)


@pytest.mark.parametrize(
    "scenario",
    [
        _claimed_and_refilled,
        _own_waits_beside_a_ready_one,
        _dead_as_it_is_claimed,
        _failing_and_lost,
        _replaced_then_given_up,
    ],
    ids=lambda one: one.__name__,
)
def test_death_at_any_step_is_healed_by_the_next_process(scenario: Callable[[House], None], settings: Settings) -> None:
    kill_at = 1
    while _lives(kill_at, scenario, settings):
        kill_at += 1
    # Fewer would mean that the steps are not seen, and nothing was tried.
    assert kill_at > 10
