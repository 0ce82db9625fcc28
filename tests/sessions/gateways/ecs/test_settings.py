"""GATEWAY=ecs needs a few settings, and does not start with one that cannot be meant."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

SETTINGS = Path(__file__).resolve().parents[4] / "portal" / "settings.py"
GOOD = {
    "GATEWAY": "ecs",
    "AWS_REGION": "eu-west-1",
    "INSTALLATION": "portafilter",
    "ECS_CLUSTER": "portafilter",
    "ECS_TASK_DEFINITION": "portafilter-gateway",
    "ECS_SUBNETS": "subnet-0a1b2c3d, subnet-0a1b2c3d4e5f60718",
    "ECS_SECURITY_GROUPS": "sg-0a1b2c3d",
}
ARN = "arn:aws:ecs:eu-west-1:123456789012"


def _read(monkeypatch: pytest.MonkeyPatch, **changed: str) -> dict[str, Any]:
    for name, value in {**GOOD, **changed}.items():
        monkeypatch.setenv(name, value)
    return runpy.run_path(str(SETTINGS))


def test_settings_of_ecs_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _read(monkeypatch)
    assert found["ECS_SUBNETS"] == ["subnet-0a1b2c3d", "subnet-0a1b2c3d4e5f60718"]
    assert (found["ECS_NETWORK"], found["ECS_READY_S"], found["ECS_EVENTS_QUEUE"]) == ("tunnel", 50, "")


def test_arns_and_a_queue_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = "https://sqs.eu-west-1.amazonaws.com/123456789012/portafilter-events"
    found = _read(
        monkeypatch,
        ECS_CLUSTER=f"{ARN}:cluster/portafilter",
        ECS_TASK_DEFINITION=f"{ARN}:task-definition/portafilter-gateway:7",
        ECS_EVENTS_QUEUE=queue,
    )
    assert found["ECS_EVENTS_QUEUE"] == queue


@pytest.mark.parametrize("name", ["AWS_REGION", "INSTALLATION", "ECS_CLUSTER", "ECS_TASK_DEFINITION", "ECS_SUBNETS"])
def test_setting_that_ecs_needs_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^{name}"):
        _read(monkeypatch, **{name: ""})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ECS_CLUSTER", "porta filter"),
        ("ECS_CLUSTER", "arn:aws:ecs:eu-west-1:1:cluster/portafilter"),
        ("ECS_TASK_DEFINITION", "gateway:0"),
        ("ECS_TASK_DEFINITION", "gateway:latest"),
        ("ECS_SUBNETS", "10.0.0.0/24"),
        ("ECS_SUBNETS", "subnet-0a1b2c3d,subnet-0a1b2c3d"),
        ("ECS_SECURITY_GROUPS", "default"),
        ("ECS_SECURITY_GROUPS", ",".join(f"sg-0a1b2c3{n}" for n in range(6))),
        ("ECS_CAPACITY_PROVIDER", "a b"),
        ("ECS_NETWORK", "host"),
        ("ECS_EVENTS_QUEUE", "portafilter-events"),
        ("ECS_EVENTS_QUEUE", "https://sqs.eu-west-1.amazonaws.com/portafilter-events"),
        ("ECS_READY_S", "1"),
        ("ECS_READY_S", "soon"),
    ],
)
def test_setting_that_cannot_be_meant_stops_the_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^{name}: found .*expected"):
        _read(monkeypatch, **{name: value})


def test_other_gateways_need_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = dict.fromkeys((*GOOD, "GATEWAY"), "")
    assert _read(monkeypatch, **nothing)["ECS_CLUSTER"] == ""
