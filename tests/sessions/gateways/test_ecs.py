"""The driver for ECS against a fake one that is as strict: ordered once, looked at in batches, its end confirmed."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines.models import GatewayIdentity
from sessions.gateways import door, ecs_probes, ecs_tasks, probe
from sessions.gateways.base import GatewayError, GatewayStatus, Handle, StillStopping
from sessions.gateways.ecs import EcsGateways
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs, Life
from tests.sessions.gateways.conftest import Case, new_request, until

pytestmark = pytest.mark.real


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


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


def _called(ecs: FakeEcs, name: str) -> list[dict[str, Any]]:
    return [call.arguments for call in ecs.calls if call.name == name]


def _look(driver: EcsGateways, attempt_id: str, status: GatewayStatus) -> GatewayStatus:
    return driver.describe(attempt_id, status.handle)


# --- the order --------------------------------------------------------------------------------------------------------


def test_order_says_whose_it_is_and_nothing_of_the_machine(case: Case, ecs: FakeEcs, settings: Settings) -> None:
    request = replace(new_request(), machine_address="127.64.9.9", machine_port=33891, fleet="north")
    case.start(request)
    (order,) = _called(ecs, "RunTask")
    assert order["clientToken"] == request.attempt_id
    assert order["startedBy"] == request.session_id
    assert {tag["key"]: tag["value"] for tag in order["tags"]} == {
        "portafilter:installation": settings.INSTALLATION,
        "portafilter:attempt": request.attempt_id,
        "portafilter:session": request.session_id,
    }
    assert order["launchType"] == "EC2"
    assert "overrides" not in order
    assert not any("127.64.9.9" in repr(call.arguments) or "33891" in repr(call.arguments) for call in ecs.calls)


def test_warm_one_is_started_by_its_fleet_and_has_no_session(driver: EcsGateways, ecs: FakeEcs) -> None:
    driver.start(replace(new_request(), session_id="", fleet="north_1"))
    (order,) = _called(ecs, "RunTask")
    assert order["startedBy"] == "warm-north_1"
    assert "portafilter:session" not in {tag["key"] for tag in order["tags"]}


def test_capacity_provider_takes_the_place_of_the_launch_type(settings: Settings, ecs: FakeEcs) -> None:
    settings.ECS_CAPACITY_PROVIDER = "portafilter-gateways"
    EcsGateways().start(new_request())
    (order,) = _called(ecs, "RunTask")
    assert order["capacityProviderStrategy"] == [{"capacityProvider": "portafilter-gateways", "weight": 1}]
    assert "launchType" not in order


@pytest.mark.parametrize("answer", [Answer.LOST, Answer.FAILED_LATE, Answer.THROTTLED, Answer.SERVER_ERROR])
def test_order_without_an_answer_is_given_again_and_is_one_task(case: Case, ecs: FakeEcs, answer: Answer) -> None:
    ecs.will(answer, "RunTask", times=2)
    assert case.start(new_request()).state == "ready"
    assert len(ecs.tasks()) == 1
    assert len(_called(ecs, "RunTask")) == 3


def test_expired_credentials_are_read_anew(case: Case, ecs: FakeEcs) -> None:
    ecs.will(Answer.EXPIRED, "RunTask")
    assert case.start(new_request()).state == "ready"


def test_two_workers_that_start_one_attempt_get_one_task(case: Case, ecs: FakeEcs) -> None:
    request = new_request()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda one: one.start(request), (case, replace(case, driver=EcsGateways())))
    assert first.handle["task"] == second.handle["task"]
    assert len(ecs.tasks()) == 1


def test_order_that_was_given_with_other_settings_is_taken_over(case: Case, ecs: FakeEcs, settings: Settings) -> None:
    request = new_request()
    first = case.start(request)
    settings.ECS_TASK_DEFINITION = "portafilter-gateway:2"
    taken_over = replace(case, driver=EcsGateways()).start(request).handle
    assert taken_over["task"] == first.handle["task"] and "mark" not in taken_over
    ecs.refused.clear()  # ConflictException is what was wanted


def test_failures_in_a_good_answer_are_failures(driver: EcsGateways, ecs: FakeEcs) -> None:
    ecs.will(Answer.NO_CAPACITY, "RunTask")
    status = driver.start(new_request())
    assert status.state == "failed"
    assert status.detail == "No computer of this cluster has a network address left for a gateway (RESOURCE:ENI)." + (
        " A rescue that ends makes room; more computers do, too."
    )
    assert "RESOURCE:ENI" in status.record and "ecs:RunTask" in status.record
    assert status.no_room


def test_mark_changes_with_what_is_ordered_and_where_and_is_in_the_handle(case: Case, settings: Settings) -> None:
    driver = EcsGateways()
    case, first, request = replace(case, driver=driver), driver.mark(), new_request()
    status = case.start(request)
    assert {name: status.handle[name] for name in first} == first
    case.stop(request, status)
    marks = [first["mark"], EcsGateways().mark()["mark"]]
    assert marks[0] == marks[1]
    for name, value in [
        ("ECS_TASK_DEFINITION", "portafilter-gateway:2"), ("ECS_SUBNETS", ["subnet-1"]), ("ECS_CLUSTER", "another"),
        ("ECS_SECURITY_GROUPS", ["sg-1"]), ("ECS_NETWORK", "tunnel"), ("GATEWAY_VPN_REMOTE", "203.0.113.9"),
        ("ECS_CAPACITY_PROVIDER", "one"),
    ]:  # fmt: skip
        setattr(settings, name, value)
        marks.append(driver.mark()["mark"])
    assert len(set(marks)) == len(marks) - 1, marks


def test_answer_with_neither_task_nor_failure_is_a_failure(driver: EcsGateways, ecs: FakeEcs) -> None:
    ecs.will(Answer.NOTHING, "RunTask")
    status = driver.start(new_request())
    assert (status.state, status.detail) == ("failed", "AWS started no gateway and did not say why.")


@pytest.mark.parametrize("name", ["DescribeTasks", "ListTasks"])
def test_what_is_no_answer_of_aws_does_not_read_as_nothing_there(case: Case, ecs: FakeEcs, name: str) -> None:
    request = new_request()
    status = case.start(request)
    ecs.will(Answer.BROKEN, name, times=FOR_EVER)
    with pytest.raises(GatewayError) as caught:
        case.driver.stop(request.attempt_id, {})
    assert "AWS_ENDPOINT_URL" in caught.value.record
    assert case.driver.describe(request.attempt_id, status.handle) == status


@pytest.mark.parametrize(
    ("answer", "permanent", "detail", "record"),
    [
        (Answer.DENIED, True, "does not allow", "ecs:RunTask"),
        (Answer.CLUSTER_GONE, True, "is not there", "ECS_CLUSTER"),
        (Answer.UNKNOWN_CREDENTIALS, True, "does not know who", "credentials"),
        (Answer.EXPIRED, False, "no longer knows", "expired"),
        (Answer.THROTTLED, False, "no more orders", "ThrottlingException"),
        (Answer.NO_INSTANCES, False, "no computer", "ecs:RunTask"),
    ],
)
def test_refusal_is_plain_for_operators_and_exact_in_the_record(
    driver: EcsGateways, ecs: FakeEcs, answer: Answer, permanent: bool, detail: str, record: str
) -> None:
    ecs.will(answer, "RunTask", times=3)
    with pytest.raises(GatewayError, match=detail) as caught:
        driver.start(new_request())
    assert caught.value.permanent == permanent
    assert record in caught.value.record
    assert not any(word in str(caught.value) for word in ("ecs:", "arn:", "Exception", "credentials", "123456789012"))
    assert "123456789012" not in caught.value.record


# --- while it starts --------------------------------------------------------------------------------------------------


def test_new_task_that_is_not_shown_yet_is_starting(case: Case, ecs: FakeEcs) -> None:
    ecs.lives(Life(lag_s=0.5))
    request = new_request()
    status = case.driver.start(request)
    before = len(_called(ecs, "DescribeTasks"))
    until(
        lambda: (
            case.driver.describe(request.attempt_id, status.handle).state != "starting"
            or len(_called(ecs, "DescribeTasks")) > before
        ),
        what="it was looked for",
    )
    assert case.driver.describe(request.attempt_id, status.handle).state == "starting"
    assert case.start(request).state == "ready"


def test_task_that_stays_unknown_is_gone_after_half_a_minute(driver: EcsGateways, ecs: FakeEcs, clock: Clock) -> None:
    request = new_request()
    arn = "arn:aws:ecs:eu-west-1:123456789012:task/portafilter/" + "0" * 32
    handle: dict[str, str | int] = {"task": arn, "at": int(clock.at)}
    assert driver.describe(request.attempt_id, handle).state == "starting"
    clock.at += 31
    assert driver.describe(request.attempt_id, handle).state == "stopped"


def test_task_that_never_gets_ready_fails_in_time_with_words(driver: EcsGateways, ecs: FakeEcs, clock: Clock) -> None:
    ecs.lives(Life(pending_s=FOR_EVER))
    request = new_request()
    status = driver.start(request)
    until(lambda: "placed" in _look(driver, request.attempt_id, status).handle, what="it is PENDING")
    status = _look(driver, request.attempt_id, status)
    clock.at += 49
    assert _look(driver, request.attempt_id, status).state == "starting"
    clock.at += 2
    failed = _look(driver, request.attempt_id, status)
    assert (failed.state, failed.detail) == ("failed", "The gateway was not ready within 50 s.")
    assert "is PENDING" in failed.record


def test_time_counts_from_the_order_where_no_computer_is_waited_for(
    driver: EcsGateways, ecs: FakeEcs, clock: Clock
) -> None:
    ecs.lives(Life(pending_s=FOR_EVER))
    request = new_request()
    status = driver.start(request)
    clock.at += 20  # this worker had others to see to
    until(lambda: "placed" in _look(driver, request.attempt_id, status).handle, what="it is PENDING")
    status = _look(driver, request.attempt_id, status)
    clock.at += 31
    assert _look(driver, request.attempt_id, status).state == "failed"


def test_waiting_for_another_computer_is_said_and_does_not_count(
    settings: Settings, ecs: FakeEcs, clock: Clock
) -> None:
    settings.ECS_CAPACITY_PROVIDER = "portafilter-gateways"
    ecs.make_room(0)
    driver, request = EcsGateways(now=clock), new_request()
    status = driver.start(request)
    assert (status.state, status.detail) == ("starting", "")
    clock.at += 200
    status = _look(driver, request.attempt_id, status)
    assert status.state == "starting"
    assert status.detail.startswith("AWS is starting another computer") and status.no_room
    ecs.make_room(10)
    case = Case(driver, lambda status: None, True)
    until(lambda: "placed" in _look(driver, request.attempt_id, status).handle, what="it has a computer")
    assert case.start(request).state == "ready"


def test_task_that_could_not_start_says_why(driver: EcsGateways, ecs: FakeEcs) -> None:
    ecs.lives(Life(failure="CannotPullContainerError: pull image manifest has been retried 5 time(s): not found"))
    request = new_request()
    status = driver.start(request)
    until(lambda: _look(driver, request.attempt_id, status).state != "starting", what="it has failed")
    failed = _look(driver, request.attempt_id, status)
    assert failed.detail == "AWS could not fetch the gateway's image."
    assert "CannotPullContainerError" in failed.record and "TaskFailedToStart" in failed.record


def test_outage_of_the_api_fails_no_start_before_its_time(driver: EcsGateways, ecs: FakeEcs, clock: Clock) -> None:
    request = new_request()
    status = driver.start(request)
    ecs.will(Answer.SERVER_ERROR, "DescribeTasks", times=FOR_EVER)

    def is_asked() -> bool:
        assert _look(driver, request.attempt_id, status).state == "starting"
        return len(_called(ecs, "DescribeTasks")) >= 3

    until(is_asked, what="it was looked at in vain")
    assert _look(driver, request.attempt_id, status).state == "starting"
    clock.at += 51
    failed = _look(driver, request.attempt_id, status)
    assert failed.state == "failed"
    assert "ServerException" in failed.record


def test_permission_that_is_missing_for_looks_fails_a_start_for_good(driver: EcsGateways, ecs: FakeEcs) -> None:
    request = new_request()
    status = driver.start(request)
    ecs.will(Answer.DENIED, "DescribeTasks", times=FOR_EVER)
    with pytest.raises(GatewayError, match="does not allow") as caught:
        until(lambda: _look(driver, request.attempt_id, status).state == "ready")
    assert caught.value.permanent and "ecs:DescribeTasks" in caught.value.record


# --- while it is there ------------------------------------------------------------------------------------------------


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
    before = len(_called(ecs, "DescribeTasks"))
    later = time.monotonic() + 60
    monkeypatch.setattr("sessions.gateways.ecs_tasks.time", SimpleNamespace(monotonic=lambda: later))
    for request, status in zip(requests, ready, strict=True):
        assert case.driver.describe(request.attempt_id, status.handle) == status
    (look,) = _called(ecs, "DescribeTasks")[before:]
    assert len(look["tasks"]) == 5


def test_task_of_a_cluster_that_was_left_harms_no_other(case: Case, ecs: FakeEcs, settings: Settings) -> None:
    """ECS refuses a whole DescribeTasks for one task of another cluster."""
    old = f"arn:aws:ecs:{ecs.region}:123456789012:task/former/{'0a' * 16}"
    now = int(case.driver._now())  # type: ignore[attr-defined]
    stray = str(uuid.uuid4())
    starting: Handle = {"task": old, "at": now}
    for handle in (starting, {**starting, "address": "127.65.255.1", "ready": now}):
        with pytest.raises(GatewayError):
            case.driver.describe(stray, handle)
    request = new_request()
    status = case.start(request)
    assert status.state == "ready"
    case.stop(request, status)
    assert {call["cluster"] for call in _called(ecs, "DescribeTasks") if old in call["tasks"]} == {"former"}
    with pytest.raises(GatewayError):
        case.driver.stop(stray, starting)
    assert _called(ecs, "StopTask")[-1]["cluster"] == "former"
    assert all(said.endswith("Cluster not found.") for said in ecs.refused)
    ecs.refused.clear()


def test_ready_ones_are_seldom_asked_about(case: Case, ecs: FakeEcs) -> None:
    request = new_request()
    status = case.start(request)
    before = len(ecs.calls)
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
    everyone_asks = threading.Barrier(8, timeout=5)

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
    with ThreadPoolExecutor(1) as pool:
        with probes._asking:
            look = pool.submit(probes.look, "127.65.0.0", 4822)
            time.sleep(0.05)
        assert look.result(5) is None


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_is_confirmed_by_stopped_alone(case: Case, ecs: FakeEcs) -> None:
    ecs.lives(Life(stopping_s=FOR_EVER))
    request = new_request()
    status = case.start(request)
    for _ in range(2):
        with pytest.raises(StillStopping):
            case.driver.stop(request.attempt_id, status.handle)
    assert len(_called(ecs, "StopTask")) == 1
    assert ecs.alive() == []


def test_refused_stop_is_an_error_and_stops_later(case: Case, ecs: FakeEcs) -> None:
    ecs.lives(Life(stops_refused=3))
    request = new_request()
    status = case.start(request)
    with pytest.raises(GatewayError, match="fault of its own") as caught:
        case.driver.stop(request.attempt_id, status.handle)
    assert not caught.value.permanent and not isinstance(caught.value, StillStopping)
    case.stop(request, status)
    assert ecs.alive() == []


def test_task_without_a_handle_is_found_by_its_tags(case: Case, ecs: FakeEcs) -> None:
    request, other = new_request(), new_request()
    kept = case.start(other)
    status = case.start(request)
    case.stop(request, replace(status, handle={}))
    assert [task.arn for task in ecs.alive()] == [kept.handle["task"]]


def test_order_whose_answer_was_lost_is_not_taken_for_none(
    case: Case, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ListTasks shows it late; nobody may say before that there is nothing to stop."""
    monkeypatch.setattr("sessions.gateways.ecs._SEARCH_EVERY_S", 0.0)
    ecs.lives(Life(lag_s=0.5))
    ecs.will(Answer.LOST, "RunTask", times=3)
    request = new_request()
    with pytest.raises(GatewayError):
        case.driver.start(request)
    with pytest.raises(StillStopping, match="not known yet"):
        case.driver.stop(request.attempt_id, {})
    case.stop(request, GatewayStatus("stopped"))
    assert ecs.alive() == [] and len(ecs.tasks()) == 1


