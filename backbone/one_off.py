"""Runs one task to its end and shows what it says: a command of `manage.py`, inside the installation."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machines.aws import AwsError, Kind

if TYPE_CHECKING:
    from backbone.cloud import Cloud

_PATIENCE_S = 1800.0
# What a task said last may reach its log some seconds after its end.
_LAST_LOOKS = 3


class TaskError(Exception):
    """It was not started, or is not over; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is run and where: a task definition of one container of that name, in subnets of the installation's."""

    cluster: str
    task_definition: str
    container: str
    subnets: Sequence[str]
    security_groups: Sequence[str]
    log_group: str
    command: Sequence[str] = ()  # empty: the task definition's own
    is_alone: bool = False  # never two of its family at once: one that runs already is waited for


@dataclass(frozen=True, slots=True)
class Ended:
    """Its exit status, None where there was none, and what ECS says of its end."""

    code: int | None
    why: str


def run(cloud: Cloud, order: Order, say: Callable[[str], None], *, poll_s: float = 5.0) -> Ended:
    """Runs it, saying each line of its log as it comes. Raises TaskError, AwsError.

    Of an order that is alone, one that runs already of the same revision is the one that is meant: somebody stopped
    looking, or the answer to its start was lost. ECS keeps an order's command with the task, for everybody who may look
    at tasks: it must hold no secret.
    """
    while order.is_alone and (there := _running(cloud, order)):
        say(f"a task of {_family(order)} runs already; waiting for its end.")
        ended = _follow(cloud, order, str(there["taskArn"]), say, poll_s)
        if there.get("taskDefinitionArn") == order.task_definition:
            return ended
    return _follow(cloud, order, _start(cloud, order), say, poll_s)


def _follow(cloud: Cloud, order: Order, arn: str, say: Callable[[str], None], poll_s: float) -> Ended:
    log = _Log(cloud, order, arn)
    deadline = time.monotonic() + _PATIENCE_S
    about, setting = f"a task of {order.cluster}", "--name"
    while True:
        described = cloud.again(
            lambda: cloud.aws.call(
                "ecs", "DescribeTasks", about=about, setting=setting, cluster=order.cluster, tasks=[arn]
            )
        )
        task: dict[str, Any] = next(iter(described.get("tasks") or []), {})
        for line in log.news():
            say(line)
        if task.get("lastStatus") == "STOPPED":
            break
        if time.monotonic() > deadline:
            raise TaskError(f"Not done after half an hour; it goes on. Its log is {order.log_group}.")
        cloud.sleep(poll_s)
    containers: list[Mapping[str, Any]] = task.get("containers") or []
    code = next((one["exitCode"] for one in containers if "exitCode" in one), None)
    for line in log.rest(poll_s) if code is not None else []:
        say(line)
    said = [str(one["reason"]) for one in containers if one.get("reason")]
    return Ended(code, "; ".join([str(task.get("stoppedReason") or "no reason"), *said]))


def _family(order: Order) -> str:
    return order.task_definition.rpartition("/")[2].partition(":")[0]


def _running(cloud: Cloud, order: Order) -> dict[str, Any] | None:
    """A task of the order's family that has not ended."""
    about, where = f"a task of {order.cluster}", {"cluster": order.cluster}
    arns = cloud.again(
        lambda: cloud.aws.call("ecs", "ListTasks", about=about, setting="--name", **where, family=_family(order))
    )["taskArns"]
    if not arns:
        return None
    described = cloud.again(
        lambda: cloud.aws.call("ecs", "DescribeTasks", about=about, setting="--name", **where, tasks=arns)
    )
    tasks: list[dict[str, Any]] = described.get("tasks") or []
    return next((task for task in tasks if task.get("lastStatus") != "STOPPED"), None)


def _start(cloud: Cloud, order: Order) -> str:
    overrides = {"containerOverrides": [{"name": order.container, "command": list(order.command)}]}
    # With the same token, asking again after a lost answer starts nothing more.
    token = uuid.uuid4().hex
    answer = cloud.again(
        lambda: cloud.aws.call(
            "ecs", "RunTask", about=f"the task {order.task_definition.rpartition('/')[2]}", setting="--name",
            cluster=order.cluster,
            taskDefinition=order.task_definition,
            launchType="FARGATE",
            count=1,
            startedBy="deploy",
            clientToken=token,
            overrides=overrides if order.command else {},
            networkConfiguration={
                "awsvpcConfiguration": {
                    "subnets": list(order.subnets),
                    "securityGroups": list(order.security_groups),
                    "assignPublicIp": "DISABLED",
                }
            },
        )
    )  # fmt: skip
    if not answer.get("tasks"):
        reasons = ", ".join(str(one.get("reason")) for one in answer.get("failures") or []) or "no reason"
        raise TaskError(f"ECS did not start the task ({reasons}). The same command tries again.")
    return str(answer["tasks"][0]["taskArn"])


class _Log:
    """The lines of one task in CloudWatch Logs, each once."""

    def __init__(self, cloud: Cloud, order: Order, arn: str) -> None:
        self._cloud = cloud
        self._group = order.log_group
        # As the driver awslogs has it: prefix, container, task; the prefix is the container's name in our templates.
        self._stream = f"{order.container}/{order.container}/{arn.rpartition('/')[2]}"
        self._token = ""

    def news(self) -> list[str]:
        """What has come since; nothing as long as there is no log."""
        lines: list[str] = []
        while True:
            since = {"nextToken": self._token} if self._token else {}
            try:
                answer = self._cloud.aws.call(
                    "logs", "GetLogEvents", about=f"the log {self._group}", setting="--name",
                    logGroupName=self._group, logStreamName=self._stream, startFromHead=True, **since,
                )  # fmt: skip
            except AwsError as error:
                if error.kind in {Kind.NOT_FOUND, Kind.THROTTLED, Kind.TIMEOUT, Kind.FAILED}:
                    return lines
                raise
            lines += [str(event["message"]).rstrip("\n") for event in answer.get("events") or []]
            # At the end, the token that comes is the one that was given (CloudWatch Logs API Reference).
            token = str(answer.get("nextForwardToken") or "")
            if token == self._token or not answer.get("events"):
                self._token = token or self._token
                return lines
            self._token = token

    def rest(self, poll_s: float) -> list[str]:
        """What comes after the end, until a look finds nothing more."""
        lines: list[str] = []
        for _ in range(_LAST_LOOKS):
            self._cloud.sleep(min(poll_s, 2.0))
            more = self.news()
            if lines and not more:
                break
            lines += more
        return lines
