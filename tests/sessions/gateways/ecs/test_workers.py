"""Two workers, each with a driver of its own as two processes have, bring every rescue its one task and leave none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from sessions import services
from sessions.gateways.base import GatewayDriver, GatewayError, GatewayStatus
from sessions.gateways.ecs import EcsGateways
from sessions.models import Gateway, SupportSession
from sessions.states import GatewayState, State
from sessions.worker import Worker
from tests.fakes.ecs import Answer, FakeEcs, Life
from tests.sessions.gateways.conftest import Case, new_request
from tests.sessions.rescues import press
from tests.sessions.working import FakeVpn
from tests.waiting import LONG_S, until

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True)]


def _worker(name: str) -> Worker:
    driver: GatewayDriver = EcsGateways()
    return Worker(name, driver_for=lambda _: driver, vpn=FakeVpn)


@pytest.fixture
def workers(fake_ecs: FakeEcs, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two that never rest."""
    settings.GATEWAY = "ecs"
    settings.MACHINE_TELL_DEADLINE_S = 1
    monkeypatch.setattr("sessions.gateways.ecs_calls._PAUSES_S", ((0.0, 0.01), (0.0, 0.01)))
    over = threading.Event()

    def work(worker: Worker) -> None:
        try:
            while not over.is_set():
                worker.run_pass()
                time.sleep(0.05)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work, args=(_worker(name),), daemon=True) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    yield
    over.set()
    for thread in threads:
        thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads), "they would work on in the next test's database"


def test_attempt_that_another_worker_ended_is_forgotten_in_time(
    fake_ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = EcsGateways(), EcsGateways()
    monkeypatch.setattr("sessions.gateways.ecs_calls._PAUSES_S", ((0.0, 0.01), (0.0, 0.01)))
    fake_ecs.will(Answer.LOST, "RunTask", times=6)
    for request in (new_request(), new_request()):
        with pytest.raises(GatewayError):
            one.start(request)
        Case(other, lambda status: None, True).stop(request, GatewayStatus("stopped"))
    assert (len(one._attempts), len(other._attempts)) == (2, 0)
    hour_later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3601)
    monkeypatch.setattr("sessions.gateways.ecs_attempts.time", hour_later)
    one.start(new_request())
    assert len(one._attempts) == 1


def _are(states: Callable[[], list[str]], expected: list[str]) -> Callable[[], bool]:
    return lambda: states() == expected


def _sessions() -> list[str]:
    return list(SupportSession.objects.values_list("state", flat=True))


def _gateways() -> list[str]:
    return list(Gateway.objects.values_list("state", flat=True))


def test_two_workers_start_and_stop_each_gateway_once(fake_ecs: FakeEcs, workers: None) -> None:
    fake_ecs.will(Answer.LOST, "RunTask", times=2)
    fake_ecs.will(Answer.THROTTLED, "DescribeTasks", times=3)
    fake_ecs.lives(Life(lag_s=0.3), times=2)
    sessions = [press(f"A{number}") for number in range(4)]
    until(_are(_gateways, [GatewayState.READY] * 4), what="every rescue has its gateway")
    assert len(fake_ecs.tasks()) == 4
    for session in sessions:
        services.cancel(SupportSession.objects.get(pk=session.pk))
    until(_are(_sessions, [State.CLOSED] * 4), what="every rescue is closed")
    assert _gateways() == [GatewayState.STOPPED] * 4
    assert len(fake_ecs.tasks()) == 4
    assert all(task.status == "STOPPED" for task in fake_ecs.tasks())
    assert fake_ecs.refused == []