def test_order_that_came_to_nothing_is_not_waited_for_for_ever(
    driver: EcsGateways, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ecs.will(Answer.SERVER_ERROR, "RunTask", times=3)
    request = new_request()
    with pytest.raises(GatewayError):
        driver.start(request)
    with pytest.raises(StillStopping):
        driver.stop(request.attempt_id, {})
    monkeypatch.setattr("sessions.gateways.ecs._UNANSWERED_S", 0)
    driver.stop(request.attempt_id, {})


def test_refused_order_needs_no_waiting(driver: EcsGateways, ecs: FakeEcs) -> None:
    ecs.will(Answer.DENIED, "RunTask")
    request = new_request()
    with pytest.raises(GatewayError):
        driver.start(request)
    driver.stop(request.attempt_id, {})


def test_task_that_ecs_has_forgotten_is_stopped(driver: EcsGateways, ecs: FakeEcs, clock: Clock) -> None:
    request = new_request()
    arn = "arn:aws:ecs:eu-west-1:123456789012:task/portafilter/" + "0" * 32
    handle: dict[str, str | int] = {"task": arn, "at": int(clock.at)}
    with pytest.raises(StillStopping):  # it may be too new to be known
        driver.stop(request.attempt_id, handle)
    clock.at += 31
    driver.stop(request.attempt_id, handle)
    ecs.refused.clear()  # StopTask of a task that there is not is what was wanted


def test_right_to_stop_what_has_our_tag_is_enough(case: Case, ecs: FakeEcs, clock: Clock) -> None:
    """A task that ECS has forgotten has no tags, so AWS refuses to stop it, and it is gone all the same."""
    ecs.will(Answer.DENIED, "StopTask", times=2)
    arn = "arn:aws:ecs:eu-west-1:123456789012:task/portafilter/" + "0" * 32
    case.driver.stop(new_request().attempt_id, {"task": arn, "at": int(clock.at) - 4000})
    request = new_request()
    status = case.start(request)
    with pytest.raises(GatewayError, match="does not allow") as caught:
        case.driver.stop(request.attempt_id, status.handle)
    assert "ecs:StopTask" in caught.value.record


def test_deleted_cluster_confirms_no_stop(case: Case, ecs: FakeEcs) -> None:
    request = new_request()
    status = case.start(request)
    ecs.will(Answer.CLUSTER_GONE, "StopTask")
    with pytest.raises(GatewayError, match="is not there") as caught:
        case.driver.stop(request.attempt_id, status.handle)
    assert "ECS_CLUSTER" in caught.value.record


# --- the sweep --------------------------------------------------------------------------------------------------------


def test_sweep_reads_all_pages_and_leaves_others_alone(case: Case, ecs: FakeEcs, settings: Settings) -> None:
    ecs.api.page_size = 2
    try:
        mine = [new_request() for _ in range(5)]
        for request in mine:
            case.driver.start(request)
        settings.INSTALLATION = "another"
        EcsGateways().start(new_request())
        assert case.driver.running() == sorted(request.attempt_id for request in mine)
    finally:
        ecs.api.page_size = 100


def test_leftovers_that_a_sweep_has_found_are_not_searched_for_once_more(
    driver: EcsGateways, ecs: FakeEcs, settings: Settings
) -> None:
    """Else each of many costs a list of all, and the last lives for minutes."""
    requests = [new_request() for _ in range(4)]
    for request in requests:
        driver.start(request)
    later = EcsGateways()
    attempts = later.running()
    assert attempts == sorted(request.attempt_id for request in requests)
    before = len(_called(ecs, "ListTasks"))
    for attempt_id in attempts:
        with suppress(StillStopping):
            later.stop(attempt_id, {})
    assert len(_called(ecs, "ListTasks")) == before
    until(lambda: later.running() == [], what="all are stopped")


def test_task_that_is_stopping_is_swept_no_more(case: Case, ecs: FakeEcs) -> None:
    ecs.lives(Life(stopping_s=FOR_EVER))
    request = new_request()
    status = case.start(request)
    with pytest.raises(StillStopping):
        case.driver.stop(request.attempt_id, status.handle)
    assert case.driver.running() == []


def test_installation_that_cannot_be_a_tag_is_known_by_its_digest(settings: Settings, ecs: FakeEcs) -> None:
    settings.INSTALLATION = "/srv/café;1"
    driver, request = EcsGateways(), new_request()
    driver.start(request)
    assert driver.running() == [request.attempt_id]


def test_sweep_that_is_refused_says_so(driver: EcsGateways, ecs: FakeEcs) -> None:
    ecs.will(Answer.DENIED, "ListTasks")
    with pytest.raises(GatewayError) as caught:
        driver.running()
    assert "ecs:ListTasks" in caught.value.record


# --- in the VPN -------------------------------------------------------------------------------------------------------


def test_gateway_is_ready_once_it_has_joined_and_leaves_when_it_is_stopped(
    case: Case, ecs: FakeEcs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ECS_NETWORK = "tunnel"
    asked: list[tuple[str, int, str]] = []
    left: list[str] = []

    def join(host: str, port: int, attempt_id: str, *, timeout_s: float) -> str:
        asked.append((host, port, attempt_id))
        if len(asked) < 3:
            raise GatewayError("It is not in the VPN yet.")
        return "10.77.0.9"

    monkeypatch.setattr(door, "join", join)
    monkeypatch.setattr(door, "leave", left.append)
    request = new_request()
    status = case.start(request)
    assert status.handle["vpn_address"] == "10.77.0.9"
    assert asked == [(status.host, 4823, request.attempt_id)] * 3
    assert left == []
    case.stop(request, status)
    assert set(left) == {request.attempt_id}


@pytest.mark.django_db
def test_gateway_that_stays_out_of_the_vpn_is_given_up(
    case: Case, ecs: FakeEcs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that was ready before the VPN's server moved: guacd answers, and reaches no machine any more."""
    settings.ECS_NETWORK = "tunnel"
    monkeypatch.setattr(door, "join", lambda *_, **__: "10.77.0.9")
    request = new_request()
    status = case.start(request)
    now = timezone.now()
    row = GatewayIdentity.objects.create(
        attempt_id=request.attempt_id, address="10.77.0.9", key_sha256="k", serial="1", sha256="c", certificate="x",
        expires_at=now + timedelta(days=1), connected_at=now, left_at=now - timedelta(minutes=1),
    )  # fmt: skip
    assert case.driver.describe(request.attempt_id, status.handle).state == "ready"
    GatewayIdentity.objects.filter(pk=row.pk).update(left_at=now - timedelta(minutes=6))
    lost = case.driver.describe(request.attempt_id, status.handle)
    assert (lost.state, lost.detail) == ("failed", "The gateway has lost the VPN.")
    case.stop(request, status)


def test_gateway_that_may_never_join_fails(
    case: Case, ecs: FakeEcs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ECS_NETWORK = "tunnel"

    def refuse(*args: object, **kwargs: object) -> str:
        raise GatewayError("It has a certificate that is not ours.", permanent=True)

    monkeypatch.setattr(door, "join", refuse)
    failed = case.start(new_request())
    assert (failed.state, failed.detail) == ("failed", "The gateway could not join the VPN.")
    assert "not ours" in failed.record


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AWS_REGION", "ECS_CLUSTER", "ECS_TASK_DEFINITION", "ECS_SUBNETS"])
def test_setting_that_is_missing_is_named(ecs: FakeEcs, settings: Settings, name: str) -> None:
    setattr(settings, name, "")
    with pytest.raises(GatewayError, match=name) as caught:
        EcsGateways()
    assert caught.value.permanent
