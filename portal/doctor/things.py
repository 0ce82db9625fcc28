"""Whether IoT Core and Global Accelerator are as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings

from backbone import words
from backbone.accelerator import AcceleratorMissing, GlobalAccelerator
from machines.aws import AwsError, Kind
from portal.doctor.cloud import Cloud, uses_iot_core
from portal.doctor.findings import Check, Finding, attention, ok, wrong


def checks(cloud: Cloud | None) -> list[Check]:
    if cloud is None:
        return []
    found = [cloud.check("iot core", iot_core)] if uses_iot_core() else []
    return [*found, cloud.check("accelerator", accelerator)] if settings.ACCELERATOR else found


def iot_core(cloud: Cloud) -> Iterator[Finding]:
    """The type of the things, and where machines connect to."""
    kind = settings.IOT_THING_TYPE
    about: dict[str, Any] = {"about": f"thing type {kind}", "setting": "IOT_THING_TYPE"}
    try:
        answer = cloud.aws.call("iot", "DescribeThingType", **about, thingTypeName=kind)
    except AwsError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
        yield attention(
            f"IOT_THING_TYPE: there is no thing type {kind} in {cloud.aws.region} yet. Is it the right region?"
        )
    else:
        if (answer.get("thingTypeMetadata") or {}).get("deprecated"):
            yield wrong(f"IOT_THING_TYPE: the thing type {kind} is deprecated, so no machine gets a thing. Undo that.")
        else:
            yield ok(f"The thing type {kind} is there.")
    about = {"about": "the account's endpoint", "setting": "AWS_REGION"}
    address = cloud.aws.call("iot", "DescribeEndpoint", **about, endpointType="iot:Data-ATS").get("endpointAddress")
    yield ok(f"Machines find IoT Core at {address}.")


def accelerator(cloud: Cloud) -> Iterator[Finding]:
    """Each accelerator is there, and what the admin would say is wrong with it."""
    service = GlobalAccelerator()
    for name in (one for one in settings.ACCELERATOR.split(",") if one):
        try:
            found = service.read(name)
        except AcceleratorMissing as error:
            yield wrong(str(error))
            continue
        faults = words.troubles(found)
        for fault in faults:
            said = f"{name}: {fault.words}"
            yield wrong(said) if fault.is_outage else attention(said)
        if not faults:
            yield ok(f"The accelerator {name} is on, and every endpoint is healthy.")
