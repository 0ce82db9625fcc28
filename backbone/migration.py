"""Runs the task that brings the database to what an image's code expects, and waits for its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backbone.deploy import Cloud

_PATIENCE_S = 1800.0


class MigrationError(Exception):
    """The database is not as the code expects; the text says where to read why."""


def run(cloud: Cloud, outputs: Mapping[str, str], say: Callable[[str], None], *, poll_s: float = 5.0) -> None:
    """Runs it once more, which changes nothing where nothing is to do. Raises MigrationError, AwsError."""
    about, setting = "the task of the stack migrate", "the stack migrate"
    cluster, log = outputs["MigrateCluster"], outputs["MigrateLogGroup"]
    answer = cloud.aws.call(
        "ecs", "RunTask", about=about, setting=setting,
        cluster=cluster,
        taskDefinition=outputs["MigrateTaskDefinitionArn"],
        launchType="FARGATE",
        count=1,
        startedBy="deploy",
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": outputs["MigrateSubnets"].split(","),
                "securityGroups": [outputs["MigrateSecurityGroup"]],
                "assignPublicIp": "DISABLED",
            }
        },
    )  # fmt: skip
    if not answer.get("tasks"):
        reasons = ", ".join(str(one.get("reason")) for one in answer.get("failures") or []) or "no reason"
        raise MigrationError(f"migrate: ECS did not start the task ({reasons}). The same command tries again.")
    arn = answer["tasks"][0]["taskArn"]
    say("migrate: bringing the database up to date.")
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        described = cloud.again(
            lambda: cloud.aws.call("ecs", "DescribeTasks", about=about, setting=setting, cluster=cluster, tasks=[arn])
        )
        task: dict[str, Any] = next(iter(described.get("tasks") or []), {})
        if task.get("lastStatus") == "STOPPED":
            break
        if time.monotonic() > deadline:
            raise MigrationError(f"migrate: not done after half an hour; it goes on. Its log is {log}.")
        cloud.sleep(poll_s)
    code = next((container.get("exitCode") for container in _containers(task) if "exitCode" in container), None)
    if code != 0:
        why = task.get("stoppedReason") or "no reason"
        raise MigrationError(
            f"migrate: the task ended with {'no exit status' if code is None else code} ({why}). No service was "
            f"changed. What it said is in the log {log}; when the cause is gone, the same command goes on from here."
        )
    say("migrate: the database is up to date.")


def _containers(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [dict(one) for one in task.get("containers") or []]
