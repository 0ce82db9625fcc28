"""Whether IoT Core and Global Accelerator are as they should be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings

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
    """Each accelerator is there, switched on, and sends traffic to something healthy."""
    service = GlobalAccelerator()
    for name in (one for one in settings.ACCELERATOR.split(",") if one):
        try:
            found = service.read(name)
        except AcceleratorMissing as error:
            yield wrong(str(error))
            continue
        if not found.is_enabled:
            yield wrong(f"The accelerator {name} is switched off: nothing comes through it. Enable it.")
        faults = []
        for listener, group in found.groups():
            where = f"{listener.title} in {group.region} of the accelerator {name}"
            sick = [one for one in group.endpoints if one.health == "UNHEALTHY"]
            if not group.endpoints:
                faults.append(wrong(f"{where} has no endpoint. Deploy the stack edge again."))
            elif len(sick) == len(group.endpoints):
                faults.append(
                    wrong(f"{where} has no healthy endpoint. Look at {group.health_path or 'what is there'}.")
                )
            elif sick:
                faults.append(attention(f"{where}: {len(sick)} of {len(group.endpoints)} endpoints are not healthy."))
            if group.dial < 100:
                faults.append(attention(f"{where} gets {group.dial:g} % of its traffic. Turn the dial in the admin."))
        yield from faults
        if found.is_enabled and not faults:
            yield ok(f"The accelerator {name} is on, and every endpoint is healthy.")
