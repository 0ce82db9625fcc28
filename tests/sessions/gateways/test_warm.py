"""A warm gateway of each driver, with a real guacd: ready before the press, this press's alone, gone after it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from pytest_django.fixtures import Settings

from sessions import services
from sessions.gateways import probe
from sessions.models import Gateway, SupportSession
from sessions.states import GatewayState, State
from sessions.worker import Stoker, Worker
from tests.sessions.gateways.conftest import Case
from tests.sessions.rescues import Clock, fleet, machine, press
from tests.waiting import LONG_S

pytestmark = [pytest.mark.real, pytest.mark.django_db]


def test_warm_gateway_serves_one_press_and_is_gone_after_it(case: Case, settings: Settings) -> None:
    # The clock goes on with each pass, and on a busy computer there are many before a gateway is there.
    settings.GATEWAY_DEADLINE_S = settings.ANSWER_DEADLINE_S = settings.MACHINE_GONE_S = 86_400
    clock = Clock()
    stoker = Stoker("stoker", now=clock, driver_for=lambda _: case.driver)
    worker = Worker("worker", now=clock, driver_for=lambda _: case.driver)
    warm = Gateway.objects.filter(session=None, state=GatewayState.READY)
    north = fleet()
    north.warm_gateways = 1
    north.save()
    machine("A1")

    def work_until(holds: Callable[[], object], *hands: Stoker | Worker) -> None:
        deadline = time.monotonic() + LONG_S
        while not holds():
            assert time.monotonic() < deadline, [str(row) + row.failure for row in Gateway.objects.all()]
            for hand in hands:
                hand.run_pass()
            clock.tick(1)
            time.sleep(0.02)

    if not getattr(case.driver, "can_be_warm", True):
        stoker.run_pass()
        assert not Gateway.objects.exists()
        return
    work_until(warm.exists, stoker)
    ready = warm.get()
    assert ready.driver == settings.GATEWAY and case.driver.running() == [str(ready.pk)]
    session = press("A1", now=clock())
    worker.run_pass()
    claimed = session.gateways.get()
    assert (claimed.pk, claimed.state, claimed.host, claimed.port) == (ready.pk, "ready", ready.host, ready.port)
    assert claimed.port is not None
    probe.answers(claimed.host, claimed.port, timeout_s=LONG_S)
    work_until(warm.exists, stoker)

    north.warm_gateways = 0
    north.save()
    services.cancel(SupportSession.objects.get(pk=session.pk), now=clock())
    services.machine_told(SupportSession.objects.get(pk=session.pk), now=clock())
    work_until(SupportSession.objects.filter(pk=session.pk, state=State.CLOSED).exists, worker)
    clock.tick(60)
    stoker.run_pass()
    clock.tick(60)
    work_until(lambda: not Gateway.objects.exclude(state=GatewayState.STOPPED).exists(), stoker)
    assert case.driver.running() == []
