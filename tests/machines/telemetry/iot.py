"""What the tests of AWS IoT Core share: credentials, and what a machine and its planners do in AWS."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from machines.models import Machine
from machines.telemetry import iot_core
from machines.telemetry.iot_core import IotCoreTelemetry

REGION = "eu-west-1"
NOW = datetime(2026, 11, 23, 7, 40, tzinfo=UTC)


def credentials(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    for name, value in {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", **values}.items():
        monkeypatch.setenv(name, value)


class Iot:
    """The driver under test, and moto's AWS as the machine and the planners use it; make it where AWS is moto."""

    def __init__(self, backend: Any, endpoint: str) -> None:
        import boto3

        self.backend, self.endpoint = backend, endpoint
        self.driver = IotCoreTelemetry()
        self.things: Any = boto3.client("iot", region_name=REGION)
        self.data: Any = boto3.client("iot-data", region_name=REGION)

    def thing(self, machine: Machine, **attributes: str) -> None:
        name = iot_core.thing_name(machine)
        if not any(one["thingName"] == name for one in self.things.list_things()["things"]):
            self.things.create_thing(thingName=name)  # moto would replace one that is there
        payload = {"attributes": attributes, "merge": True}
        self.things.update_thing(thingName=name, attributePayload=payload)

    def attributes(self, machine: Machine) -> dict[str, str]:
        found: dict[str, str] = self.things.describe_thing(thingName=iot_core.thing_name(machine))["attributes"]
        return found

    def report(self, machine: Machine, **reported: object) -> None:
        self.data.update_thing_shadow(
            thingName=iot_core.thing_name(machine),
            shadowName="remote-desktop",
            payload=json.dumps({"state": {"reported": reported}}),
        )

    def desired(self, machine: Machine) -> dict[str, Any]:
        answer = self.data.get_thing_shadow(thingName=iot_core.thing_name(machine), shadowName="remote-desktop")
        found: dict[str, Any] = json.loads(answer["payload"].read())["state"].get("desired", {})
        return found

    def jobs(self, machine: Machine) -> list[str]:
        answer = self.things.list_job_executions_for_thing(thingName=iot_core.thing_name(machine))
        return sorted(one["jobId"] for one in answer["executionSummaries"])

    def set_job(self, machine: Machine, status: str) -> None:
        """What the machine does over MQTT, which moto does not have."""
        name = iot_core.thing_name(machine)
        for (_, thing), execution in self.backend.job_executions.items():
            if thing == name:
                execution.status = status
