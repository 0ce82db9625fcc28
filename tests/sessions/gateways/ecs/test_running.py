"""While a gateway is there: looked at seldom and in batches, and lost only when it is."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from pytest_django.fixtures import Settings

from sessions.gateways import ecs_probes, ecs_tasks, probe
from sessions.gateways.base import GatewayError, Handle
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs, Life
from tests.sessions.gateways.conftest import Case, new_request
from tests.sessions.gateways.ecs.looking import called
from tests.waiting import LONG_S

pytestmark = pytest.mark.real


def test_task_that_moves_is_looked_at_often_again() -> None:
    clock, states = SimpleNamespace(at=0.0), {"version": 1, "lastStatus": "PROVISIONING"}
    asked: list[float] = []

    def describe(arns: Sequence[str]) -> list[dict[str, Any]]:
        asked.append(clock.at)
        return [{"taskArn": arns[0], **states}]

    tasks = ecs_tasks.Tasks(describe)
    with mock.patch.object(ecs_tasks, "time", SimpleNamespace(monotonic=lambda: clock.at)):
        for second in range(30):
            clock.at = float(second)
            states = {"version": 2, "lastStatus": "PENDING"} if second >= 14 else states
            tasks.look("arn", pace=ecs_tasks.STARTING_PACE)
    assert asked == [0, 1, 2, 4, 7, 12, 17, 18, 19, 21, 24, 29]


def test_looks_at_many_are_one_call(case: Case, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [new_request() for _ in range(5)]
    ready = [case.start(request) for request in requests]
    before = len(called(ecs, "DescribeTasks"))
    later = time.monotonic() + 60
    monkeypatch.setattr("sessions.gateways.ecs_tasks.time", SimpleNamespace(monotonic=lambda: later))
    for request, status in zip(requests, ready, strict=True):
        assert case.driver.describe(request.attempt_id, status.handle) == status
    (look,) = called(ecs, "DescribeTasks")[before:]
    assert len(look["tasks"]) == 5


def test_task_of_a_cluster_that_was_left_harms_no_other(case: Case, ecs: FakeEcs, settings: Settings) -> None:
    """ECS refuses a whole DescribeTasks for one task of another cluster."""
    old = f"arn:aws:ecs:{ecs.region}:123456789012:task/former/{'0a' * 16}"
    now = int(case.driver._now())  # type: ignore[attr-defined]
    stray = str(uuid.uuid4())
    starting: Handle = {"task": old, "at": now}
    for handle in (starting, {**starting, "address": "127.0.0.66", "ready": now}):
        with pytest.raises(GatewayError):
            case.driver.describe(stray, handle)
    request = new_request()
    status = case.start(request)
    assert status.state == "ready"
    case.stop(request, status)
    assert {call["cluster"] for call in called(ecs, "DescribeTasks") if old in call["tasks"]} == {"former"}
    assert all(said.endswith("Cluster not found.") for said in ecs.refused)
    ecs.refused.clear()


def test_ready_ones_are_seldom_asked_about(case: Case, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch) -> None:
    request = new_request()
    status = case.start(request)
    before, now = len(ecs.calls), time.monotonic()
    monkeypatch.setattr(ecs_tasks, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(200):
        assert case.driver.describe(request.attempt_id, status.handle) == status
    assert len(ecs.calls) - before <= 1


def test_outage_of_the_api_takes_no_gateway_that_answers(
    case: Case, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = new_request()
    status = case.start(request)
    monkeypatch.setattr("sessions.gateways.ecs_tasks.READY_PACE", (0.0,))
    for answer in (Answer.SERVER_ERROR, Answer.DENIED, Answer.EXPIRED, Answer.CLUSTER_GONE):
        ecs.will(answer, "DescribeTasks", times=3)
        assert case.driver.describe(request.attempt_id, status.handle) == status


def test_task_that_ecs_has_stopped_is_lost_though_its_address_answers(
    case: Case, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its address may be another gateway's by now."""
    request = new_request()
    status = case.start(request)
    monkeypatch.setattr(probe, "answers", lambda *args, **kwargs: None)
    monkeypatch.setattr("sessions.gateways.ecs_tasks.READY_PACE", (0.0,))
    with ecs.engine.lock:
        ecs.engine.stop(ecs.alive()[0], code="SpotInterruption", reason="Your Spot Task was interrupted.")
    lost = case.driver.describe(request.attempt_id, status.handle)
    assert lost.state == "stopped"
    assert "SpotInterruption" in lost.detail


