"""What is known of tasks: one DescribeTasks for all that are watched, ever more seldom, and what events told since.

ECS is eventually consistent: an answer may be older than the one before it, and a new task may be unknown for a while.
A task's `version` grows with each change (ECS API Reference, Task), so what is older than what is known is dropped.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machines.aws import AwsError
from sessions.gateways.ecs_calls import PAGE

INSTALLATION_TAG, ATTEMPT_TAG, SESSION_TAG = (
    "portafilter:installation", "portafilter:attempt", "portafilter:session",
)  # fmt: skip
# Seconds between looks at one task: while it starts, and when it is there.
STARTING_PACE, READY_PACE = (1.0, 1.0, 2.0, 3.0, 5.0), (10.0,)
# The same where events tell what happens: of this very task, while it starts. Several processes share a queue.
STARTING_PACE_HEARING, READY_PACE_HEARING = (1.0, 10.0), (30.0,)
# When something has just happened to it.
AT_ONCE = (0.5,)
# Who has not been asked about for so long is nobody's any more.
_FORGET_S = 120.0
_WAIT_FOR_OTHERS_S = 4.0
_ENDING = {"DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED", "DELETED"}


@dataclass(frozen=True, slots=True)
class Task:
    """A task of ECS, as far as it matters here."""

    arn: str
    last_status: str
    desired_status: str
    version: int
    address: str  # private IPv4, empty until its network interface is there
    is_connected: bool  # whether ECS hears of its computer
    is_placed: bool  # whether it has a computer
    attempt: str  # by its tags, as the next; empty in events, which have none
    installation: str
    stop_code: str
    stopped_reason: str
    containers: tuple[str, ...]  # what is said of each that ended or did not start

    @property
    def is_ending(self) -> bool:
        """Whether it stops, or has stopped: it will not come back."""
        return self.desired_status == "STOPPED" or self.last_status in _ENDING

    @property
    def is_stopped(self) -> bool:
        return self.last_status in {"STOPPED", "DELETED"}


@dataclass(frozen=True, slots=True)
class Look:
    """What was found at the last look at a task.

    So many answers in a row did not know it (`missing`), with `missing_s` from the first of them to the last: one alone
    may be stale.
    """

    task: Task | None
    missing: int
    missing_s: float


@dataclass
class _Entry:
    """What is known of one task; times are by the monotonic clock."""

    attempt: str = ""
    task: Task | None = None
    looks: int = 0
    looked_at: float | None = None
    missing: int = 0
    missing_since: float = 0.0
    asked_at: float = 0.0
    pace: Sequence[float] = STARTING_PACE
    error: AwsError | None = None
    is_heard_of: bool = False

    def due_at(self) -> float:
        if self.looked_at is None:
            return 0.0
        return self.looked_at + self.pace[min(max(self.looks - 1, 0), len(self.pace) - 1)]

    def as_look(self) -> Look:
        missing_s = (self.looked_at or 0.0) - self.missing_since if self.missing else 0.0
        return Look(self.task, self.missing, missing_s)


class Tasks:
    """The tasks that somebody asks about, for any number of threads; one of them asks AWS for all."""

    def __init__(self, describe: Callable[[Sequence[str]], list[dict[str, Any]]]) -> None:
        self._describe = describe
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()
        self._asking = threading.Lock()

    def look(self, arn: str, *, attempt: str = "", pace: Sequence[float]) -> Look:
        """A task as it was at the last look, which is no older than `pace` says. Raises AwsError."""
        with self._lock:
            now = time.monotonic()
            entry = self._entries.setdefault(arn, _Entry())
            entry.attempt = entry.attempt or attempt
            entry.asked_at, entry.pace = now, pace
            if entry.due_at() > now:
                return _answer(entry)
            is_new = entry.looked_at is None
        # While one thread asks for all, the others go by what was last known.
        if not self._asking.acquire(blocking=is_new, timeout=_WAIT_FOR_OTHERS_S if is_new else -1):
            return _answer(entry)
        try:
            if entry.due_at() <= time.monotonic():
                self._ask(arn)
        finally:
            self._asking.release()
        return _answer(entry)

    def known(self, arn: str) -> Task | None:
        """The last that is known of a task, without asking anybody."""
        with self._lock:
            entry = self._entries.get(arn)
            return entry.task if entry else None

    def attempt_of(self, arn: str) -> str | None:
        """Whose a task is; None for one that nobody has asked about."""
        with self._lock:
            entry = self._entries.get(arn)
            return (entry.attempt or (entry.task.attempt if entry.task else "")) if entry else None

    def is_heard_of(self, arn: str) -> bool:
        """Whether an event has told of a task in this process."""
        with self._lock:
            entry = self._entries.get(arn)
            return entry is not None and entry.is_heard_of

    def forget(self, arn: str) -> None:
        """A task that is none of ours."""
        with self._lock:
            self._entries.pop(arn, None)

    def learn(self, task: Task, *, attempt: str = "", is_event: bool = False) -> bool:
        """Takes what AWS said elsewhere; whether it is news. Tags that are known stay, since events have none."""
        with self._lock:
            entry = self._entries.setdefault(task.arn, _Entry(asked_at=time.monotonic()))
            entry.is_heard_of = entry.is_heard_of or is_event
            entry.attempt = entry.attempt or attempt or task.attempt
            return _take(entry, task, time.monotonic())

    def _ask(self, arn: str) -> None:
        """One call for this task and as many others as go into it, those that are due first."""
        with self._lock:
            now = time.monotonic()
            for old in [key for key, entry in self._entries.items() if now - entry.asked_at > _FORGET_S]:
                del self._entries[old]
            # ECS refuses all of a call for one task of another cluster, as there are after ECS_CLUSTER was changed.
            others = sorted(
                (entry.due_at(), key)
                for key, entry in self._entries.items()
                if key != arn and key.rpartition("/")[0] == arn.rpartition("/")[0]
            )
            batch = [arn, *(key for _, key in others if not self._is_over(key))][:PAGE]
        error: AwsError | None = None
        found: dict[str, Task] = {}
        try:
            found = {task.arn: task for task in map(parse, self._describe(batch)) if task is not None}
        except AwsError as caught:
            error = caught
        with self._lock:
            now = time.monotonic()
            for key in batch:
                entry = self._entries.setdefault(key, _Entry(asked_at=now))
                entry.looks, entry.looked_at, entry.error = entry.looks + 1, now, error
                if error is not None:
                    continue
                if key in found:
                    _take(entry, found[key], now)
                else:
                    entry.missing_since = entry.missing_since if entry.missing else now
                    entry.missing += 1

    def _is_over(self, arn: str) -> bool:
        task = self._entries[arn].task
        return task is not None and task.is_stopped


def _answer(entry: _Entry) -> Look:
    if entry.error is not None:
        raise entry.error
    return entry.as_look()


def _take(entry: _Entry, task: Task, now: float) -> bool:
    entry.looked_at, entry.missing, entry.error = now, 0, None
    known = entry.task
    if known is not None and task.version < known.version:
        return False
    is_news = known is None or task.version > known.version
    if is_news and known is not None:
        entry.looks = 1  # what moves is looked at often again: it may be ready, or gone, in a moment
    entry.task = task
    return is_news


def parse(described: Mapping[str, Any]) -> Task | None:
    """A task as DescribeTasks, RunTask or an event has it; None for what is none."""
    arn = described.get("taskArn")
    if not isinstance(arn, str) or not arn:
        return None
    tags = {str(tag.get("key")): str(tag.get("value", "")) for tag in _list(described, "tags")}
    return Task(
        arn=arn,
        last_status=str(described.get("lastStatus") or ""),
        desired_status=str(described.get("desiredStatus") or ""),
        version=_number(described.get("version")),
        address=_address(described),
        is_connected=described.get("connectivity") != "DISCONNECTED",
        is_placed=bool(described.get("containerInstanceArn")),
        attempt=tags.get(ATTEMPT_TAG, ""),
        installation=tags.get(INSTALLATION_TAG, ""),
        stop_code=str(described.get("stopCode") or ""),
        stopped_reason=str(described.get("stoppedReason") or ""),
        containers=tuple(text for text in map(_said_of, _list(described, "containers")) if text),
    )


def _list(described: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = described.get(key)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _address(described: Mapping[str, Any]) -> str:
    # The attachment is of type ElasticNetworkInterface in answers and eni in events; its details have one name.
    for attachment in _list(described, "attachments"):
        for detail in _list(attachment, "details"):
            if detail.get("name") == "privateIPv4Address":
                return _checked(detail.get("value"))
    return ""


def _checked(value: object) -> str:
    try:
        return str(ipaddress.IPv4Address(str(value)))
    except ValueError:
        return ""


def _said_of(container: Mapping[str, Any]) -> str:
    """Of a container that ended or could not start, as in `guacd ended with 137: OutOfMemoryError: …`."""
    reason, code = str(container.get("reason") or ""), container.get("exitCode")
    if not reason and code is None:
        return ""
    ended = "" if code is None else f" ended with {code}"
    return f"{container.get('name', '?')}{ended}" + (f": {reason}" if reason else "")
