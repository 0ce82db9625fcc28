"""Telemetry by AWS IoT Core against moto's real HTTP server: questions, and an invitation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings
from pytest_django.fixtures import Settings

from machines import enrolment, identities
from machines.models import EnrolmentCode, Machine, ProfileDelivery, SecurityEvent, VpnIdentity
from machines.profile_passes import ProfilePasses, request_profile
from machines.telemetry import asking, iot_core
from machines.telemetry.base import InvitingDriver, MachineUnknown, Profile, TelemetryError
from machines.telemetry.iot_core import IotCoreTelemetry
from tests.machines.cast import new_machine
from tests.machines.requests import request as csr
from tests.machines.telemetry.contract import Arrangement, TelemetryContract
from tests.machines.telemetry.iot import NOW, REGION, Iot, credentials
from tests.sessions.rescues import Clock, person
from tests.waiting import until

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def aws_of_the_tests() -> Iterator[Iot]:
    """moto's server, and clients of it: they take seconds to make, so there is one of each."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.iot.models import iot_backends
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch, override_settings(AWS_REGION=REGION):
            credentials(patch, AWS_ENDPOINT_URL=f"http://{host}:{port}")
            yield Iot(iot_backends[DEFAULT_ACCOUNT_ID][REGION], f"http://{host}:{port}")
    finally:
        server.stop()


@pytest.fixture
def iot(aws_of_the_tests: Iot, settings: Settings) -> Iot:
    """What the machine and the planners do in AWS; nothing is left of the test before."""
    settings.AWS_REGION = REGION
    aws_of_the_tests.backend.reset()
    return aws_of_the_tests


class Things:
    """Answers arranged in IoT Core."""

    source = "iot_core"

    def __init__(self, iot: Iot) -> None:
        self.iot, self.driver = iot, iot.driver

    def make_responsible(self, machine: Machine, usernames: Sequence[str]) -> None:
        first, *others = usernames or [""]
        self.iot.thing(machine, operator=first, next=",".join(others))

    def let_say(self, machine: Machine, *, at: datetime, software: str, faults: Sequence[str]) -> None:
        self.iot.thing(machine)
        self.iot.report(machine, at=at.isoformat(), software=software, faults=list(faults), connected=True)


class TestIotCore(TelemetryContract):
    @pytest.fixture
    def arrangement(self, iot: Iot) -> Arrangement:
        return Things(iot)

    def test_driver_takes_a_profile_and_the_same_one_again(self, arrangement: Arrangement) -> None:
        """No: a private key never goes through AWS. It invites instead, which the tests below are about."""
        machine = new_machine()
        with pytest.raises(TelemetryError, match="private key") as found:
            arrangement.driver.deliver_profile(machine, Profile("ab", "PRIVATE"))
        assert found.value.permanent
        assert isinstance(arrangement.driver, InvitingDriver)


# --- questions --------------------------------------------------------------------------------------------------------


def test_those_responsible_can_be_searched_by(iot: Iot) -> None:
    machine = new_machine()
    iot.thing(machine, operator="alice")
    found = iot.things.list_things(attributeName="operator", attributeValue="alice")["things"]
    assert [one["thingName"] for one in found] == ["north-A1"]


def test_each_is_named_once_and_in_order(iot: Iot) -> None:
    machine = new_machine()
    iot.thing(machine, operator="alice", next="bob, alice,,zoe")
    duty = iot.driver.who_is_responsible(machine, now=NOW)
    assert [(one.username, one.why) for one in duty.candidates] == [
        ("alice", "responsible in IoT Core"),
        ("bob", "next in IoT Core"),
        ("zoe", "next in IoT Core"),
    ]


def test_machine_without_a_thing_is_unknown(iot: Iot) -> None:
    with pytest.raises(MachineUnknown, match=r"no thing north-A1 in eu-west-1 \(AWS_REGION, IOT_THING_NAME\)"):
        iot.driver.who_is_responsible(new_machine(), now=NOW)


def test_thing_of_another_fleet_is_not_believed(iot: Iot, settings: Settings) -> None:
    settings.IOT_THING_NAME = "{serial}"
    machine = new_machine()
    iot.thing(machine, operator="charlie", fleet="south")
    with pytest.raises(MachineUnknown, match="has the fleet south, expected north"):
        iot.driver.who_is_responsible(machine, now=NOW)


