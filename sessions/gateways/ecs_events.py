"""What EventBridge tells of tasks, by an SQS queue: `ECS Task State Change` of source aws.ecs, a task as its detail.

Events may come twice, late and in any order (Amazon EventBridge, "at least once"): a task's `version` tells what is
newer. Each message reaches one of the processes that listen; what this one does not hear, it finds by looking.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.conf import settings

from machines.aws import Aws, AwsError
from sessions.gateways import ecs_tasks
from sessions.gateways.ecs_tasks import Task, Tasks

logger = logging.getLogger(__name__)

# How long SQS holds a question without an answer; a process that is told to end waits for it (`work`: 20 s).
_WAIT_S = 5
_MESSAGES = 10
# Whoever has heard SQS answer within this time goes by events; else, by looking.
_HEARING_S = 30.0
_MAX_BACK_OFF_S = 20.0
_REMEMBERED = 1000
_TASK_ARN = re.compile(r"arn:[\w-]+:ecs:[\w-]+:[0-9]{12}:task/([\w-]+/)?[0-9a-f-]{32,36}", re.ASCII)


class Events:
    """Listens for this process; `is_hearing` tells whether one may rely on it."""

    def __init__(self, tasks: Tasks, *, installation: str) -> None:
        self._tasks = tasks
        self._installation = installation
        self._heard_at: float | None = None
        self._strangers: dict[str, None] = {}

    def is_hearing(self) -> bool:
        return self._heard_at is not None and time.monotonic() - self._heard_at < _HEARING_S

    def watch(self, stop: threading.Event, changed: Callable[[list[str]], None]) -> None:
        """Long-polls the queue until `stop` is set; errors are logged once in a while and waited out."""
        aws = Aws(settings.AWS_REGION, answer_s=_WAIT_S + 5)
        failures = 0
        while not stop.is_set():
            try:
                self._receive(aws, changed)
                failures = 0
            except AwsError as error:
                if failures % 20 == 0:
                    logger.error("What ECS' tasks do is not heard, so ECS is asked instead: %s", error)
                failures += 1
                stop.wait(min(2.0 ** (failures - 1), _MAX_BACK_OFF_S))

    def _receive(self, aws: Aws, changed: Callable[[list[str]], None]) -> None:
        queue = settings.ECS_EVENTS_QUEUE
        answer = aws.call(
            "sqs", "ReceiveMessage", about=f"the queue {queue.rpartition('/')[2]}", setting="ECS_EVENTS_QUEUE",
            QueueUrl=queue, MaxNumberOfMessages=_MESSAGES, WaitTimeSeconds=_WAIT_S,
        )  # fmt: skip
        self._heard_at = time.monotonic()
        messages = answer.get("Messages") or []
        attempts = self.take([str(message.get("Body", "")) for message in messages])
        if attempts:
            changed(attempts)
        # Last: what is not deleted comes again, so nothing is lost when we end in between.
        for message in messages:
            aws.call(
                "sqs", "DeleteMessage", about=f"the queue {queue.rpartition('/')[2]}", setting="ECS_EVENTS_QUEUE",
                QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"],
            )  # fmt: skip

    def take(self, bodies: Sequence[str]) -> list[str]:
        """Learns what the messages tell; the attempts of this installation of which that is news."""
        attempts: dict[str, None] = {}
        for body in bodies:
            try:
                task = _task(body)
            except ValueError as error:
                logger.error("A message in ECS_EVENTS_QUEUE is no event of ECS, and is deleted: %s", error)
                continue
            if task is None:
                continue
            known = self._tasks.attempt_of(task.arn)
            attempt = known or self._ask_whose(task)
            # What was just asked is news, too, and may be newer than this event.
            if attempt and (self._tasks.learn(task, is_event=True) or not known):
                attempts[attempt] = None
        return list(attempts)

    def _ask_whose(self, task: Task) -> str:
        """The attempt of a task that this process has not seen yet: events have no tags, so ECS is asked."""
        if task.arn in self._strangers:
            return ""
        try:
            found = self._tasks.look(task.arn, pace=ecs_tasks.AT_ONCE).task
        except AwsError as error:
            logger.warning("Whose task %s is cannot be told now: %s", task.arn, error)
            return ""
        if found is not None and found.installation == self._installation and found.attempt:
            return found.attempt
        if found is not None:
            self._strangers[task.arn] = None
            self._tasks.forget(task.arn)
            while len(self._strangers) > _REMEMBERED:
                del self._strangers[next(iter(self._strangers))]
        return ""


def _task(body: str) -> Task | None:
    """The task of an event, None for one of another cluster or kind. Raises ValueError for what is no event."""
    try:
        event: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError(f"found {len(body)} characters that are no JSON") from None
    if not isinstance(event, dict) or not isinstance(event.get("detail"), dict):
        raise ValueError("found JSON without an object as its detail")
    detail: Mapping[str, Any] = event["detail"]
    if event.get("source") != "aws.ecs" or event.get("detail-type") != "ECS Task State Change":
        return None
    if str(detail.get("clusterArn", "")).rpartition("/")[2] != settings.ECS_CLUSTER.rpartition("/")[2]:
        return None
    task = ecs_tasks.parse(detail)
    # ECS would refuse all that is asked together with a name that is none.
    if task is None or not _TASK_ARN.fullmatch(task.arn):
        raise ValueError("found an event without a task's ARN")
    return task
