"""Enrolment: a code counts once, a lost answer costs nothing, and a stolen code freezes the machine (T15)."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.cache import cache
from django.db import connection, connections
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines import enrolment, identities, services
from machines.errors import EnrolmentRefused, IdentityError, NoVpn
from machines.models import EnrolmentCode, Machine, MachineToken, SecurityEvent, VpnIdentity
from tests.machines.cast import new_machine
from tests.machines.requests import badly_signed, request
from tests.sessions.rescues import person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]

ADDRESS = "198.51.100.7"


@pytest.fixture(autouse=True)
def _nobody_has_tried_yet() -> None:
    cache.clear()


def new_code(machine: Machine, **given: Any) -> str:
    return enrolment.issue_code(machine, user=person("Alice"), **given).text


def post(code: object, csr: object, **more: object) -> Any:
    body = {"code": code, "csr": csr, **more}
    return Client(REMOTE_ADDR=ADDRESS).post("/enrol/", json.dumps(body), content_type="application/json")


def kinds(machine: Machine) -> list[str]:
    return list(SecurityEvent.objects.filter(machine=machine).order_by("pk").values_list("kind", flat=True))


def refusal(code: str, csr: str, **given: Any) -> str:
    with pytest.raises(EnrolmentRefused) as caught:
        enrolment.enrol(code, csr, address=ADDRESS, **given)
    return caught.value.code


def test_code_becomes_profile_token_and_address() -> None:
    machine = new_machine()
    key = ec.generate_private_key(ec.SECP256R1())
    response = post(new_code(machine), request(key))

    assert response.status_code == 201
    assert response["Cache-Control"] == "no-store"
    answer = response.json()
    assert set(answer) == {"serial", "profile", "api", "vpn_address"}
    assert (answer["serial"], answer["vpn_address"]) == (machine.serial, machine.vpn_address)
    assert answer["api"]["url"].startswith("http://")
    assert "<key>" not in answer["profile"]
    certificate = answer["profile"].partition("<cert>\n")[2].partition("</cert>")[0]
    assert x509.load_pem_x509_certificate(certificate.encode()).public_key() == key.public_key()
    token = answer["api"]["token"]
    assert services.authenticate_machine(token, peer_address=machine.vpn_address) == machine
    assert "machine_enrolled" in kinds(machine)
    assert EnrolmentCode.objects.get().used_from == ADDRESS


@pytest.mark.parametrize("change", [str.lower, lambda code: code.replace("-", ""), lambda code: code.replace("-", " ")])
def test_code_may_be_typed_in_several_ways(change: Any) -> None:
    assert post(change(new_code(new_machine())), request()).status_code == 201


def test_lost_answer_is_said_again_word_for_word() -> None:
    machine = new_machine()
    code, csr = new_code(machine), request()
    first, second = post(code, csr), post(code, csr)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    machine.refresh_from_db()
    assert machine.frozen_at is None
    assert VpnIdentity.objects.count() == 1
    assert MachineToken.objects.count() == 1


def test_replay_is_by_key_and_not_by_the_requests_bytes() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    code = new_code(new_machine())
    assert post(code, request(key)).json() == post(code, request(key, name="else")).json()


def test_another_key_with_a_used_code_freezes_the_machine_and_alarms(caplog: pytest.LogCaptureFixture) -> None:
    machine = new_machine()
    code, csr = new_code(machine), request()
    assert post(code, csr).status_code == 201
    thief = post(code, request())

    assert thief.status_code == 403
    assert thief.json()["code"] == "enrolment_code_used"
    machine.refresh_from_db()
    assert machine.frozen_at is not None
    assert ADDRESS in machine.frozen_reason
    assert kinds(machine)[-2:] == ["enrolment_reused", "machine_frozen"]
    assert identities.allow_list().machines == {}
    assert machine.serial in caplog.text
    # Also the first one hears no more of it: nobody knows who of the two is the machine.
    assert post(code, csr).status_code == 403


def test_code_is_good_for_fifteen_minutes() -> None:
    now = timezone.now()
    code = new_code(new_machine(), now=now)
    assert refusal(code, request(), now=now + timedelta(minutes=15)) == "enrolment_code_expired"
    assert enrolment.enrol(code, request(), address=ADDRESS, now=now + timedelta(minutes=14, seconds=59))


def test_replay_ends_with_the_codes_time_and_freezes_nothing() -> None:
    now, machine = timezone.now(), new_machine()
    code, csr = new_code(machine, now=now), request()
    enrolment.enrol(code, csr, address=ADDRESS, now=now)
    assert refusal(code, csr, now=now + timedelta(minutes=15)) == "enrolment_code_expired"
    assert enrolment.forget_answers(now=now + timedelta(minutes=14)) == 0
    assert enrolment.forget_answers(now=now + timedelta(minutes=15)) == 1
    assert EnrolmentCode.objects.get().answer is None
    machine.refresh_from_db()
    assert machine.frozen_at is None


def test_new_code_ends_the_one_before() -> None:
    machine, now = new_machine(), timezone.now()
    old = new_code(machine, now=now - timedelta(minutes=1))
    new = new_code(machine, now=now)
    assert refusal(old, request(), now=now) == "enrolment_code_expired"
    assert enrolment.enrol(new, request(), address=ADDRESS, now=now)


def test_unknown_code_is_refused() -> None:
    response = post("AAAAA-AAAAA-AAAAA-AAAAA", request())
    assert response.status_code == 403
    assert response.json()["code"] == "enrolment_code_unknown"


@pytest.mark.parametrize(
    ("code", "csr", "named"),
    [
        ("AAAAA", request(), "code"),
        ("../../../../etc/passwd", request(), "code"),
        ("AAAAA-AAAAA-AAAAA-AAAA\n", request(), "code"),
        (20 * 7, request(), "code"),
        (None, None, "csr"),
        ("GOOD", "no request", "csr"),
        ("GOOD", badly_signed(), "csr"),
        ("GOOD", request(ec.generate_private_key(ec.SECP384R1())), "csr"),
        ("GOOD", "x" * 10_001, "csr"),
        ("GOOD", ["a"], "csr"),
    ],
)
def test_bad_request_is_refused_by_name_and_uses_nothing_up(code: Any, csr: Any, named: str) -> None:
    machine = new_machine()
    good = new_code(machine)
    response = post(good if code == "GOOD" else code, csr)
    assert response.status_code == 400
    assert response["Content-Type"] == "application/problem+json"
    assert named in response.json()["detail"] or named in str(response.json().get("errors"))
    assert post(good, request()).status_code == 201


def test_no_error_repeats_the_code_wherever_it_was_put() -> None:
    code = new_code(new_machine())
    for response in (
        post(code, "x"),
        post(code, request(), **{code: 1}),
        post(request(), code),
        post([code], {code: code}),
        Client().post("/enrol/", code, content_type="application/json"),
        Client().post("/enrol/", {"code": code, "csr": request()}),
        Client().put("/enrol/", json.dumps({"code": code}), content_type="application/json"),
    ):
        assert 400 <= response.status_code < 500
        assert code not in response.content.decode()
        assert code[:5] not in response.content.decode()


def test_frozen_or_switched_off_machine_gets_neither_code_nor_profile() -> None:
    machine = new_machine()
    code = new_code(machine)
    identities.freeze(machine, "by hand")
    assert post(code, request()).status_code == 409
    with pytest.raises(IdentityError, match="frozen"):
        new_code(machine)
    other = new_machine("A2")
    code = new_code(other)
    Machine.objects.filter(pk=other.pk).update(is_active=False)
    assert post(code, request()).status_code == 409


def test_replay_of_a_revoked_identity_is_refused() -> None:
    machine = new_machine()
    code, csr = new_code(machine), request()
    post(code, csr)
    identities.revoke_all(machine, reason="lost")
    assert post(code, csr).status_code == 409


def test_machine_that_enrols_again_keeps_its_way_in_until_the_new_one_has_proven_itself() -> None:
    machine = new_machine()
    first = post(new_code(machine), request()).json()
    old = VpnIdentity.objects.get()
    identities.prove(old)
    second = post(new_code(machine), request()).json()
    old.refresh_from_db()
    assert old.revoked_at is None
    for answer in (first, second):
        assert services.authenticate_machine(answer["api"]["token"], peer_address=machine.vpn_address)
    third = post(new_code(machine), request()).json()
    assert MachineToken.objects.filter(revoked_at=None).count() == 2
    assert services.authenticate_machine(third["api"]["token"], peer_address=machine.vpn_address)
    assert VpnIdentity.objects.filter(revoked_at=None).count() == 2


def test_code_key_and_answer_are_readable_in_no_row_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    machine = new_machine()
    code = new_code(machine)
    answer = post(code, request()).json()
    post(code, request())
    with connection.cursor() as cursor:
        rows = ""
        for table in ("machines_enrolmentcode", "machines_securityevent", "machines_machinetoken", "machines_machine"):
            cursor.execute(f"SELECT * FROM {table}")
            rows += repr(cursor.fetchall())
    for secret in (code, code.replace("-", ""), answer["api"]["token"].partition(".")[2], "tls-crypt-v2 client key"):
        assert secret not in rows
        assert secret not in caplog.text
    assert code not in repr(enrolment.issue_code(new_machine("A2"), user=person("Alice")))


def test_installation_without_vpn_enrols_nobody(settings: Settings) -> None:
    machine = new_machine()
    settings.VPN = "loopback"
    with pytest.raises(NoVpn):
        new_code(machine)
    response = post("AAAAA-AAAAA-AAAAA-AAAAA", request())
    assert (response.status_code, response.json()["code"]) == (409, "no_vpn")


def test_one_address_cannot_try_for_ever_and_others_are_not_kept_out() -> None:
    for _ in range(30):
        assert post("AAAAA-AAAAA-AAAAA-AAAAA", request()).status_code == 403
    response = post(new_code(new_machine()), request())
    assert response.status_code == 429
    assert int(response["Retry-After"]) > 0
    body = json.dumps({"code": "AAAAA-AAAAA-AAAAA-AAAAA", "csr": request()})
    elsewhere = Client(REMOTE_ADDR="198.51.100.8").post("/enrol/", body, content_type="application/json")
    assert elsewhere.status_code == 403


def test_page_tells_what_to_do_on_the_machine() -> None:
    page = Client().get("/enrol/")
    assert page.status_code == 200
    assert "python3 -m agent enrol" in page.content.decode()
    assert "no-store" in page["Cache-Control"]


def test_machines_face_has_no_enrolment() -> None:
    assert Client().get("/enrol/", headers={"host": "testserver"}).status_code == 200
    from django.urls import Resolver404, resolve

    with pytest.raises(Resolver404):
        resolve("/enrol/", urlconf="portal.machine_urls")


@pytest.mark.django_db(transaction=True)
def test_of_two_keys_with_one_code_at_once_one_is_enrolled_and_the_machine_frozen() -> None:
    machine = new_machine()
    identities.ensure_authority()
    code = new_code(machine)
    barrier = threading.Barrier(2)

    def ask(csr: str) -> object:
        try:
            barrier.wait(30)
            return enrolment.enrol(code, csr, address=ADDRESS)
        except EnrolmentRefused as error:
            return error.code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(ask, [request(), request()]))
    assert sum(isinstance(one, dict) for one in outcomes) == 1
    assert "enrolment_code_used" in outcomes
    machine.refresh_from_db()
    assert machine.frozen_at is not None
    assert VpnIdentity.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_same_request_twice_at_once_is_one_enrolment() -> None:
    machine = new_machine()
    identities.ensure_authority()
    code, csr = new_code(machine), request()
    barrier = threading.Barrier(2)

    def ask(_: int) -> object:
        try:
            barrier.wait(30)
            return enrolment.enrol(code, csr, address=ADDRESS)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(ask, range(2))
    assert first == second
    assert VpnIdentity.objects.count() == 1
