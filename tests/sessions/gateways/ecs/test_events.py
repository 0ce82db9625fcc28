"""What the queue of events tells replaces looks; what it tells late, twice, wrongly or of others changes nothing."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from machines.aws import Aws
from sessions import gateway_rows
from sessions.gateways import base as gateways_base
from sessions.gateways.base import StillStopping, Watching
from sessions.gateways.ecs import EcsGateways
from sessions.models import Gateway
from sessions.states import GatewayState
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs, Life
from tests.sessions.gateways.conftest import Case, new_request
from tests.sessions.rescues import Clock, press
from tests.waiting import LONG_S, until

pytestmark = pytest.mark.real


class Listener:
    """A thread that listens, and what it was told."""

    def __init__(self, driver: EcsGateways) -> None:
        self.changed: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=driver.watch, args=(self._stop, self.changed.extend), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Nothing of it may hear what the next test has the queue say."""
        self._stop.set()
        self._thread.join(LONG_S)
        assert not self.is_alive

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()


@pytest.fixture
def ecs(fake_ecs: FakeEcs, shared_aws: Aws, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> FakeEcs:
    settings.ECS_EVENTS_QUEUE = fake_ecs.queue_url
    monkeypatch.setattr("sessions.gateways.ecs_events.Aws", lambda *args, **kwargs: shared_aws)
    monkeypatch.setattr("sessions.gateways.ecs_events._WAIT_S", 1)
    # Where events are heard, ECS itself is not asked while a test lasts.
    monkeypatch.setattr("sessions.gateways.ecs_tasks.STARTING_PACE_HEARING", (60.0,))
    monkeypatch.setattr("sessions.gateways.ecs_tasks.READY_PACE_HEARING", (60.0,))
    monkeypatch.setattr("sessions.gateways.ecs._STOP_LOOKS_S", ())
    return fake_ecs


@pytest.fixture
def driver(ecs: FakeEcs) -> EcsGateways:
    return EcsGateways()


@pytest.fixture
def listener(driver: EcsGateways) -> Iterator[Listener]:
    listener = Listener(driver)
    until(driver._events.is_hearing, what="the queue answers")
    yield listener
    listener.end()


def _event(ecs: FakeEcs, arn: str, *, version: int = 1_000, **detail: Any) -> str:
    task = {"taskArn": arn, "clusterArn": ecs.api.cluster_arn, "version": version, **detail}
    return json.dumps({"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": task})


def test_events_bring_a_gateway_from_its_start_to_its_end(
    driver: EcsGateways, ecs: FakeEcs, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.gateways.ecs_tasks.STARTING_PACE", (60.0,))
    ecs.lives(Life(stopping_s=FOR_EVER))
    case, request = Case(driver, lambda status: None, True), new_request()
    status = case.start(request)
    assert status.state == "ready"
    until(lambda: request.attempt_id in listener.changed, what="it is told")
    until(lambda: ecs.queue.waiting() == 0, what="all messages are taken")
    # Its first event may be here before the answer to the order is: then it is asked whose it is.
    assert ecs.names().count("DescribeTasks") <= 1
    listener.changed.clear()
    with pytest.raises(StillStopping):
        driver.stop(request.attempt_id, status.handle)
    until(lambda: request.attempt_id in listener.changed, what="it is told that it stops")
    (task,) = ecs.tasks()
    ecs.wait_for(lambda _: task.status == "STOPPING")
    ecs.finish(task)
    case.stop(request, status)
    assert ecs.names().count("DescribeTasks") <= 2
    until(lambda: ecs.queue.waiting() == 0, what="all messages are taken")


def test_attempt_of_a_task_that_another_process_started_is_found(
    driver: EcsGateways, ecs: FakeEcs, listener: Listener, settings: Settings
) -> None:
    mine, foreign = new_request(), new_request()
    EcsGateways().start(mine)
    settings.INSTALLATION = "another"
    EcsGateways().start(foreign)
    until(lambda: mine.attempt_id in listener.changed, what="the other process's attempt is told")
    until(lambda: ecs.queue.waiting() == 0, what="all messages are taken")
    assert foreign.attempt_id not in listener.changed


def test_late_event_does_not_undo_what_is_known(driver: EcsGateways, ecs: FakeEcs) -> None:
    case, request = Case(driver, lambda status: None, True), new_request()
    status = case.start(request)
    arn = str(status.handle["task"])
    late = _event(ecs, arn, version=1, lastStatus="STOPPED", desiredStatus="STOPPED")
    assert driver._events.take([late, late]) == []
    assert driver.describe(request.attempt_id, status.handle).state == "ready"
    newer = _event(ecs, arn, lastStatus="STOPPED", desiredStatus="STOPPED", stopCode="SpotInterruption")
    assert driver._events.take([newer, newer]) == [request.attempt_id]
    assert "SpotInterruption" in driver.describe(request.attempt_id, status.handle).detail


def test_silent_queue_is_not_waited_for(driver: EcsGateways, ecs: FakeEcs, listener: Listener) -> None:
    ecs.queue.is_silent = True
    case = Case(driver, lambda status: None, True)
    assert case.start(new_request()).state == "ready"
    assert driver._events.is_hearing()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no JSON",
        "[]",
        "null",
        '{"detail": []}',
        '{"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": {"clusterArn": "x/portafilter"}}',
        '{"source": "aws.ecs", "detail-type": "ECS Task State Change", "detail": {"clusterArn": "x/portafilter", '
        '"taskArn": "arn:aws:ecs:eu-west-1:123456789012:task/portafilter/none"}}',
        "[" * 200_000,
    ],
)
def test_message_that_is_no_event_is_logged_and_passed_over(
    driver: EcsGateways, ecs: FakeEcs, caplog: pytest.LogCaptureFixture, body: str
) -> None:
    case, request = Case(driver, lambda status: None, True), new_request()
    arn = str(case.start(request).handle["task"])
    assert driver._events.take([body, _event(ecs, arn, lastStatus="RUNNING")]) == [request.attempt_id]
    assert "is no event of ECS" in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"source": "aws.ec2"},
        {"detail-type": "ECS Container Instance State Change"},
        {"detail": {"clusterArn": "arn:aws:ecs:eu-west-1:123456789012:cluster/other"}},
    ],
)
def test_event_of_something_else_is_ignored(driver: EcsGateways, ecs: FakeEcs, change: dict[str, Any]) -> None:
    case, request = Case(driver, lambda status: None, True), new_request()
    arn = str(case.start(request).handle["task"])
    event = json.loads(_event(ecs, arn, lastStatus="STOPPED"))
    event["detail"] |= change.pop("detail", {})
    before = len(ecs.calls)
    assert driver._events.take([json.dumps(event | change)]) == []
    assert len(ecs.calls) == before


