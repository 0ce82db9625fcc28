"""What ECS says of a gateway's end, in words for operators, and whole for the record."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from machines.aws import AwsError, Kind
from sessions.gateways import ecs_words
from sessions.gateways.ecs_tasks import Task, parse

ARN = "arn:aws:ecs:eu-west-1:123456789012:task/portafilter/0123456789abcdef0123456789abcdef"


def _ended(code: str, reason: str, container: dict[str, Any] | None = None) -> Task:
    task = parse(
        {
            "taskArn": ARN,
            "lastStatus": "STOPPED",
            "desiredStatus": "STOPPED",
            "stopCode": code,
            "stoppedReason": reason,
            "containers": [{"name": "guacd", **(container or {})}],
        }
    )
    assert task is not None
    return task


@pytest.mark.parametrize(
    ("code", "reason", "container", "detail"),
    [
        (
            "TaskFailedToStart",
            "Task failed to start",
            {"reason": "CannotPullContainerError: inspect image has been retried 5 time(s)"},
            "AWS could not fetch the gateway's image.",
        ),
        (
            "TaskFailedToStart",
            "ResourceInitializationError: unable to pull secrets or registry auth",
            {},
            "AWS could not fetch what the gateway needs to start.",
        ),
        (
            "TaskFailedToStart",
            "Timeout waiting for network interface provisioning to complete.",
            {},
            "The gateway got no network address from AWS.",
        ),
        ("TaskFailedToStart", "Something quite new", {}, "AWS could not start the gateway."),
        (
            "EssentialContainerExited",
            "Essential container in task exited",
            {"exitCode": 137, "reason": "OutOfMemoryError: Container killed due to memory usage"},
            "The gateway ran out of memory.",
        ),
        (
            "EssentialContainerExited",
            "Essential container in task exited",
            {"exitCode": 1},
            "The gateway ended by itself.",
        ),
        ("", "Host EC2 (instance i-0abc) terminated.", {}, "The computer on which the gateway ran was lost."),
        (
            "SpotInterruption",
            "Host EC2 (instance i-0abc) terminated.",
            {},
            "AWS took back the computer on which the gateway ran (SpotInterruption).",
        ),
        ("UserInitiated", "RESOURCE:MEMORY, said Bob", {}, "Somebody or something at AWS stopped the gateway."),
        ("", "", {}, "The gateway was stopped."),
    ],
)
def test_end_of_a_task_is_said_plainly_and_kept_whole(
    code: str, reason: str, container: dict[str, Any], detail: str
) -> None:
    words = ecs_words.of_end(_ended(code, reason, container))
    assert words.detail == detail
    assert reason in words.record and code in words.record and str(container.get("reason", "")) in words.record
    assert "arn:" not in words.detail + words.record


@pytest.mark.parametrize(
    ("reason", "detail"),
    [
        ("RESOURCE:MEMORY", "There is no room for another gateway in this cluster (RESOURCE:MEMORY)."),
        ("RESOURCE:GPU", "There is no room for another gateway in this cluster (RESOURCE:GPU)."),
        ("AGENT", "The computers for gateways do not answer AWS (AGENT)."),
        ("ATTRIBUTE", "No computer of this cluster is fit for gateways (ATTRIBUTE)."),
        (
            "Capacity is unavailable at this time. Please try again later or in a different availability zone",
            "AWS has no computer for another gateway at the moment.",
        ),
        ("NOVELTY", "AWS could not place the gateway on a computer (NOVELTY)."),
    ],
)
def test_lack_of_room_is_said_with_its_reason(reason: str, detail: str) -> None:
    words = ecs_words.of_failures([{"arn": f"{ARN}", "reason": reason, "detail": "no fit"}])
    assert words.no_room == reason.startswith(("RESOURCE", "Capacity"))
    assert words.detail.startswith(detail)
    assert reason in words.record and "no fit" in words.record and "arn:" not in words.record


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_of_refusal_has_words_of_its_own_that_frighten_nobody(kind: Kind) -> None:
    error = ecs_words.of_error(AwsError("ecs:RunTask: something exact. Look at ECS_CLUSTER.", kind=kind))
    assert error.record == "ecs:RunTask: something exact. Look at ECS_CLUSTER."
    assert str(error)[0].isupper() and str(error).endswith(".") and "ecs:" not in str(error)


def test_guide_quotes_what_a_rescue_says_that_waits_for_a_computer() -> None:
    guide = (Path(__file__).resolve().parents[4] / "docs" / "deploy-aws.md").read_text()
    (quoted,) = re.findall(r"“([^”]+)” on a rescue", guide)
    assert ecs_words.NO_ROOM_YET.startswith(f"{quoted}.")


def test_endless_reason_is_cut_and_holds_no_line_break() -> None:
    words = ecs_words.of_end(_ended("TaskFailedToStart", "x\ny" * 1000))
    assert len(words.record) <= 400 and "\n" not in words.record


@pytest.mark.parametrize("described", [{}, {"taskArn": None}, {"taskArn": 7}, {"taskArn": ""}])
def test_what_is_no_task_is_none(described: dict[str, Any]) -> None:
    assert parse(described) is None


@pytest.mark.parametrize("address", ["", "169.254.169.254.1", "fd00::1", "evil.example", None, 7.5])
def test_address_that_is_no_ipv4_address_is_none(address: object) -> None:
    attachment = {"type": "eni", "details": [{"name": "privateIPv4Address", "value": address}]}
    task = parse({"taskArn": ARN, "attachments": [attachment], "containers": None, "tags": "x"})
    assert task is not None and task.address == ""