def test_gateway_that_answers_is_lost_by_several_answers_that_do_not_know_its_task_and_not_by_one(
    case: Case, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer of ECS may be a stale one, and a look may be due while another thread asks."""
    request = new_request()
    status = case.start(request)
    tasks, later = case.driver._tasks, SimpleNamespace(s=0.0)  # type: ignore[attr-defined]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later.s)
    monkeypatch.setattr(ecs_tasks, "time", clock)

    def look(after_s: float) -> str:
        later.s += after_s
        return case.driver.describe(request.attempt_id, status.handle).state

    (task,) = ecs.alive()
    life, task.life = task.life, Life(lag_s=FOR_EVER)
    try:
        assert look(after_s=10) == "ready"
        with tasks._asking:
            assert look(after_s=31) == "ready", "it is still one answer"
        assert look(after_s=0) == "ready"
        assert look(after_s=10) == "stopped"
    finally:
        task.life = life


def test_dead_computer_is_told_from_a_dead_line(case: Case, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch) -> None:
    request = new_request()
    status = case.start(request)

    def hang(host: str, port: int, *, timeout_s: float) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(probe, "answers", hang)
    monkeypatch.setattr(ecs_probes, "_FRESH_S", 0.0)
    monkeypatch.setattr("sessions.gateways.ecs_tasks.AT_ONCE", (0.0,))
    with pytest.raises(GatewayError, match="The gateway does not answer") as caught:
        case.driver.describe(request.attempt_id, status.handle)
    assert not caught.value.permanent
    (task,) = ecs.alive()
    with ecs.engine.lock:
        task.shape["connectivity"] = "DISCONNECTED"
        ecs.engine._change(task)
    lost = case.driver.describe(request.attempt_id, status.handle)
    assert (lost.state, lost.detail) == ("failed", "The computer on which the gateway ran was lost.")


def test_computers_that_hang_are_asked_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    everyone_asks = threading.Barrier(8, timeout=LONG_S)

    def hang(host: str, port: int, *, timeout_s: float) -> None:
        everyone_asks.wait()
        raise TimeoutError("timed out")

    probes = ecs_probes.Probes()
    monkeypatch.setattr(probe, "answers", lambda host, port, *, timeout_s: None)
    for number in range(8):
        assert probes.look(f"127.65.0.{number}", 4822) is None
    monkeypatch.setattr(ecs_probes, "_FRESH_S", 0.0)
    monkeypatch.setattr(probe, "answers", hang)
    # Had they been asked one by one, the first would wait at the barrier in vain.
    assert isinstance(probes.look("127.65.0.0", 4822), TimeoutError)


def test_address_that_was_anothers_is_not_judged_by_what_that_one_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS gives addresses out again, and another thread may be asking just then."""
    answers: list[OSError] = [ConnectionRefusedError("the one before has ended")]
    clock = SimpleNamespace(at=1_000.0)

    def answer(*args: object, **kwargs: object) -> None:
        if answers:
            raise answers.pop()

    monkeypatch.setattr(probe, "answers", answer)
    monkeypatch.setattr(ecs_probes, "time", SimpleNamespace(monotonic=lambda: clock.at))
    probes = ecs_probes.Probes()
    assert isinstance(probes.look("127.65.0.0", 4822), ConnectionRefusedError)
    clock.at += 10
    lock, comes = probes._asking, threading.Event()

    def acquire(*, blocking: bool) -> bool:
        comes.set()
        return lock.acquire(blocking=blocking)

    monkeypatch.setattr(probes, "_asking", SimpleNamespace(acquire=acquire, release=lock.release))
    with ThreadPoolExecutor(1) as pool:
        with lock:
            look = pool.submit(probes.look, "127.65.0.0", 4822)
            assert comes.wait(LONG_S)
        assert look.result(LONG_S) is None