def test_poison_is_deleted(driver: EcsGateways, ecs: FakeEcs, listener: Listener) -> None:
    ecs.queue.put("poison")
    until(lambda: ecs.queue.waiting() == 0, what="it is gone")
    assert listener.is_alive


def test_queue_that_fails_leaves_looking_and_is_listened_to_again(
    ecs: FakeEcs, driver: EcsGateways, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sessions.gateways.ecs_events._MAX_BACK_OFF_S", 0.01)
    ecs.will(Answer.DENIED, "ReceiveMessage", times=5)
    listener = Listener(driver)
    try:
        until(lambda: "sqs:ReceiveMessage" in caplog.text, what="it is logged")
        assert Case(driver, lambda status: None, True).start(new_request()).state == "ready"
        until(driver._events.is_hearing, what="it is heard again")
    finally:
        listener.end()
    assert caplog.text.count("is not heard") == 1


def test_without_a_queue_nobody_listens(driver: EcsGateways, settings: Settings, ecs: FakeEcs) -> None:
    settings.ECS_EVENTS_QUEUE = ""
    driver.watch(threading.Event(), lambda attempts: None)
    assert "ReceiveMessage" not in ecs.names()


@pytest.mark.django_db
def test_news_make_a_waiting_row_due_and_no_other() -> None:
    clock = Clock()
    session = press(now=clock())
    rows = {
        state: Gateway.objects.create(
            fleet=session.fleet, driver="ecs", state=state, wanted_at=clock(), due_at=clock.tick(3600) or clock()
        )
        for state in (GatewayState.STARTING, GatewayState.STOPPING, GatewayState.WANTED)
    }
    before = {state: row.due_at for state, row in rows.items()}
    gateway_rows.hurry([*(str(row.pk) for row in rows.values()), str(uuid.uuid4()), "no-uuid"])
    for state, row in rows.items():
        row.refresh_from_db()
        assert (row.due_at < before[state]) == (state != GatewayState.WANTED)


def test_worker_listens_where_the_driver_does(ecs: FakeEcs, driver: EcsGateways) -> None:
    assert isinstance(driver, Watching)
    assert not isinstance(gateways_base.get_driver("local"), Watching)
