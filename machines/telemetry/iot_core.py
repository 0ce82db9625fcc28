"""Telemetry by AWS IoT Core: a thing a machine, whose attributes say who is responsible.

The thing's attributes `operator` and `next` (more names, comma separated) are kept by whoever plans there; Portafilter
reads them, and writes `fleet`, `serial` and `site`. The named shadow `remote-desktop` holds what the machine reports,
and a code while it enrols. No private key ever goes through AWS: a job tells the machine to make its own and to enrol
(see docs/decisions/0008-through-iot-core-a-machine-is-invited.md). A thing is never made where one may be: CreateThing
on an existing one is refused by AWS if it differs, but silently replaces it, shadows and all, elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.utils.text import slugify

from machines.aws import Aws, AwsError, Kind
from machines.models import Machine
from machines.telemetry.answers import CANDIDATES_LIMIT, AnswerError, read_duty, read_json, read_last_word
from machines.telemetry.base import Duty, Invitation, LastWord, MachineUnknown, Profile, TelemetryError

SHADOW = "remote-desktop"
# AWS' limit of a shadow's desired or reported part.
_SHADOW_LIMIT = 8 * 1024
_JOB_MINUTES = 15  # as long as a code is good for
_WAITING, _AT_IT, _DONE = {"QUEUED"}, {"IN_PROGRESS"}, {"SUCCEEDED"}
_TAKEN = "ResourceAlreadyExistsException"
# What a thing's name comes from.
_NAMED_BY = "IOT_THING_NAME"


@contextmanager
def _as_telemetry() -> Iterator[None]:
    """What AWS refuses is never final here: somebody may put it right before the next try."""
    try:
        yield
    except AwsError as error:
        raise TelemetryError(str(error)) from error


@contextmanager
def _unless_taken() -> Iterator[None]:
    """Making what somebody else has made meanwhile is no failure."""
    try:
        yield
    except AwsError as error:
        if error.code != _TAKEN:
            raise


class IotCoreTelemetry:
    """Things, shadows and jobs in AWS_REGION; for any number of threads."""

    def __init__(self) -> None:
        if not settings.AWS_REGION:
            raise TelemetryError("AWS_REGION: found nothing, expected the region of the things, as in eu-west-1.")
        self._aws = Aws(settings.AWS_REGION)

    # --- questions ----------------------------------------------------------------------------------------------------

    @_as_telemetry()
    def who_is_responsible(self, machine: Machine, *, now: datetime) -> Duty:
        attributes = self._thing(machine)["attributes"]
        found: dict[str, str] = {}
        for name in [attributes.get("operator", ""), *attributes.get("next", "").split(",")]:
            if name.strip():
                found.setdefault(name.strip(), "next in IoT Core" if found else "responsible in IoT Core")
        named = [{"username": name, "why": why} for name, why in found.items()]
        try:
            return read_duty({"candidates": named[:CANDIDATES_LIMIT]}, source="iot_core")
        except AnswerError as error:
            words = f"The attributes operator and next of thing {thing_name(machine)} are not what was agreed: {error}."
            raise TelemetryError(words) from None

    @_as_telemetry()
    def last_word(self, machine: Machine) -> LastWord | None:
        document = self._shadow(machine)
        reported = _object(_object(document.get("state")).get("reported"))
        told_at = _newest(_object(document.get("metadata")).get("reported"))
        if not reported or told_at is None:
            return None
        try:
            word = read_last_word({"at": told_at.isoformat(), **reported})
        except AnswerError as error:
            raise TelemetryError(f"Shadow {SHADOW} of thing {thing_name(machine)}, reported.{error}.") from None
        # A machine's clock may be wrong; AWS' is not.
        at = min(word.at or told_at, told_at)
        return LastWord(at, word.is_connected, word.software, word.faults, word.profile_version)

    # --- how a machine comes to its profile ---------------------------------------------------------------------------

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        """Never: a private key has no business in AWS. See `invite`."""
        raise TelemetryError("A profile with a private key does not go through IoT Core.", permanent=True)

    @_as_telemetry()
    def invite(self, machine: Machine, invitation: Invitation) -> None:
        """Sees to it that the machine's job is there; once the machine is at it, the code is in its shadow."""
        execution = self._execution(machine, invitation)
        if execution is None:
            thing = self._own_thing(machine)
            self._create_job(machine, invitation, str(thing["thingArn"]))
            return
        status = str(execution.get("status", ""))
        if status in _AT_IT:
            self._offer_code(machine, invitation)
        elif status not in _WAITING | _DONE:
            self._set_enrolment(machine, None)
            words = f"{machine.serial} did not enrol: its job {job_id(invitation)} ended as {status[:40]}."
            raise TelemetryError(words, permanent=True)

    @_as_telemetry()
    def end_invitation(self, machine: Machine, invitation: Invitation, *, profile_version: str) -> None:
        """The machine has enrolled: the code goes, and its new profile's version stands in the shadow."""
        self._set_enrolment(machine, None, profile_version=profile_version)

    def _offer_code(self, machine: Machine, invitation: Invitation) -> None:
        document = self._shadow(machine)
        offered = _object(_object(_object(document.get("state")).get("desired")).get("enrolment"))
        if offered.get("invitation") == invitation.number and _is_ahead(offered.get("expires_at")):
            return
        code, expires_at = invitation.issue()
        enrolment = {
            "invitation": invitation.number,
            "address": invitation.address,
            "code": code,
            "expires_at": expires_at.astimezone(UTC).isoformat(timespec="seconds"),
        }
        self._set_enrolment(machine, enrolment)

    def _set_enrolment(
        self, machine: Machine, enrolment: dict[str, str] | None, *, profile_version: str | None = None
    ) -> None:
        desired: dict[str, Any] = {"enrolment": enrolment}
        if profile_version is not None:
            desired["profile_version"] = profile_version
        payload = json.dumps({"state": {"desired": desired}}).encode()
        if len(payload) > _SHADOW_LIMIT:
            words = f"found {len(payload)} bytes for the shadow of {machine.serial}, expected {_SHADOW_LIMIT} at most"
            raise TelemetryError(words, permanent=True)
        name = thing_name(machine)
        arguments = {"thingName": name, "shadowName": SHADOW, "payload": payload}
        self._aws.call("iot-data", "UpdateThingShadow", about=f"thing {name}", setting=_NAMED_BY, **arguments)

    def _execution(self, machine: Machine, invitation: Invitation) -> Mapping[str, Any] | None:
        name = thing_name(machine)
        try:
            arguments = {"jobId": job_id(invitation), "thingName": name}
            answer = self._aws.call(
                "iot", "DescribeJobExecution", about=f"thing {name}", setting=_NAMED_BY, **arguments
            )
        except AwsError as error:
            if error.kind is Kind.NOT_FOUND:
                return None
            raise
        return _object(answer.get("execution"))

    def _create_job(self, machine: Machine, invitation: Invitation, arn: str) -> None:
        document = {
            "operation": "portafilter-enrol",
            "invitation": invitation.number,
            "address": invitation.address,
            "shadow": SHADOW,
        }
        with _unless_taken():  # by an earlier try whose answer was lost
            self._aws.call(
                "iot",
                "CreateJob",
                about=f"job {job_id(invitation)}",
                setting=_NAMED_BY,
                jobId=job_id(invitation),
                targets=[arn],
                document=json.dumps(document),
                description=f"{machine.serial} is to enrol with Portafilter",
                targetSelection="SNAPSHOT",
                timeoutConfig={"inProgressTimeoutInMinutes": _JOB_MINUTES},
            )

    # --- things and shadows -------------------------------------------------------------------------------------------

    def _thing(self, machine: Machine) -> dict[str, Any]:
        """The machine's thing. Raises MachineUnknown when there is none, or it is another fleet's."""
        name = thing_name(machine)
        try:
            thing = self._aws.call("iot", "DescribeThing", about=f"thing {name}", setting=_NAMED_BY, thingName=name)
        except AwsError as error:
            if error.kind is Kind.NOT_FOUND:
                words = f"Found no thing {name} in {settings.AWS_REGION} (AWS_REGION, IOT_THING_NAME)."
                raise MachineUnknown(words) from None
            raise
        attributes = thing.get("attributes", {})
        for key, wanted in (("fleet", machine.fleet.slug), ("serial", machine.serial)):
            found = attributes.get(key, wanted)
            if found != wanted:
                raise MachineUnknown(f"Thing {name} has the {key} {found[:64]}, expected {wanted}.")
        return {**thing, "attributes": attributes}

    def _own_thing(self, machine: Machine) -> dict[str, Any]:
        """The same, made where there is none. One that somebody else made must say whose it is."""
        wanted = {"fleet": machine.fleet.slug, "serial": machine.serial, "site": site_name(machine)}
        name = thing_name(machine)
        try:
            thing = self._thing(machine)
        except MachineUnknown:
            self._create_thing(name, wanted)
            thing = self._thing(machine)  # raises again where it is another fleet's
        attributes = thing["attributes"]
        if not {"fleet", "serial"} <= attributes.keys():
            words = f"Thing {name} does not say whose it is: set its attributes"
            raise TelemetryError(f"{words} fleet={machine.fleet.slug} and serial={machine.serial}.", permanent=True)
        if {key: attributes.get(key) for key in wanted} != wanted:
            self._aws.call(
                "iot",
                "UpdateThing",
                about=f"thing {name}",
                setting=_NAMED_BY,
                thingName=name,
                attributePayload={"attributes": wanted, "merge": True},
                expectedVersion=thing["version"],
            )
        return thing

    def _create_thing(self, name: str, attributes: dict[str, str]) -> None:
        kind = settings.IOT_THING_TYPE
        self._have_thing_type(kind)
        payload = {"attributes": attributes}
        with _unless_taken():
            self._aws.call(
                "iot",
                "CreateThing",
                about=f"thing {name}",
                setting=_NAMED_BY,
                thingName=name,
                thingTypeName=kind,
                attributePayload=payload,
            )

    def _have_thing_type(self, kind: str) -> None:
        what = {"about": f"thing type {kind}", "setting": "IOT_THING_TYPE"}
        try:
            self._aws.call("iot", "DescribeThingType", **what, thingTypeName=kind)
        except AwsError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            properties = {"searchableAttributes": ["operator", "fleet", "site"]}
            with _unless_taken():
                self._aws.call("iot", "CreateThingType", **what, thingTypeName=kind, thingTypeProperties=properties)

    def _shadow(self, machine: Machine) -> Mapping[str, Any]:
        """The whole shadow document; empty where there is none."""
        name = thing_name(machine)
        try:
            arguments = {"thingName": name, "shadowName": SHADOW}
            answer = self._aws.call("iot-data", "GetThingShadow", about=f"thing {name}", setting=_NAMED_BY, **arguments)
            return read_json(answer["payload"][: 8 * _SHADOW_LIMIT])
        except AwsError as error:
            if error.kind is Kind.NOT_FOUND:
                return {}
            raise
        except AnswerError as error:
            raise TelemetryError(f"Shadow {SHADOW} of thing {name}: {error}.") from None


