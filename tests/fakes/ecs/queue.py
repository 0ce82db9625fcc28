"""An SQS queue that EventBridge fills with the cluster's "ECS Task State Change"."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.fakes.ecs.wire import AwsFault


@dataclass
class _Message:
    body: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    visible_at: float = 0.0
    receipt: str = ""


class Queue:
    """Its calls, and `put`; a message that is not deleted comes again after `visibility_s`."""

    def __init__(self, *, account: str, region: str, visibility_s: float = 30) -> None:
        self.account, self.region, self.visibility_s = account, region, visibility_s
        self.name = "portafilter-events"
        self.delay_s = 0.0  # EventBridge takes so long
        self.is_silent = False  # nothing comes any more
        self._messages: list[_Message] = []
        self._arrived = threading.Condition()
        self._is_over = False

    @property
    def path(self) -> str:
        return f"/{self.account}/{self.name}"

    def close(self) -> None:
        with self._arrived:
            self._is_over = True
            self._arrived.notify_all()

    def put(self, body: str) -> None:
        """Anything at all, as who may write to the queue could."""
        with self._arrived:
            self._messages.append(_Message(body, visible_at=time.monotonic() + self.delay_s))
            self._arrived.notify_all()

    def task_changed(self, shape: dict[str, Any]) -> None:
        """What EventBridge makes of a task's change: its description without its tags."""
        if self.is_silent:
            return
        detail = {name: value for name, value in shape.items() if name != "tags"}
        # An interface has another name here than in answers (ECS Developer Guide, "Task state change events").
        detail["attachments"] = [one | {"type": "eni"} for one in shape["attachments"]]
        event = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": "ECS Task State Change",
            "source": "aws.ecs",
            "account": self.account,
            "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "region": self.region,
            "resources": [shape["taskArn"]],
            "detail": detail | {"updatedAt": datetime.now(UTC)},
        }
        self.put(json.dumps(event, default=_iso))

    def purge(self) -> None:
        with self._arrived:
            self._messages.clear()

    def waiting(self) -> int:
        """How many messages nobody has deleted yet."""
        with self._arrived:
            return len(self._messages)

    # --- calls -------------------------------------------------------------------------------------------------------

    def receive_message(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check(arguments)
        most, wait_s = arguments.get("MaxNumberOfMessages", 1), arguments.get("WaitTimeSeconds", 0)
        if not 1 <= most <= 10:
            raise _invalid("MaxNumberOfMessages", most, "Must be between 1 and 10, if provided.")
        if not 0 <= wait_s <= 20:
            raise _invalid("WaitTimeSeconds", wait_s, "Must be >= 0 and <= 20, if provided.")
        hidden_s = arguments.get("VisibilityTimeout", self.visibility_s)
        deadline = time.monotonic() + wait_s
        with self._arrived:
            while not (found := [one for one in self._messages if one.visible_at <= time.monotonic()][:most]):
                left = deadline - time.monotonic()
                if left <= 0 or self._is_over:
                    return {}
                self._arrived.wait(min(left, 0.05))
            for message in found:
                message.visible_at = time.monotonic() + hidden_s
                message.receipt = str(uuid.uuid4())
            return {"Messages": [_shape(message) for message in found]}

    def delete_message(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check(arguments)
        with self._arrived:
            receipt = arguments["ReceiptHandle"]
            self._messages = [one for one in self._messages if not one.receipt or one.receipt != receipt]
        return {}

    def delete_message_batch(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check(arguments)
        entries = arguments["Entries"]
        if not 1 <= len(entries) <= 10:
            raise AwsFault("AWS.SimpleQueueService.TooManyEntriesInBatchRequest", "Expected 1 to 10 entries.")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise AwsFault("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", "Two entries have the same id.")
        for entry in entries:
            self.delete_message({"QueueUrl": arguments["QueueUrl"], "ReceiptHandle": entry["ReceiptHandle"]})
        return {"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}

    def get_queue_attributes(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check(arguments)
        arn = f"arn:aws:sqs:{self.region}:{self.account}:{self.name}"
        return {"Attributes": {"QueueArn": arn, "ApproximateNumberOfMessages": str(self.waiting())}}

    def _check(self, arguments: dict[str, Any]) -> None:
        if not arguments["QueueUrl"].endswith(self.path):
            code = "com.amazonaws.sqs#QueueDoesNotExist"
            raise AwsFault(code, "The specified queue does not exist.")


def _shape(message: _Message) -> dict[str, str]:
    digest = hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest()
    return {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": digest,
        "Body": message.body,
    }


def _invalid(name: str, value: object, reason: str) -> AwsFault:
    return AwsFault("InvalidParameterValue", f"Value {value} for parameter {name} is invalid. Reason: {reason}")


def _iso(value: object) -> str:
    assert isinstance(value, datetime), value
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
