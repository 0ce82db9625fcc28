"""An order to ECS: given once, whatever becomes of its answer, and refused in plain words."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from pytest_django.fixtures import Settings

from sessions.gateways.base import GatewayError
from sessions.gateways.ecs import EcsGateways
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs
from tests.sessions.gateways.conftest import Case, new_request
from tests.sessions.gateways.ecs.looking import called

pytestmark = pytest.mark.real


def test_order_says_whose_it_is_and_nothing_of_the_machine(case: Case, ecs: FakeEcs, settings: Settings) -> None:
    request = replace(new_request(), machine_address="127.64.9.9", machine_port=33891, fleet="north")
    case.start(request)
    (order,) = called(ecs, "RunTask")
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
    (order,) = called(ecs, "RunTask")
    assert order["startedBy"] == "warm-north_1"
    assert "portafilter:session" not in {tag["key"] for tag in order["tags"]}


def test_capacity_provider_takes_the_place_of_the_launch_type(settings: Settings, ecs: FakeEcs) -> None:
    settings.ECS_CAPACITY_PROVIDER = "portafilter-gateways"
    EcsGateways().start(new_request())
    (order,) = called(ecs, "RunTask")
    assert order["capacityProviderStrategy"] == [{"capacityProvider": "portafilter-gateways", "weight": 1}]
    assert "launchType" not in order


@pytest.mark.parametrize("answer", [Answer.LOST, Answer.FAILED_LATE, Answer.THROTTLED, Answer.SERVER_ERROR])
def test_order_without_an_answer_is_given_again_and_is_one_task(case: Case, ecs: FakeEcs, answer: Answer) -> None:
    ecs.will(answer, "RunTask", times=2)
    assert case.start(new_request()).state == "ready"
    assert len(ecs.tasks()) == 1
    assert len(called(ecs, "RunTask")) == 3


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ECS_CLUSTER", "another"),
        ("ECS_TASK_DEFINITION", "another"),
        ("ECS_SUBNETS", ["subnet-0a1b2c3d"]),
        ("ECS_SECURITY_GROUPS", ["sg-0a1b2c3d"]),
        ("ECS_CAPACITY_PROVIDER", "another"),
    ],
)
def test_setting_that_names_what_is_not_there_is_the_one_that_is_named(
    ecs: FakeEcs, settings: Settings, name: str, value: object
) -> None:
    setattr(settings, name, value)
    with pytest.raises(GatewayError) as caught:
        EcsGateways().start(new_request())
    assert caught.value.record.startswith(f"ecs:RunTask: {name} names what is not there in eu-west-1 (AWS_REGION): ")
    assert caught.value.permanent
    ecs.refused.clear()  # that AWS refuses it is what was wanted


@pytest.mark.parametrize("name", ["AWS_REGION", "ECS_CLUSTER", "ECS_TASK_DEFINITION", "ECS_SUBNETS"])
def test_setting_that_is_missing_is_named(ecs: FakeEcs, settings: Settings, name: str) -> None:
    setattr(settings, name, "")
    with pytest.raises(GatewayError, match=name) as caught:
        EcsGateways()
    assert caught.value.permanent
