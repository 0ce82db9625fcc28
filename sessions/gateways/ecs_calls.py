"""What the ECS driver asks of AWS: each call by name, tried again for as long as its time allows.

All of them are idempotent (RunTask by its clientToken), so one whose answer was lost is simply made again.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from machines.aws import Aws, AwsError, Kind, SettingOf

# One try takes these two together at most.
CONNECT_S, ANSWER_S = 2.0, 4.0
# DescribeTasks takes so many tasks, and ListTasks lists so many a page (ECS API Reference).
PAGE = 100
_PAUSES_S = ((0.2, 0.8), (0.6, 2.0))
_WORTH_ANOTHER_TRY = {Kind.THROTTLED, Kind.FAILED, Kind.TIMEOUT, Kind.UNREACHABLE, Kind.EXPIRED}
# What an order names, by what AWS speaks of when it does not like it.
_SETTING = SettingOf(
    "ECS_CLUSTER or ECS_TASK_DEFINITION",
    {
        "cluster not found": "ECS_CLUSTER",
        "cluster was inactive": "ECS_CLUSTER",
        "task definition": "ECS_TASK_DEFINITION",
        "subnet": "ECS_SUBNETS",
        "security group": "ECS_SECURITY_GROUPS",
        "capacity provider": "ECS_CAPACITY_PROVIDER",
    },
)
# After so many pages something is wrong; a cluster holds 5,000 container instances (ECS service quotas).
_PAGES = 200
# What a proxy says in AWS' place would else read as: there are none.
_NO_ANSWER = ", which is no answer of ECS. Look at AWS_ENDPOINT_URL and at proxies."

NO_CLUSTER = "ClusterNotFoundException"
_TASK = re.compile(r"arn:[^:]+:ecs:(?P<region>[^:]+):(?P<account>[^:]+):task/(?P<cluster>[^/]+)/[^/]+")

T = TypeVar("T")


class EcsCalls:
    """ECS in one cluster of one region, for any number of threads. Every method raises AwsError.

    `deadline` is by the monotonic clock: none begins after it, and no further try that might end after it.
    """

    def __init__(self, aws: Aws, cluster: str) -> None:
        self._aws = aws
        self._cluster = cluster
        self._about = f"the cluster {cluster}"

    def run_task(self, arguments: Mapping[str, Any], *, deadline: float) -> dict[str, Any]:
        """The answer to RunTask. An AwsError's `may_have_happened` is that of all tries together."""
        about = f"the task definition {arguments['taskDefinition']}, in {self._about}"
        return _again(
            lambda: self._aws.call(
                "ecs", "RunTask", about=about, setting=_SETTING,
                cluster=self._cluster, **arguments,
            ),
            deadline,
        )  # fmt: skip

    def describe(self, arns: Sequence[str], *, deadline: float) -> list[dict[str, Any]]:
        """Those of up to PAGE tasks of one cluster that AWS knows, as it describes them."""
        answer = _again(
            lambda: self._aws.call(
                "ecs", "DescribeTasks", about=self._about, setting="ECS_CLUSTER",
                cluster=self._of(arns[0]), tasks=list(arns), include=["TAGS"],
            ),
            deadline,
        )  # fmt: skip
        tasks = list(answer.get("tasks") or [])
        # AWS answers for each of them: what it does not know is a failure with the reason MISSING.
        if len(tasks) + len(answer.get("failures") or []) < len(arns):
            raise AwsError(f"ecs:DescribeTasks: found {len(tasks)} of {len(arns)} tasks{_NO_ANSWER}", kind=Kind.FAILED)
        return tasks

    def stop(self, arn: str, *, reason: str, deadline: float) -> dict[str, Any]:
        """Tells a task to stop; the task as it is then, which is seldom stopped yet."""
        answer = _again(
            lambda: self._aws.call(
                "ecs", "StopTask", about=f"a task of {self._about}", setting="ECS_CLUSTER",
                cluster=self._of(arn), task=arn, reason=reason,
            ),
            deadline,
        )  # fmt: skip
        return dict(answer.get("task") or {})

    def has_lost_its_cluster(self, arn: str, *, deadline: float) -> bool:
        """Whether a task's cluster is no more, where ECS has just said that it does not know it, and says it once more.

        ECS says so, too, of one in another account or region, where the task may well run. A cluster is deleted only
        when no task is left in it (ECS API Reference, DeleteCluster).
        """
        found = _TASK.fullmatch(arn)
        if found is None or found["region"] != self._aws.region:
            return False
        try:
            self.describe([arn], deadline=deadline)
            return False
        except AwsError as error:
            if error.code != NO_CLUSTER:
                raise
        answer = _again(
            lambda: self._aws.call("sts", "GetCallerIdentity", about="ourselves", setting="the AWS credentials"),
            deadline,
        )
        return bool(answer.get("Account") == found["account"])

    def listed(self, desired_status: str, *, deadline: float) -> list[dict[str, Any]]:
        """All tasks of the cluster that shall run (RUNNING) or shall not (STOPPED), described, with their tags."""
        return [task for page in self._pages(desired_status, deadline) for task in self._page(page, deadline)]

    def _of(self, arn: str) -> str:
        """The cluster that a task is in, by its own name: it stays there when ECS_CLUSTER is changed."""
        found = _TASK.fullmatch(arn)
        return found["cluster"] if found else self._cluster

    def _page(self, arns: list[str], deadline: float) -> list[dict[str, Any]]:
        return self.describe(arns, deadline=deadline) if arns else []

    def _pages(self, desired_status: str, deadline: float) -> Iterator[list[str]]:
        more: dict[str, str] = {}
        for _ in range(_PAGES):
            answer = _again(
                lambda more=more: self._aws.call(  # type: ignore[misc]
                    "ecs", "ListTasks", about=self._about, setting="ECS_CLUSTER",
                    cluster=self._cluster, desiredStatus=desired_status, maxResults=PAGE, **more,
                ),
                deadline,
            )  # fmt: skip
            if "taskArns" not in answer:
                raise AwsError(f"ecs:ListTasks: found no list of tasks{_NO_ANSWER}", kind=Kind.FAILED)
            yield list(answer["taskArns"])
            if not answer.get("nextToken"):
                return
            more = {"nextToken": answer["nextToken"]}


def _again(call: Callable[[], T], deadline: float) -> T:
    may_have_happened = False
    if time.monotonic() > deadline:
        raise AwsError("ECS took too long to answer all that was to be asked.", kind=Kind.TIMEOUT)
    for pauses in (*_PAUSES_S, None):
        try:
            return call()
        except AwsError as error:
            # A later try that was refused says nothing about an earlier one whose answer was lost.
            may_have_happened = error.may_have_happened = may_have_happened or error.may_have_happened
            pause_s = random.uniform(*pauses) if pauses else 0
            is_over = time.monotonic() + pause_s + CONNECT_S + ANSWER_S > deadline
            if pauses is None or is_over or error.kind not in _WORTH_ANOTHER_TRY:
                raise
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")
