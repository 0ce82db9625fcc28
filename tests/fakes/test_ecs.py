"""The fake ECS is as strict as AWS, its tasks really run, and nothing of it outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from sessions.gateways import processes
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs, Life
from tests.fakes.ecs import calls as ecs_calls
from tests.waiting import LONG_S, until

ROOT = Path(__file__).resolve().parents[2]
NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-0a1b2c3d4e5f60001"], "securityGroups": ["sg-0a1b2c3d4e5f60001"]}}
RUN: dict[str, Any] = {
    "cluster": "portafilter",
    "taskDefinition": "portafilter-gateway",
    "networkConfiguration": NETWORK,
    "clientToken": "attempt-1",
    "startedBy": "session-1",
    "tags": [{"key": "portafilter:attempt", "value": "1"}],
}


def client(ecs: FakeEcs, service: str = "ecs", *, secret: str = "", region: str = "eu-west-1") -> Any:
    """What speaks to the fake as boto3 would to AWS, and tries once."""
    key, known = next(iter(ecs.secrets.items()))
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=LONG_S, read_timeout=LONG_S)
    return boto3.client(
        service, region_name=region, endpoint_url=ecs.url, config=config,
        aws_access_key_id=key, aws_secret_access_key=secret or known,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shared() -> Iterator[FakeEcs]:
    with FakeEcs() as ecs:
        yield ecs


@pytest.fixture
def ecs(shared: FakeEcs) -> Iterator[FakeEcs]:
    """The fake as new: what others have started is no more."""
    yield shared
    shared.clear()


def statuses(ecs: FakeEcs, arn: str) -> list[str]:
    (task,) = [one for one in ecs.tasks() if one.arn == arn]
    return [shape["lastStatus"] for _, shape in task.history]


def described(api: Any, arn: str) -> dict[str, Any]:
    answer = api.describe_tasks(cluster="portafilter", tasks=[arn], include=["TAGS"])
    return dict((answer["tasks"] or answer["failures"])[0])


def test_task_comes_up_with_a_guacd_and_goes_with_it(ecs: FakeEcs) -> None:
    api = client(ecs)
    task = api.run_task(**RUN)["tasks"][0]
    assert (task["lastStatus"], task["desiredStatus"]) == ("PROVISIONING", "RUNNING")
    ecs.wait_for(lambda _: described(api, task["taskArn"])["lastStatus"] == "RUNNING")
    shown = described(api, task["taskArn"])
    (address,) = [one["value"] for one in shown["attachments"][0]["details"] if one["name"] == "privateIPv4Address"]
    assert shown["tags"] == RUN["tags"] and shown["startedBy"] == "session-1"

    def says() -> bytes:
        try:
            with socket.create_connection((address, 4822), timeout=LONG_S) as sock:
                sock.sendall(b"6.select,3.rdp;")
                return sock.recv(6)
        except ConnectionRefusedError:
            return b""

    ecs.wait_for(lambda _: says() == b"4.args", what="guacd answers")
    assert processes.find(PORTAFILTER_FAKE_TASK=task["taskArn"]) != []
    assert api.list_tasks(cluster="portafilter", startedBy="session-1")["taskArns"] == [task["taskArn"]]
    api.stop_task(cluster="portafilter", task=task["taskArn"], reason="over")
    assert api.list_tasks(cluster="portafilter", startedBy="session-1")["taskArns"] == []
    ecs.wait_for(lambda _: described(api, task["taskArn"])["lastStatus"] == "STOPPED")
    assert described(api, task["taskArn"])["stopCode"] == "UserInitiated"
    assert processes.find(PORTAFILTER_FAKE_TASK=task["taskArn"]) == []
    gone = ["PROVISIONING", "PENDING", "RUNNING", "DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"]
    assert list(dict.fromkeys(statuses(ecs, task["taskArn"]))) == gone


def test_token_means_one_task(ecs: FakeEcs) -> None:
    api = client(ecs)
    first = api.run_task(**RUN)["tasks"][0]["taskArn"]
    assert api.run_task(**RUN)["tasks"][0]["taskArn"] == first
    with pytest.raises(ClientError) as caught:
        api.run_task(**{**RUN, "startedBy": "session-2"})
    assert caught.value.response["Error"]["Code"] == "ConflictException"
    assert caught.value.response["resourceIds"] == [first]
    assert len(ecs.tasks()) == 1


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"cluster": "default"}, "ClusterNotFoundException"),
        ({"taskDefinition": "portafilter-gateway:99"}, "ClientException"),
        ({"clientToken": "x" * 65}, "InvalidParameterException"),
        ({"clientToken": "a token"}, "InvalidParameterException"),
        ({"startedBy": "session:1"}, "InvalidParameterException"),
        ({"count": 11}, "InvalidParameterException"),
        ({"launchType": "FARGATE"}, "InvalidParameterException"),
        ({"launchType": "EC3"}, "InvalidParameterException"),
        ({"networkConfiguration": {}}, "InvalidParameterException"),
        ({"tags": [{"key": "aws:mine", "value": ""}]}, "InvalidParameterException"),
        ({"tags": [{"key": "one", "value": "?"}]}, "InvalidParameterException"),
        (
            {"launchType": "EC2", "capacityProviderStrategy": [{"capacityProvider": "portafilter-gateways"}]},
            "InvalidParameterException",
        ),
    ],
)
def test_what_aws_refuses_is_refused(ecs: FakeEcs, wrong: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError) as caught:
        client(ecs).run_task(**{**RUN, **wrong})
    assert caught.value.response["Error"]["Code"] == code
    assert ecs.tasks() == [] and len(ecs.refused) == 1


def test_other_calls_have_rules_too(ecs: FakeEcs) -> None:
    api, queue = client(ecs), client(ecs, "sqs")
    calls: list[tuple[Any, dict[str, Any]]] = [
        (api.describe_tasks, {"cluster": "portafilter", "tasks": []}),
        (api.describe_tasks, {"cluster": "portafilter", "tasks": ["0" * 32] * 101}),
        (api.list_tasks, {"cluster": "portafilter", "startedBy": "s", "family": "portafilter-gateway"}),
        (api.list_tasks, {"cluster": "portafilter", "nextToken": "nonsense"}),
        (api.stop_task, {"cluster": "portafilter", "task": "0" * 32}),
        (queue.receive_message, {"QueueUrl": ecs.queue_url, "MaxNumberOfMessages": 11}),
        (queue.receive_message, {"QueueUrl": f"{ecs.queue_url}x"}),
    ]
    for call, arguments in calls:
        with pytest.raises(ClientError):
            call(**arguments)
    answer = api.describe_tasks(cluster="portafilter", tasks=["0" * 32])
    assert answer["failures"][0]["reason"] == "MISSING"


def test_only_who_signs_for_the_region_of_the_cluster_gets_in(ecs: FakeEcs) -> None:
    for api, code in (
        (client(ecs, secret="guessed"), "InvalidSignatureException"),
        (client(ecs, region="us-east-1"), "ClusterNotFoundException"),
    ):
        with pytest.raises(ClientError) as caught:
            api.list_tasks(cluster="portafilter")
        assert caught.value.response["Error"]["Code"] == code
    known = dict(ecs.secrets)
    api = client(ecs)
    try:
        ecs.secrets.clear()
        with pytest.raises(ClientError, match="UnrecognizedClientException"):
            api.list_tasks(cluster="portafilter")
    finally:
        ecs.secrets.update(known)


def test_calls_get_the_answers_that_were_chosen(ecs: FakeEcs) -> None:
    api = client(ecs)
    ecs.will(Answer.THROTTLED, "RunTask")
    ecs.will(Answer.NO_CAPACITY, "RunTask", of="session-1")
    ecs.will(Answer.NOTHING, "RunTask")
    with pytest.raises(ClientError, match="Rate exceeded"):
        api.run_task(**RUN)
    assert api.run_task(**RUN)["failures"][0]["reason"] == "RESOURCE:ENI"
    empty = api.run_task(**RUN)
    assert (empty["tasks"], empty["failures"], ecs.tasks()) == ([], [], [])
    ecs.will(Answer.LOST, "RunTask")
    with pytest.raises(ConnectionClosedError):
        api.run_task(**RUN)
    assert len(ecs.tasks()) == 1
    ecs.will(Answer.DENIED, "*", times=FOR_EVER)
    with pytest.raises(ClientError, match="not authorized to perform: ecs:ListTasks"):
        api.list_tasks(cluster="portafilter")


def test_full_cluster_fails_a_launch_and_lets_a_provider_wait(ecs: FakeEcs) -> None:
    ecs.make_room(0)
    api = client(ecs)
    assert api.run_task(**{**RUN, "launchType": "EC2"})["failures"] != []
    strategy = [{"capacityProvider": "portafilter-gateways"}]
    arn = api.run_task(**RUN, capacityProviderStrategy=strategy)["tasks"][0]["taskArn"]
    assert described(api, arn)["lastStatus"] == "PROVISIONING"
    assert [one["name"] for one in described(api, arn)["attachments"][0]["details"]] == ["subnetId"]
    ecs.make_room(1)
    ecs.wait_for(lambda _: described(api, arn)["lastStatus"] == "RUNNING")


def test_lives_differ_and_the_api_may_lag(ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch) -> None:
    api = client(ecs)
    ecs.lives(Life(failure="CannotPullContainerError: no such image"))
    ecs.lives(Life(runs_s=0.05, lag_s=0.3))
    failing, lagging = (api.run_task(**RUN | {"clientToken": token})["tasks"][0]["taskArn"] for token in "ab")
    ecs.wait_for(lambda _: described(api, failing)["lastStatus"] == "STOPPED")
    assert described(api, failing)["stopCode"] == "TaskFailedToStart"
    ecs.wait_for(lambda _: statuses(ecs, lagging)[-1] == "STOPPED")
    (task,) = [one for one in ecs.tasks() if one.arn == lagging]
    began_at, stopped_at = task.history[0][0], task.history[-1][0]
    clock = SimpleNamespace(at=began_at)
    monkeypatch.setattr(ecs_calls, "time", SimpleNamespace(monotonic=lambda: clock.at))
    clock.at = began_at + 0.29
    assert described(api, lagging)["reason"] == "MISSING"
    clock.at = stopped_at + 0.29
    assert described(api, lagging)["lastStatus"] != "STOPPED"
    clock.at = stopped_at + 0.31
    assert described(api, lagging)["stopCode"] == "EssentialContainerExited"


def test_every_change_is_an_event_until_it_is_deleted(ecs: FakeEcs) -> None:
    queue = client(ecs, "sqs")
    ecs.queue.visibility_s = 0.05
    arn = client(ecs).run_task(**RUN)["tasks"][0]["taskArn"]
    ecs.wait_for(lambda _: statuses(ecs, arn)[-1] == "RUNNING")
    seen: dict[int, str] = {}
    while "RUNNING" not in seen.values():
        answer = queue.receive_message(QueueUrl=ecs.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=5)
        for message in answer["Messages"]:
            event = json.loads(message["Body"])
            if event["detail"]["taskArn"] == arn:
                assert (event["source"], event["detail-type"]) == ("aws.ecs", "ECS Task State Change")
                seen[event["detail"]["version"]] = event["detail"]["lastStatus"]
    assert [seen[version] for version in sorted(seen)] == ["PROVISIONING", "PENDING", "RUNNING"]
    ecs.wait_for(lambda _: "Messages" in queue.receive_message(QueueUrl=ecs.queue_url), what="they come again")
    while ecs.queue.waiting():
        messages = queue.receive_message(QueueUrl=ecs.queue_url, MaxNumberOfMessages=10).get("Messages", [])
        entries = [{"Id": str(number), **_receipt(one)} for number, one in enumerate(messages)]
        if entries:
            queue.delete_message_batch(QueueUrl=ecs.queue_url, Entries=entries)


def _receipt(message: dict[str, Any]) -> dict[str, str]:
    return {"ReceiptHandle": message["ReceiptHandle"]}


@pytest.mark.parametrize(("when", "there"), [("before", 0), ("after", 1)])
def test_who_calls_is_killed_before_or_after_its_request_has_an_effect(ecs: FakeEcs, when: str, there: int) -> None:
    child = os.fork()
    if not child:
        signal.pause()
    ecs.kill(child, before=2 if when == "before" else 0, after=2 if when == "after" else 0)
    api = client(ecs)
    api.list_tasks(cluster="portafilter")
    assert os.waitpid(child, os.WNOHANG)[0] == 0
    with pytest.raises(ConnectionClosedError) if when == "before" else contextlib.nullcontext():
        api.run_task(**RUN)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(ecs.tasks()) == there


def test_request_whose_sender_dies_in_the_middle_is_none(ecs: FakeEcs) -> None:
    with socket.create_connection(("127.0.0.1", ecs.port), timeout=LONG_S) as sender:
        target = b"X-Amz-Target: AmazonEC2ContainerServiceV20141113.ListTasks\r\n"
        sender.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + target + b"Content-Length: 20\r\n\r\n{")
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(1000) == b""
    assert (ecs.refused, ecs.calls) == ([], [])


def connected(address: str) -> socket.socket | None:
    """A connection to the guacd there; None as long as it does not listen."""
    try:
        return socket.create_connection((address, 4822), timeout=LONG_S)
    except ConnectionRefusedError:
        return None


def test_nothing_outlives_a_fake_that_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-m", "tests.fakes.ecs"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [line.strip() for line in takewhile(lambda line: not line.startswith("Ready"), process.stdout)]
        told = dict(line.split("=", 1) for line in lines)
        api = boto3.client(
            "ecs", region_name="eu-west-1", endpoint_url=told["AWS_ENDPOINT_URL_ECS"],
            aws_access_key_id=told["AWS_ACCESS_KEY_ID"], aws_secret_access_key=told["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        arn = api.run_task(**RUN)["tasks"][0]["taskArn"]
        until(lambda: described(api, arn)["lastStatus"] == "RUNNING", "the task runs")
        shown = described(api, arn)
        address = shown["containers"][0]["networkInterfaces"][0]["privateIpv4Address"]
        connection = until(lambda: connected(address), "guacd listens")
        assert connection is not None
        with connection:
            connection.sendall(b"6.select,3.rdp;")  # guacd starts a process of its own for it
            assert connection.recv(6) == b"4.args"
            assert len(processes.find(PORTAFILTER_FAKE_TASK=arn)) >= 2
            process.kill()
            process.wait()
            # Left alone, the process of a connection would end after 17 s.
            within_s = 12 if os.getuid() == 0 else LONG_S
            until(lambda: not processes.find(PORTAFILTER_FAKE_TASK=arn), "guacd is gone", timeout_s=within_s)
    finally:
        process.kill()
        process.communicate()
