"""The driver for ECS at a fake one that is as strict, with a clock of the test's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sessions.gateways.ecs import EcsGateways
from tests.fakes.ecs import FakeEcs
from tests.sessions.gateways.conftest import Case
from tests.sessions.gateways.ecs.looking import Clock


@pytest.fixture
def ecs(fake_ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEcs]:
    """Pauses between tries are short, and what a right client never does was not done."""
    monkeypatch.setattr("sessions.gateways.ecs_calls._PAUSES_S", ((0.0, 0.01), (0.0, 0.01)))
    monkeypatch.setattr("sessions.gateways.ecs._STOP_LOOKS_S", (0.05, 0.1))
    monkeypatch.setattr("sessions.gateways.ecs_tasks.AT_ONCE", (0.02,))
    yield fake_ecs
    assert fake_ecs.refused == []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver(ecs: FakeEcs, clock: Clock) -> EcsGateways:
    return EcsGateways(now=clock)


@pytest.fixture
def case(ecs: FakeEcs, driver: EcsGateways) -> Case:
    return Case(driver, lambda status: ecs.kill_guacd(status.host), True)
