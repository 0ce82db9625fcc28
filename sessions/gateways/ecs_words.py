"""What went wrong at ECS, twice: in words that an operator understands, and with AWS' own for whoever runs Portafilter.

The texts that AWS has for a task's end are of the ECS Developer Guide, "Stopped tasks error codes" and "API failure
reasons".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from machines.aws import AwsError, Kind
from sessions.gateways.base import GatewayError
from sessions.gateways.ecs_tasks import Task

# A task that waits says neither for how long nor whether AWS starts another computer: there may be as many as may be.
NO_ROOM_YET = (
    "AWS has no room for another gateway yet. If it can start another computer, that takes about three minutes."
)
_SET_UP = "Whoever runs Portafilter finds the reason in the gateway's record."
_LIMIT = 400

_BY_KIND = {
    Kind.THROTTLED: "AWS takes no more orders at the moment.",
    Kind.TIMEOUT: "AWS did not answer in time.",
    Kind.UNREACHABLE: "AWS cannot be reached at the moment.",
    Kind.FAILED: "AWS had a fault of its own.",
    Kind.EXPIRED: f"AWS no longer knows who Portafilter is. {_SET_UP}",
    Kind.NO_CREDENTIALS: f"Portafilter cannot sign in to AWS. {_SET_UP}",
    Kind.UNKNOWN_CREDENTIALS: f"AWS does not know who Portafilter is. {_SET_UP}",
    Kind.CLOCK: f"AWS refuses orders since Portafilter's clock is wrong. {_SET_UP}",
    Kind.FORBIDDEN: f"AWS does not allow Portafilter to handle gateways. {_SET_UP}",
    Kind.NOT_FOUND: f"What Portafilter needs for gateways is not there at AWS. {_SET_UP}",
}
_OTHER_KIND = f"AWS did not take the order for a gateway. {_SET_UP}"

# Why a task could not be placed, by what its reason begins with.
_NO_ROOM = {
    "RESOURCE:MEMORY": "There is no room for another gateway in this cluster (RESOURCE:MEMORY).",
    "RESOURCE:CPU": "There is no room for another gateway in this cluster (RESOURCE:CPU).",
    "RESOURCE:ENI": "No computer of this cluster has a network address left for a gateway (RESOURCE:ENI).",
    "RESOURCE:": "There is no room for another gateway in this cluster ({reason}).",
    "AGENT": "The computers for gateways do not answer AWS (AGENT).",
    "ATTRIBUTE": "No computer of this cluster is fit for gateways (ATTRIBUTE).",
    "LOCATION": "No computer for gateways is in the right zone (LOCATION).",
    "CAPACITY": "AWS has no computer for another gateway at the moment (CAPACITY).",
    "Capacity is unavailable": "AWS has no computer for another gateway at the moment.",
    "EMPTY CAPACITY PROVIDER": "This cluster has no computer for gateways yet.",
}
_NO_COMPUTERS = "This cluster has no computer for gateways."
_NO_ROOM_HINT = " A rescue that ends makes room; more computers do, too."

# Why a task ended or did not start, by what AWS says of it; the first that fits.
_REASONS = (
    (r"CannotPull|pull image|image.*not found|manifest unknown", "AWS could not fetch the gateway's image."),
    (r"ResourceInitializationError", "AWS could not fetch what the gateway needs to start."),
    (r"OutOfMemory", "The gateway ran out of memory."),
    (r"^Host EC2|instance.*(terminated|stopped)", "The computer on which the gateway ran was lost."),
    (r"Spot", "AWS took back the computer on which the gateway ran (SpotInterruption)."),
    (r"network interface|Network Interface|\bENI\b", "The gateway got no network address from AWS."),
    (
        r"CannotCreateContainer|CannotStartContainer|DockerTimeout|ContainerRuntime",
        "The gateway's program cannot start.",
    ),
    (r"health check|unhealthy", "The gateway did not get well: a part of it does not answer."),
    (r"Capacity|CAPACITY|RESOURCE:", "AWS has no computer for another gateway at the moment."),
    (r"InternalError", "AWS had a fault of its own."),
)
_CODES = {
    "SpotInterruption": "AWS took back the computer on which the gateway ran (SpotInterruption).",
    "TerminationNotice": "AWS took back the computer on which the gateway ran (TerminationNotice).",
    "TaskFailedToStart": "AWS could not start the gateway.",
    "EssentialContainerExited": "The gateway ended by itself.",
    "UserInitiated": "Somebody or something at AWS stopped the gateway.",
    "ServiceSchedulerInitiated": "Somebody or something at AWS stopped the gateway.",
}


@dataclass(frozen=True, slots=True)
class Words:
    """`detail` for operators, `record` for whoever runs Portafilter."""

    detail: str
    record: str
    no_room: bool = False


def of_error(error: AwsError) -> GatewayError:
    """An AwsError as the driver raises it: its own sentence is for the record."""
    if _has_no_computers(error):
        return GatewayError(_NO_COMPUTERS, record=f"{error} {_NO_COMPUTERS}")
    return GatewayError(_BY_KIND.get(error.kind, _OTHER_KIND), permanent=error.is_permanent, record=str(error))


def of_failures(failures: Sequence[Mapping[str, Any]]) -> Words:
    """RunTask answered 200 without a task."""
    reasons = list(dict.fromkeys(str(failure.get("reason") or "?") for failure in failures))
    if not reasons:
        detail = "AWS started no gateway and did not say why."
        return Words(detail, "ecs:RunTask: ECS answered with neither a task nor a failure.")
    record = f"ecs:RunTask: ECS placed no task: {'; '.join(map(_of_failure, failures))}"
    for beginning, words in _NO_ROOM.items():
        for reason in reasons:
            if reason.startswith(beginning):
                hint = _NO_ROOM_HINT if beginning.startswith("RESOURCE") else ""
                # Where the computers are not fit, or do not answer, one gateway less helps nobody.
                no_room = beginning not in ("AGENT", "ATTRIBUTE", "LOCATION")
                return Words(words.format(reason=_short(reason, 60)) + hint, _short(record), no_room)
    return Words(f"AWS could not place the gateway on a computer ({_short(reasons[0], 60)}).", _short(record))


def of_end(task: Task) -> Words:
    """Why a task stops or has stopped."""
    said = " ".join((task.stopped_reason, *task.containers))
    detail = _CODES.get(task.stop_code, "The gateway was stopped.")
    if task.stop_code not in {"SpotInterruption", "TerminationNotice", "UserInitiated"}:
        detail = next((words for pattern, words in _REASONS if re.search(pattern, said)), detail)
    told = "; ".join(text for text in (task.stopped_reason, *task.containers) if text)
    record = (
        f"Task {_name(task)} is {task.last_status or '?'} ({task.stop_code or 'no stopCode'}): {told or 'no reason'}"
    )
    return Words(detail, _short(record))


def of_lost_host(task: Task) -> Words:
    """ECS does not hear of a task's computer, and neither do we of its guacd."""
    detail = "The computer on which the gateway ran was lost."
    return Words(detail, f"Task {_name(task)}: its container instance is DISCONNECTED and guacd does not answer.")


def of_slow_start(task: Task | None, limit_s: int, last: str) -> Words:
    """A task that was not ready in time; `last` is what was found when it was last tried."""
    detail = f"The gateway was not ready within {limit_s} s."
    if task is None:
        return Words(detail, f"Not ready within {limit_s} s: ECS has told nothing of its task. {last}".strip())
    stage = f"its task {_name(task)} is {task.last_status or '?'}"
    if not task.is_placed:
        detail += " AWS found no computer for it in that time."
    return Words(detail, _short(f"Not ready within {limit_s} s: {stage}. {last}".strip()))


def _has_no_computers(error: AwsError) -> bool:
    return "no container instances were found" in error.said.lower()


def _of_failure(failure: Mapping[str, Any]) -> str:
    reason, detail = str(failure.get("reason") or "?"), str(failure.get("detail") or "")
    arn = str(failure.get("arn") or "").rpartition("/")[2]
    return " ".join(text for text in (reason, detail, arn and f"({arn})") if text)


def _name(task: Task) -> str:
    return task.arn.rpartition("/")[2]


def _short(text: str, limit: int = _LIMIT) -> str:
    text = "".join(one if one.isprintable() else " " for one in text)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