def thing_name(machine: Machine) -> str:
    """By IOT_THING_NAME. Two machines may come to one name, since names of things have no dots: `_thing` sees that."""
    name: str = settings.IOT_THING_NAME.replace("{fleet}", machine.fleet.slug)
    return name.replace("{serial}", machine.serial.replace(".", "_"))


def site_name(machine: Machine) -> str:
    """Its site as an attribute's value may be: neither blanks nor umlauts; the number keeps it one site's own."""
    return f"{slugify(machine.site.name)[:60]}-{machine.site_id}".lstrip("-")


def job_id(invitation: Invitation) -> str:
    return f"portafilter-{invitation.number}"


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _newest(metadata: object) -> datetime | None:
    """The newest of the timestamps in a shadow's metadata, which has the form of its state."""
    if isinstance(metadata, dict):
        stamp = metadata.get("timestamp")
        if isinstance(stamp, int) and 0 < stamp < 2**33:
            return datetime.fromtimestamp(stamp, UTC)
        inner: list[Any] = list(metadata.values())
    else:
        inner = metadata if isinstance(metadata, list) else []
    return max((found for one in inner if (found := _newest(one))), default=None)


def _is_ahead(text: object) -> bool:
    try:
        return isinstance(text, str) and datetime.fromisoformat(text) > datetime.now(UTC)
    except (ValueError, TypeError):
        return False