def test_thing_of_another_machine_whose_name_comes_to_the_same_is_not_believed(iot: Iot) -> None:
    one, other = new_machine("A.1"), new_machine("A_1")
    assert iot_core.thing_name(one) == iot_core.thing_name(other) == "north-A_1"
    iot.thing(one, operator="alice", serial="A.1")
    iot.driver.who_is_responsible(one, now=NOW)
    with pytest.raises(MachineUnknown, match=r"has the serial A\.1, expected A_1"):
        iot.driver.who_is_responsible(other, now=NOW)


def test_machines_clock_is_not_believed_beyond_that_of_aws(iot: Iot) -> None:
    machine = new_machine()
    iot.thing(machine)
    iot.report(machine, at="2126-01-01T00:00:00Z", software="4.2")
    word = iot.driver.last_word(machine)
    assert word is not None and word.at is not None
    assert abs(word.at - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(("reported", "words"), [({"faults": "E17"}, "reported.faults: found a text, expected a list")])
def test_shadow_that_was_not_agreed_is_named(iot: Iot, reported: dict[str, Any], words: str) -> None:
    machine = new_machine()
    iot.thing(machine)
    iot.report(machine, **reported)
    with pytest.raises(TelemetryError, match=words):
        iot.driver.last_word(machine)


def test_rescue_asks_it_as_any_other(iot: Iot, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = new_machine()
    person("Alice"), person("Charlie", of="South")
    iot.thing(machine, operator="charlie", next="alice")
    settings.TELEMETRY, settings.TELEMETRY_TIMEOUT_S = "iot_core", 60.0  # boto3's client is long in the making
    credentials(monkeypatch, AWS_ENDPOINT_URL=iot.endpoint)
    asking.forget()
    try:
        duty = asking.ask(machine, now=datetime.now(UTC))
        assert ([one.username for one in duty.candidates], duty.source) == (["alice"], "iot_core")
        until(lambda: not asking._way()._to_hear, "its last word was asked for, too")
    finally:
        asking.forget()


def test_mapping_of_nothing_is_nothing() -> None:
    empty: Mapping[str, Any] = {}
    assert iot_core._newest(None) is None
    assert iot_core._newest({"a": {"timestamp": True}, "b": [{"timestamp": 5}]}) == datetime.fromtimestamp(5, UTC)
    assert iot_core._object([]) == empty


# --- an invitation ----------------------------------------------------------------------------------------------------


class Wish:
    """A profile that is wished for, the worker's passes, and the machine in AWS."""

    def __init__(self, iot: Iot, machine: Machine) -> None:
        self.iot, self.machine, self.driver = iot, machine, iot.driver
        self.delivery = request_profile(machine, user=person("Alice"))
        self.clock = Clock()
        self.passes = ProfilePasses(self.clock, lambda: self.driver)

    def later(self, seconds: float = 61) -> ProfileDelivery:
        self.clock.tick(seconds)
        self.passes.run()
        self.delivery.refresh_from_db()
        return self.delivery

    def code(self) -> str:
        found: str = self.iot.desired(self.machine)["enrolment"]["code"]
        return found


@pytest.fixture
def wish(iot: Iot, vpn: Settings) -> Wish:
    return Wish(iot, new_machine())


def everything_in_aws(iot: Iot, machine: Machine) -> str:
    name = iot_core.thing_name(machine)
    jobs = [iot.things.get_job_document(jobId=job)["document"] for job in iot.jobs(machine)]
    shadows = [shadow.to_dict() for shadow in iot.backend.describe_thing(name).thing_shadows.values()]
    return json.dumps([iot.attributes(machine), jobs, shadows])


def test_machine_is_invited_takes_it_up_and_enrols_with_its_own_key(wish: Wish) -> None:
    iot, machine = wish.iot, wish.machine
    wish.later(1)
    (job,) = iot.jobs(machine)
    assert iot.attributes(machine) == {"fleet": "north", "serial": "A1", "site": f"station-{machine.site_id}"}
    assert EnrolmentCode.objects.count() == 0, "no code lies about while the machine is away"
    wish.later()
    wish.later()
    assert iot.jobs(machine) == [job]
    document = json.loads(iot.things.get_job_document(jobId=job)["document"])
    assert document["operation"] == "portafilter-enrol"
    assert document["address"].endswith("/enrol/")

    iot.set_job(machine, "IN_PROGRESS")
    wish.later()
    offered = iot.desired(machine)["enrolment"]
    assert offered["invitation"] == document["invitation"]
    wish.later(20)
    assert wish.code() == offered["code"], "a code that is still good is not replaced"

    answer = enrolment.enrol(wish.code(), csr(), address="192.0.2.7", now=wish.clock.at)
    assert "<key>" not in answer["profile"]
    iot.set_job(machine, "SUCCEEDED")
    assert wish.later().delivered_at is not None
    identity = VpnIdentity.objects.get()
    assert iot.desired(machine) == {"profile_version": identity.serial}
    assert SecurityEvent.objects.filter(kind="profile_delivered", detail={"serial": identity.serial}).exists()
    left = everything_in_aws(iot, machine)
    for secret in ("PRIVATE", "tls-crypt", "BEGIN", answer["api"]["token"], offered["code"]):
        assert secret not in left


def test_code_that_ran_out_is_replaced_for_a_machine_that_is_at_it(wish: Wish) -> None:
    wish.later(1)
    wish.iot.set_job(wish.machine, "IN_PROGRESS")
    wish.later()
    first = wish.code()
    shadow = wish.iot.desired(wish.machine)["enrolment"]
    gone = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    wish.iot.data.update_thing_shadow(
        thingName=iot_core.thing_name(wish.machine),
        shadowName="remote-desktop",
        payload=json.dumps({"state": {"desired": {"enrolment": {**shadow, "expires_at": gone}}}}),
    )
    wish.later()
    assert wish.code() != first


@pytest.mark.parametrize("status", ["FAILED", "REJECTED", "TIMED_OUT", "CANCELED", "REMOVED"])
def test_job_that_ends_otherwise_ends_the_wish_in_words(wish: Wish, status: str) -> None:
    wish.later(1)
    wish.iot.set_job(wish.machine, "IN_PROGRESS")
    wish.later()
    wish.iot.set_job(wish.machine, status)
    delivery = wish.later()
    assert delivery.failed_at is not None
    assert delivery.last_error.startswith("A1 did not enrol: its job portafilter-")
    assert status in delivery.last_error
    assert "enrolment" not in wish.iot.desired(wish.machine)
    request_profile(wish.machine, user=None)


def test_frozen_machine_is_not_invited(wish: Wish) -> None:
    wish.later(1)
    wish.iot.set_job(wish.machine, "IN_PROGRESS")
    identities.freeze(wish.machine, "by hand")
    assert "frozen" in wish.later().last_error
    assert EnrolmentCode.objects.count() == 0


def test_machine_that_enrolled_by_hand_meanwhile_needs_no_more(wish: Wish) -> None:
    wish.later(1)
    code = enrolment.issue_code(wish.machine, user=person("Alice"), now=wish.clock.at)
    enrolment.enrol(code.text, csr(), address="", now=wish.clock.at)
    assert wish.later().delivered_at is not None


def test_thing_that_is_there_keeps_all_that_it_has(wish: Wish) -> None:
    """moto replaces a thing that is created again, shadows and all: so this would show it."""
    wish.iot.thing(wish.machine, operator="alice", colour="red", fleet="north", serial="A1")
    wish.iot.report(wish.machine, software="4.2")
    wish.later(1)
    attributes = wish.iot.attributes(wish.machine)
    assert (attributes["operator"], attributes["colour"]) == ("alice", "red")
    assert attributes["site"] == iot_core.site_name(wish.machine)
    word = wish.driver.last_word(wish.machine)
    assert word is not None and word.software == "4.2"


def test_thing_that_does_not_say_whose_it_is_is_not_invited(wish: Wish) -> None:
    wish.iot.thing(wish.machine, operator="alice", fleet="north")
    assert wish.later(1).last_error.endswith("does not say whose it is: set its attributes fleet=north and serial=A1.")
    assert wish.iot.jobs(wish.machine) == []


def test_line_to_aws_that_is_down_is_only_another_try(wish: Wish, monkeypatch: pytest.MonkeyPatch) -> None:
    good = wish.driver
    credentials(monkeypatch, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    wish.driver = IotCoreTelemetry()
    delivery = wish.later(1)
    assert delivery.failed_at is None
    assert "cannot be reached" in delivery.last_error
    wish.driver = good
    wish.later()
    assert len(wish.iot.jobs(wish.machine)) == 1
