"""Registering a machine and its part of the VPN, as pages: who may do what, what is shown once, what is nowhere."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines import enrolment, identities
from machines.errors import EnrolmentRefused
from machines.models import (
    EnrolmentCode,
    KeptProfile,
    Machine,
    MachineModel,
    Operator,
    ProfileDelivery,
    SecurityEvent,
    Site,
    User,
    VpnConnection,
    VpnIdentity,
)
from machines.profile_passes import ProfilePasses
from machines.telemetry.builtin import BuiltinTelemetry
from tests.machines.cast import new_machine
from tests.machines.requests import request
from tests.portal.test_pages import _Page
from tests.sessions.clients import client_of
from tests.sessions.rescues import fleet, person

pytestmark = pytest.mark.django_db

FORMULA = "=HYPERLINK(0)"


@pytest.fixture(autouse=True)
def vpn(settings: Settings) -> Settings:
    import ipaddress

    settings.VPN = "openvpn"
    settings.VPN_NETWORK = ipaddress.ip_network("10.77.0.0/20")
    settings.VPN_REMOTE = "vpn.example.com"
    return settings


@pytest.fixture
def alice() -> Client:
    return client_of(person("Alice"))


@pytest.fixture
def sue() -> Client:
    return client_of(person("Sue", role="supervisor"))


@pytest.fixture
def charlie() -> Client:
    return client_of(person("Charlie", of="South", role="supervisor"))


def form(**changes: object) -> dict[str, object]:
    site, _ = Site.objects.get_or_create(
        fleet=fleet(), name="Station", defaults={"city": "Milano", "country": "IT", "time_zone": "Europe/Rome"}
    )
    model, _ = MachineModel.objects.get_or_create(name="Aurora 9")
    return {"serial": "IT-0099", "site": site.pk, "model": model.pk, "name": "Lobby, left", **changes}


def page(client: Client, machine: Machine) -> str:
    response = client.get(f"/machines/{machine.pk}/")
    assert response.status_code == 200
    assert _Page(response).inline == []
    return response.content.decode()


def make_profile(client: Client, machine: Machine) -> None:
    client.post(f"/machines/{machine.pk}/profile/")
    ProfilePasses(driver=BuiltinTelemetry).run()


def test_page_says_how_far_a_profile_is_that_goes_by_telemetry(alice: Client, settings: Settings) -> None:
    settings.TELEMETRY = "iot_core"
    alice.post("/machines/new/", form())
    machine = Machine.objects.get()
    assert "The profile is being made" in page(alice, machine)
    machine.profile_deliveries.update(attempts=1)
    assert "The machine is invited to enrol, and does so as soon as telemetry reaches it." in page(alice, machine)
    machine.profile_deliveries.update(last_error="IoT Core, CreateJob: no.")
    assert "it is tried again. IoT Core, CreateJob: no." in page(alice, machine)
    machine.profile_deliveries.update(last_error="", delivered_at=timezone.now())
    assert "it goes to the machine by telemetry" in page(alice, machine)


def test_registered_machine_has_an_address_and_a_page(alice: Client) -> None:
    response = alice.post("/machines/new/", form(), follow=True)
    machine = Machine.objects.get()
    assert response.redirect_chain == [(f"/machines/{machine.pk}/", 302)]
    assert (machine.serial, machine.name, machine.fleet.name) == ("IT-0099", "Lobby, left", "North")
    assert machine.vpn_address == "10.77.1.0"
    assert "IT-0099 is registered" in response.content.decode()
    event = SecurityEvent.objects.get(kind="machine_registered")
    assert (event.user, event.machine) == (person("Alice"), machine)


def test_profile_of_a_registered_machine_goes_to_telemetry_by_itself(alice: Client) -> None:
    alice.post("/machines/new/", form())
    machine = Machine.objects.get()
    assert not machine.vpn_identities.exists(), "nothing outside is done in a request"
    ProfilePasses(driver=BuiltinTelemetry).run()
    assert machine.vpn_identities.count() == 1
    assert "Download" in alice.get(f"/machines/{machine.pk}/").content.decode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("serial", "A1\nB2"),
        ("serial", "../etc"),
        ("serial", '"A1"'),
        ("serial", FORMULA),
        ("serial", "x" * 10_000),
        ("serial", ""),
        ("name", "Lobby\nleft"),
        ("name", "../lobby"),
        ("name", 'Lobby "left"'),
        ("name", "<b>Lobby</b>"),
        ("name", FORMULA),
        ("name", "x" * 10_000),
        ("model", "999999"),
        ("site", "../1"),
    ],
)
def test_hostile_field_is_refused_beside_it(alice: Client, field: str, value: str) -> None:
    response = alice.post("/machines/new/", form(**{field: value}))
    assert response.status_code == 400
    assert f'id="id_{field}"' in response.content.decode()
    assert 'class="errors"' in response.content.decode()
    assert "<b>Lobby" not in response.content.decode()
    assert Machine.objects.count() == 0


def test_serial_that_is_known_is_said_to_be(alice: Client) -> None:
    alice.post("/machines/new/", form())
    response = alice.post("/machines/new/", form())
    assert "North has a machine with this serial already" in response.content.decode()
    assert Machine.objects.count() == 1


def test_site_of_another_fleet_cannot_be_chosen(charlie: Client) -> None:
    response = charlie.post("/machines/new/", form())
    assert response.status_code == 400
    assert "Station" not in response.content.decode()
    assert Machine.objects.count() == 0


def test_operator_of_several_fleets_chooses_the_site_under_its_fleet(alice: Client) -> None:
    Operator.objects.get(user=person("Alice")).fleets.add(fleet("South"))
    form()
    Site.objects.create(fleet=fleet("South"), name="Harbour", city="Bari", country="IT", time_zone="Europe/Rome")
    shown = alice.get("/machines/new/").content.decode()
    assert '<optgroup label="North">' in shown and '<optgroup label="South">' in shown


def test_who_is_no_operator_registers_nothing() -> None:
    client = client_of(User.objects.create_user("nobody"))
    assert client.post("/machines/new/", form()).status_code == 403
    assert "Register a machine" not in client.get("/machines/").content.decode()


def test_code_is_shown_once_with_its_picture_and_kept_by_no_cache(alice: Client) -> None:
    machine = new_machine()
    response = alice.post(f"/machines/{machine.pk}/enrolment/")
    text = response.content.decode()
    assert response["Cache-Control"] == "no-store"
    assert _Page(response).inline == []
    (code,) = set(re.findall(r"(?:[0-9A-Z]{5}-){3}[0-9A-Z]{5}", text))
    assert '<svg xmlns="http://www.w3.org/2000/svg"' in text or "<svg" in text
    assert "<path" in text
    assert enrolment.enrol(code, request(), address="")["serial"] == machine.serial
    assert code not in page(alice, machine)
    again = alice.get(f"/machines/{machine.pk}/enrolment/")
    assert (again.status_code, again["Location"]) == (302, f"/machines/{machine.pk}/")
    assert EnrolmentCode.objects.count() == 1


def test_profile_is_made_then_downloaded_once(alice: Client) -> None:
    machine = new_machine()
    alice.post(f"/machines/{machine.pk}/profile/")
    assert "The profile is being made" in page(alice, machine)
    ProfilePasses(driver=BuiltinTelemetry).run()
    assert "Download profile once" in page(alice, machine)

    response = alice.post(f"/machines/{machine.pk}/profile/download/")
    assert response["Content-Disposition"] == 'attachment; filename="A1.ovpn"'
    assert response["Cache-Control"] == "no-store"
    assert "<key>" in response.content.decode()
    second = alice.post(f"/machines/{machine.pk}/profile/download/", follow=True)
    assert "was downloaded at" in second.content.decode()
    assert "<key>" not in second.content.decode()
    assert KeptProfile.objects.exclude(profile=None).count() == 0
    assert SecurityEvent.objects.filter(kind="profile_downloaded", user=person("Alice")).count() == 1


def test_secrets_are_given_to_posts_only(alice: Client) -> None:
    machine = new_machine()
    make_profile(alice, machine)
    assert alice.get(f"/machines/{machine.pk}/profile/download/").status_code == 405
    assert alice.get(f"/machines/{machine.pk}/profile/").status_code == 405
    careful = client_of(person("Alice"), enforce_csrf_checks=True)
    for verb in ("enrolment/", "profile/", "profile/download/", "freeze/", "unfreeze/"):
        assert careful.post(f"/machines/{machine.pk}/{verb}", {"reason": "x"}).status_code == 403, verb
    assert KeptProfile.objects.exclude(profile=None).count() == 1


def test_page_shows_the_line_live(alice: Client) -> None:
    machine = new_machine()
    assert "Never connected" in page(alice, machine)
    identity = identities.issue_identity(machine)
    VpnConnection.objects.create(
        machine=machine, identity=identity, client_id=1, remote_address="198.51.100.7", remote_port=4711,
        bytes_received=2_000_000, bytes_sent=3000,
    )  # fmt: skip
    for address in (f"/machines/{machine.pk}/", f"/machines/{machine.pk}/vpn/"):
        shown = alice.get(address).content.decode()
        for words in ("Connected", "198.51.100.7:4711", "1.9\xa0MB from it"):
            assert words in shown, address


def test_supervisor_revokes_and_operator_cannot(alice: Client, sue: Client) -> None:
    machine = new_machine()
    identity = identities.issue_identity(machine)
    address = f"/machines/{machine.pk}/identities/{identity.pk}/revoke/"
    assert "Revoke…" not in page(alice, machine)
    assert alice.post(address, {"reason": "Stolen"}).status_code == 403
    assert "Revoke…" in page(sue, machine)
    assert "Say in a few words why" in sue.post(address, {"reason": " "}, follow=True).content.decode()
    identity.refresh_from_db()
    assert identity.revoked_at is None
    sue.post(address, {"reason": "Disk was stolen"})
    identity.refresh_from_db()
    assert identity.revoke_reason == "Disk was stolen"
    assert "Disk was stolen" in page(sue, machine)


def test_identity_of_another_machine_is_not_revoked_through_this_one(sue: Client) -> None:
    machine, other = new_machine(), new_machine("B1", of="South")
    theirs = identities.issue_identity(other)
    assert sue.post(f"/machines/{machine.pk}/identities/{theirs.pk}/revoke/", {"reason": "x"}).status_code == 404
    assert VpnIdentity.objects.filter(revoked_at=None).count() == 1


def test_operator_freezes_and_a_supervisor_unfreezes(alice: Client, sue: Client) -> None:
    machine = new_machine()
    alice.post(f"/machines/{machine.pk}/freeze/", {"reason": "Stolen from the lobby"})
    shown = page(alice, machine)
    assert "By Alice: Stolen from the lobby" in shown
    assert "Unfreeze" not in shown.replace("can unfreeze", "")
    assert "Enrolment code" not in shown
    assert alice.post(f"/machines/{machine.pk}/unfreeze/").status_code == 403
    for client, address in ((sue, "/"), (sue, "/machines/")):
        assert "is frozen." in client.get(address).content.decode()
    assert "is frozen." not in alice.get("/").content.decode()
    sue.post(f"/machines/{machine.pk}/unfreeze/")
    machine.refresh_from_db()
    assert machine.frozen_at is None
    kinds = list(SecurityEvent.objects.filter(machine=machine).order_by("pk").values_list("kind", flat=True))
    assert kinds == ["machine_frozen", "machine_unfrozen"]


def test_reused_code_is_told_to_supervisors_in_words(sue: Client, charlie: Client) -> None:
    machine = new_machine()
    code = enrolment.issue_code(machine, user=person("Alice")).text
    enrolment.enrol(code, request(), address="198.51.100.7")
    with pytest.raises(EnrolmentRefused):
        enrolment.enrol(code, request(), address="198.51.100.8")
    for address in ("/", "/machines/", f"/machines/{machine.pk}/"):
        assert "used a second time, from 198.51.100.8" in sue.get(address).content.decode()
    assert "second time" not in charlie.get("/").content.decode()


@pytest.mark.parametrize(
    "verb",
    ["vpn/", "enrolment/", "profile/", "profile/download/", "freeze/", "unfreeze/", "identities/{identity}/revoke/"],
)
def test_machine_of_another_fleet_does_not_exist(charlie: Client, verb: str) -> None:
    machine = new_machine()
    identity = identities.issue_identity(machine)
    make_profile(client_of(person("Alice")), machine)
    before = SecurityEvent.objects.count()
    address = f"/machines/{machine.pk}/{verb.format(identity=identity.pk)}"
    method = charlie.get if verb == "vpn/" else charlie.post
    assert method(address, {"reason": "x"}).status_code == 404
    assert Client().get(address).status_code in (302, 405)
    assert SecurityEvent.objects.count() == before
    assert KeptProfile.objects.exclude(profile=None).count() == 1


def test_without_vpn_the_page_says_so_and_offers_nothing(alice: Client, settings: Settings) -> None:
    machine = new_machine()
    settings.VPN = "loopback"
    shown = page(alice, machine)
    assert "without a VPN" in shown
    assert "Enrolment code" not in shown and "profile" not in shown
    refused = alice.post(f"/machines/{machine.pk}/enrolment/", follow=True).content.decode()
    assert "nothing to enrol" in refused
    assert ProfileDelivery.objects.count() == 0


def test_alarms_are_for_supervisors_of_the_fleet(alice: Client, sue: Client, charlie: Client) -> None:
    identities.freeze(new_machine(), "by hand")
    said = [client.get("/machines/alarms/").content.decode() for client in (alice, sue, charlie)]
    assert ["A1 is frozen" in one.replace("</strong>", "") for one in said] == [False, True, False]
    assert "data-alarms" not in said[0]


def test_new_machine_is_offered_its_way_in_before_its_facts(alice: Client) -> None:
    machine = new_machine()
    assert page(alice, machine).index("Enrolment code") < page(alice, machine).index("Facts")
    identities.issue_identity(machine)
    assert page(alice, machine).index("Enrolment code") > page(alice, machine).index("Facts")
    assert page(alice, machine).count("data-vpn") == 1


def test_machine_is_registered_over_rest_as_in_the_page(alice: Client, charlie: Client) -> None:
    body = {**form(), "model": "Aurora 9"}
    refused = charlie.post("/api/v1/machines/", body, content_type="application/json")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "site")
    made = alice.post("/api/v1/machines/", body, content_type="application/json")
    assert made.status_code == 201
    machine = Machine.objects.get()
    assert made.json() == alice.get(f"/api/v1/machines/{machine.pk}/").json()
    again = alice.post("/api/v1/machines/", body, content_type="application/json")
    assert (again.status_code, again.json()["errors"][0]["field"]) == (400, "serial")
    for changes in ({"serial": "../x"}, {"name": FORMULA}, {"model": "Borealis"}, {"site": 10**12}):
        response = alice.post("/api/v1/machines/", {**body, "serial": "B1", **changes}, content_type="application/json")
        assert response.status_code == 400
        assert response.json()["errors"][0]["field"] in changes


def test_code_and_standing_are_there_over_rest(alice: Client) -> None:
    machine = new_machine()
    made = alice.post(f"/api/v1/machines/{machine.pk}/enrolment-codes/", {}, content_type="application/json")
    assert made.status_code == 201
    assert made["Cache-Control"] == "no-store"
    code = made.json()["code"]
    assert made.json()["address"].endswith(f"/enrol/#{code}")
    enrolment.enrol(code, request(), address="")
    standing = alice.get(f"/api/v1/machines/{machine.pk}/vpn/")
    assert standing.json()["enrolment_code"]["used_at"]
    assert [one["state"] for one in standing.json()["identities"]] == ["new"]
    assert code not in standing.content.decode()
