"""While a task starts: it is waited for as long as it may take, and what goes wrong is said."""

from __future__ import annotations

import pytest
from pytest_django.fixtures import Settings

from sessions.gateways.base import GatewayError
from sessions.gateways.ecs import EcsGateways
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs, Life
from tests.sessions.gateways.conftest import Case, new_request
from tests.sessions.gateways.ecs.looking import Clock, called, look
from tests.waiting import until

pytestmark = pytest.mark.real


def test_new_task_that_is_not_shown_yet_is_starting(case: Case, ecs: FakeEcs) -> None:
    ecs.lives(Life(lag_s=FOR_EVER))
    request = new_request()
    status = case.driver.start(request)
    before = len(called(ecs, "DescribeTasks"))
    until(
        lambda: (
            case.driver.describe(request.attempt_id, status.handle).state != "starting"
            or len(called(ecs, "DescribeTasks")) > before
        ),
        what="it was looked for",
    )
    assert case.driver.describe(request.attempt_id, status.handle).state == "starting"
    (task,) = ecs.tasks()
    task.life = Life()
    assert case.start(request).state == "ready"


def test_task_that_stays_unknown_is_gone_after_half_a_minute(
    driver: EcsGateways, ecs: FakeEcs, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.gateways.ecs._APART_S", 0.1)
    request = new_request()
    arn = "arn:aws:ecs:eu-west-1:123456789012:task/portafilter/" + "0" * 32
    handle: dict[str, str | int] = {"task": arn, "at": int(clock.at)}
    clock.at += 29

    def is_looked_for_again() -> bool:
        assert driver.describe(request.attempt_id, handle).state == "starting"
        return len(called(ecs, "DescribeTasks")) >= 5

    until(is_looked_for_again, what="it was looked for again")
    clock.at += 2
    until(lambda: driver.describe(request.attempt_id, handle).state == "stopped", what="two answers say so")


def test_one_answer_that_does_not_know_an_old_task_may_be_stale(settings: Settings, ecs: FakeEcs, clock: Clock) -> None:
    settings.ECS_CAPACITY_PROVIDER = "portafilter-gateways"
    request = new_request()
    status = EcsGateways(now=clock).start(request)
    (task,) = ecs.alive()
    life, task.life = task.life, Life(lag_s=FOR_EVER)
    clock.at += 45
    other = EcsGateways(now=clock)
    assert look(other, request.attempt_id, status).state == "starting"
    task.life = life
    assert Case(other, lambda status: None, True).start(request).state == "ready"


def test_task_that_never_gets_ready_fails_in_time_with_words(driver: EcsGateways, ecs: FakeEcs, clock: Clock) -> None:
    ecs.lives(Life(pending_s=FOR_EVER))
    request = new_request()
    status = driver.start(request)
    until(lambda: "placed" in look(driver, request.attempt_id, status).handle, what="it is PENDING")
    status = look(driver, request.attempt_id, status)
    clock.at += 49
    assert look(driver, request.attempt_id, status).state == "starting"
    clock.at += 2
    failed = look(driver, request.attempt_id, status)
    assert (failed.state, failed.detail) == ("failed", "The gateway was not ready within 50 s.")
    assert "is PENDING" in failed.record


def test_time_counts_from_the_order_where_no_computer_is_waited_for(
    driver: EcsGateways, ecs: FakeEcs, clock: Clock
) -> None:
    ecs.lives(Life(pending_s=FOR_EVER))
    request = new_request()
    status = driver.start(request)
    clock.at += 20  # this worker had others to see to
    until(lambda: "placed" in look(driver, request.attempt_id, status).handle, what="it is PENDING")
    status = look(driver, request.attempt_id, status)
    clock.at += 31
    assert look(driver, request.attempt_id, status).state == "failed"


def test_waiting_for_another_computer_is_said_and_does_not_count(
    settings: Settings, ecs: FakeEcs, clock: Clock
) -> None:
    settings.ECS_CAPACITY_PROVIDER = "portafilter-gateways"
    ecs.make_room(0)
    driver, request = EcsGateways(now=clock), new_request()
    status = driver.start(request)
    assert (status.state, status.detail) == ("starting", "")
    clock.at += 200
    status = look(driver, request.attempt_id, status)
    assert status.state == "starting"
    assert status.detail.startswith("AWS has no room for another gateway yet.") and status.no_room
    ecs.make_room(10)
    case = Case(driver, lambda status: None, True)
    until(lambda: "placed" in look(driver, request.attempt_id, status).handle, what="it has a computer")
    assert case.start(request).state == "ready"


def test_task_that_never_got_a_computer_failed_for_want_of_room(settings: Settings, ecs: FakeEcs, clock: Clock) -> None:
    settings.ECS_CAPACITY_PROVIDER = "portafilter-gateways"
    ecs.make_room(0)
    driver, request = EcsGateways(now=clock), new_request()
    status = driver.start(request)
    clock.at += 601
    failed = look(driver, request.attempt_id, status)
    assert (failed.state, failed.no_room) == ("failed", True)
    assert "AWS found no computer for it in that time." in failed.detail


@pytest.mark.parametrize("restarted", [False, True])
def test_look_that_fails_does_not_end_the_wait_for_another_computer(
    settings: Settings, ecs: FakeEcs, clock: Clock, restarted: bool
) -> None:
    settings.ECS_CAPACITY_PROVIDER = "portafilter-gateways"
    ecs.make_room(0)
    driver, request = EcsGateways(now=clock), new_request()
    status = driver.start(request)
    clock.at += 90
    assert look(driver, request.attempt_id, status).no_room
    ecs.will(Answer.THROTTLED, "DescribeTasks", times=FOR_EVER)
    driver = EcsGateways(now=clock) if restarted else driver

    def was_refused() -> bool:
        found = look(driver, request.attempt_id, status)
        assert (found.state, found.no_room) == ("starting", not restarted)
        return any(call.code for call in ecs.calls)

    until(was_refused, what="a look has failed")
    assert was_refused()
    clock.at += 511
    failed = look(driver, request.attempt_id, status)
    assert failed.state == "failed" and "ThrottlingException" in failed.record


def test_task_that_could_not_start_says_why(driver: EcsGateways, ecs: FakeEcs) -> None:
    ecs.lives(Life(failure="CannotPullContainerError: pull image manifest has been retried 5 time(s): not found"))
    request = new_request()
    status = driver.start(request)
    until(lambda: look(driver, request.attempt_id, status).state != "starting", what="it has failed")
    failed = look(driver, request.attempt_id, status)
    assert failed.detail == "AWS could not fetch the gateway's image."
    assert "CannotPullContainerError" in failed.record and "TaskFailedToStart" in failed.record


def test_outage_of_the_api_fails_no_start_before_its_time(driver: EcsGateways, ecs: FakeEcs, clock: Clock) -> None:
    request = new_request()
    status = driver.start(request)
    ecs.will(Answer.SERVER_ERROR, "DescribeTasks", times=FOR_EVER)

    def is_asked() -> bool:
        assert look(driver, request.attempt_id, status).state == "starting"
        return len(called(ecs, "DescribeTasks")) >= 3

    until(is_asked, what="it was looked at in vain")
    assert look(driver, request.attempt_id, status).state == "starting"
    clock.at += 51
    failed = look(driver, request.attempt_id, status)
    assert failed.state == "failed"
    assert "ServerException" in failed.record


def test_permission_that_is_missing_for_looks_fails_a_start_for_good(driver: EcsGateways, ecs: FakeEcs) -> None:
    request = new_request()
    status = driver.start(request)
    ecs.will(Answer.DENIED, "DescribeTasks", times=FOR_EVER)
    with pytest.raises(GatewayError, match="does not allow") as caught:
        until(lambda: look(driver, request.attempt_id, status).state == "ready")
    assert caught.value.permanent and "ecs:DescribeTasks" in caught.value.record
