"""The end of a task: confirmed by ECS alone, also of one that only a sweep has found."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest
from pytest_django.fixtures import Settings

from sessions.gateways.base import GatewayError, GatewayStatus, StillStopping
from sessions.gateways.ecs import EcsGateways
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs, Life
from tests.sessions.gateways.conftest import Case, new_request
from tests.sessions.gateways.ecs.looking import Clock, called
from tests.waiting import until

pytestmark = pytest.mark.real


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_is_confirmed_by_stopped_alone(case: Case, ecs: FakeEcs) -> None:
    ecs.lives(Life(stopping_s=FOR_EVER))
    request = new_request()
    status = case.start(request)
    for _ in range(2):
        with pytest.raises(StillStopping):
            case.driver.stop(request.attempt_id, status.handle)
    assert len(called(ecs, "StopTask")) == 1
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
    ecs.lives(Life(lag_s=FOR_EVER))
    ecs.will(Answer.LOST, "RunTask", times=3)
    request = new_request()
    with pytest.raises(GatewayError):
        case.driver.start(request)
    with pytest.raises(StillStopping, match="not known yet"):
        case.driver.stop(request.attempt_id, {})
    (task,) = ecs.tasks()
    task.life = Life()
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


def test_one_answer_that_does_not_know_the_cluster_confirms_no_stop(case: Case, ecs: FakeEcs) -> None:
    request = new_request()
    status = case.start(request)
    ecs.will(Answer.CLUSTER_GONE, "StopTask")
    with pytest.raises(GatewayError, match="is not there") as caught:
        case.driver.stop(request.attempt_id, status.handle)
    assert "ECS_CLUSTER" in caught.value.record


def _task_of(cluster: str, *, region: str = "eu-west-1", account: str = "123456789012") -> dict[str, str | int]:
    return {"task": f"arn:aws:ecs:{region}:{account}:task/{cluster}/{'0a' * 16}", "at": 1_800_000_000}


def test_task_whose_very_cluster_was_deleted_has_stopped_with_it(driver: EcsGateways, ecs: FakeEcs) -> None:
    driver.stop(new_request().attempt_id, _task_of("former"))
    assert [call["cluster"] for call in called(ecs, "StopTask")] == ["former"]
    assert ecs.refused == [
        f"{name}: ClusterNotFoundException: Cluster not found." for name in ("StopTask", "DescribeTasks")
    ]
    ecs.refused.clear()


@pytest.mark.parametrize(
    "handle",
    [{}, _task_of("former", account="210987654321"), _task_of("former", region="eu-central-1")],
    ids=["none", "account", "region"],
)
def test_cluster_that_is_unknown_here_may_live_elsewhere(
    ecs: FakeEcs, settings: Settings, handle: dict[str, str | int]
) -> None:
    settings.ECS_CLUSTER = "another"
    with pytest.raises(GatewayError, match="is not there") as caught:
        EcsGateways().stop(new_request().attempt_id, handle)
    assert caught.value.permanent
    ecs.refused.clear()


def test_nothing_is_taken_for_stopped_while_aws_does_not_say_whose_cluster_that_is(
    driver: EcsGateways, ecs: FakeEcs, caplog: pytest.LogCaptureFixture
) -> None:
    ecs.will(Answer.LOST, "GetCallerIdentity", times=3)
    with pytest.raises(GatewayError):
        driver.stop(new_request().attempt_id, _task_of("former"))
    assert "has been deleted cannot be told: sts:GetCallerIdentity" in caplog.text
    driver.stop(new_request().attempt_id, _task_of("former"))
    ecs.refused.clear()


@pytest.mark.parametrize("cluster", ["another", "arn:aws:ecs:eu-west-1:210987654321:cluster/portafilter"])
def test_wrong_cluster_in_the_settings_keeps_nobody_from_stopping_a_task(
    case: Case, ecs: FakeEcs, settings: Settings, cluster: str
) -> None:
    request = new_request()
    status = case.start(request)
    settings.ECS_CLUSTER = cluster
    replace(case, driver=EcsGateways()).stop(request, status)
    assert ecs.alive() == []


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
    before = len(called(ecs, "ListTasks"))
    for attempt_id in attempts:
        with suppress(StillStopping):
            later.stop(attempt_id, {})
    assert len(called(ecs, "ListTasks")) == before
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
