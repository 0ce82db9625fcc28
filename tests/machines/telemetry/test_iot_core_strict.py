"""What IoT Core takes, and moto is too kind for: names, attributes, sizes, what exists, versions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from machines import aws
from machines.telemetry import iot_core
from machines.telemetry.base import Invitation, TelemetryError
from machines.telemetry.iot_core import IotCoreTelemetry
from tests.machines.cast import new_machine
from tests.machines.telemetry.iot import REGION

pytestmark = pytest.mark.django_db


class StrictAws:
    """AWS as its documents have it, where moto lets anything pass: names, attributes, sizes, what exists, versions."""

    def __init__(self) -> None:
        self.things: dict[str, dict[str, Any]] = {}
        self.shadows: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.types: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        # Called before each call: somebody else who is faster.
        self.meanwhile: dict[str, Any] = {}

    def call(self, service: str, name: str, /, *, about: str, setting: str, **given: Any) -> Any:
        import re

        self.calls.append(name)
        if act := self.meanwhile.pop(name, None):
            act()
        if "thingName" in given and not re.fullmatch(r"[a-zA-Z0-9:_-]{1,128}", given["thingName"]):
            raise AssertionError(f"no name of a thing: {given['thingName']}")
        if "jobId" in given and not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", given["jobId"]):
            raise AssertionError(f"no name of a job: {given['jobId']}")
        for key, value in given.get("attributePayload", {}).get("attributes", {}).items():
            if not re.fullmatch(r"[a-zA-Z0-9_.,@/:#=\[\]-]{0,800}", value) or not re.fullmatch(
                r"[\w.@/:#-]{1,128}", key
            ):
                raise AssertionError(f"no attribute: {key}={value}")
        return getattr(self, f"on_{name}")(**given)

    def on_DescribeThing(self, thingName: str) -> Any:
        return dict(self.found(self.things, thingName))

    def on_CreateThing(self, thingName: str, thingTypeName: str, attributePayload: Any) -> Any:
        self.found(self.types, thingTypeName)
        if thingName in self.things:
            raise aws.AwsError("exists", code="ResourceAlreadyExistsException")
        self.things[thingName] = {
            "thingName": thingName,
            "thingArn": f"arn:{thingName}",
            "version": 1,
            **attributePayload,
        }
        return self.things[thingName]

    def on_UpdateThing(self, thingName: str, attributePayload: Any, expectedVersion: int) -> Any:
        thing = self.found(self.things, thingName)
        if thing["version"] != expectedVersion:
            raise aws.AwsError("version conflict", code="VersionConflictException")
        assert attributePayload["merge"] is True, "the others' attributes would go"
        thing["attributes"] = {**thing["attributes"], **attributePayload["attributes"]}
        thing["version"] += 1

    def on_DescribeThingType(self, thingTypeName: str) -> Any:
        return self.found(self.types, thingTypeName)

    def on_CreateThingType(self, thingTypeName: str, thingTypeProperties: Any) -> Any:
        assert len(thingTypeProperties["searchableAttributes"]) <= 3
        self.types[thingTypeName] = thingTypeProperties

    def on_DescribeJobExecution(self, jobId: str, thingName: str) -> Any:
        return {"execution": {"status": self.found(self.jobs, jobId)["status"]}}

    def on_CreateJob(self, jobId: str, document: str, targets: list[str], **_: Any) -> Any:
        if jobId in self.jobs:
            raise aws.AwsError("exists", code="ResourceAlreadyExistsException")
        assert len(document) <= 32 * 1024
        self.jobs[jobId] = {"status": "QUEUED", "targets": targets}

    def on_GetThingShadow(self, thingName: str, shadowName: str) -> Any:
        shadow = self.found(self.shadows, thingName)
        return {"payload": json.dumps({"state": shadow}).encode()}

    def on_UpdateThingShadow(self, thingName: str, shadowName: str, payload: bytes) -> Any:
        assert len(payload) <= 8 * 1024
        self.found(self.things, thingName)
        desired = self.shadows.setdefault(thingName, {}).setdefault("desired", {})
        for key, value in json.loads(payload)["state"]["desired"].items():
            if value is None:
                desired.pop(key, None)
            else:
                desired[key] = value

    @staticmethod
    def found(where: dict[str, Any], name: str) -> Any:
        if name not in where:
            raise aws.AwsError("not found", kind=aws.Kind.NOT_FOUND)
        return where[name]


@pytest.fixture
def strict(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> StrictAws:
    settings.AWS_REGION = REGION
    found = StrictAws()
    monkeypatch.setattr(iot_core, "Aws", lambda region: found)
    return found


def invitation(issued: list[str] | None = None) -> Invitation:
    def issue() -> tuple[str, datetime]:
        if issued is not None:
            issued.append("code")
        return "ABCDE-ABCDE-ABCDE-ABCDE", datetime.now(UTC) + timedelta(minutes=15)

    return Invitation("7-20261123074000123456", "https://portal.example.com/enrol/", issue)


def test_things_and_sites_of_any_name_fit_into_aws(strict: StrictAws) -> None:
    machine = new_machine("A.1_x-" + "9" * 50)
    machine.site.name = "Köln, Straße 1 “Süd” – 東京 " * 3
    IotCoreTelemetry().invite(machine, invitation())
    (thing,) = strict.things.values()
    assert thing["attributes"]["site"].startswith("koln-strae-1-sud")
    assert strict.types == {"portafilter-machine": {"searchableAttributes": ["operator", "fleet", "site"]}}


def test_somebody_who_is_faster_changes_nothing(strict: StrictAws) -> None:
    machine, driver = new_machine(), IotCoreTelemetry()
    theirs: dict[str, Any] = {"thingName": "north-A1", "thingArn": "arn:1", "version": 4}
    theirs["attributes"] = {"operator": "alice", "fleet": "north", "serial": "A1"}
    strict.meanwhile["CreateThing"] = lambda: strict.things.update({"north-A1": theirs})
    strict.meanwhile["CreateJob"] = lambda: strict.jobs.update(
        {iot_core.job_id(invitation()): {"status": "QUEUED", "targets": ["arn:1"]}}
    )
    driver.invite(machine, invitation())
    assert strict.things["north-A1"]["attributes"]["operator"] == "alice"
    assert strict.things["north-A1"]["version"] == 5
    assert len(strict.jobs) == 1


def test_thing_that_changed_meanwhile_is_not_written_over(strict: StrictAws) -> None:
    machine, driver = new_machine(), IotCoreTelemetry()
    thing: dict[str, Any] = {"thingName": "north-A1", "thingArn": "arn:1", "version": 4}
    thing["attributes"] = {"fleet": "north", "serial": "A1", "site": "old"}
    strict.things["north-A1"] = thing
    strict.meanwhile["UpdateThing"] = lambda: thing.update(version=5)
    with pytest.raises(TelemetryError) as found:
        driver.invite(machine, invitation())
    assert not found.value.permanent
    driver.invite(machine, invitation())


def test_one_call_a_look_while_the_machine_is_away(strict: StrictAws) -> None:
    machine, driver, issued = new_machine(), IotCoreTelemetry(), list[str]()
    driver.invite(machine, invitation(issued))
    strict.calls.clear()
    driver.invite(machine, invitation(issued))
    assert strict.calls == ["DescribeJobExecution"]
    assert issued == []
