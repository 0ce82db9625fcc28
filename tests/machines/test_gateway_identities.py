"""A gateway's identity: one key an attempt, while it lives; its address is another's only when it is out."""

from __future__ import annotations

import ipaddress
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from machines import gateway_identities, identities
from machines.authorisation.outcomes import Alarm, Joined, Left, TunnelEnded
from machines.authorisation.rows import Record, read_known, read_wishes
from machines.errors import GatewayRefused, NoAddressLeft, RequestRefused
from machines.models import GatewayIdentity, SecurityEvent
from machines.vpn import networks
from tests.machines.requests import badly_signed, request

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
A1, B2 = "7f3e5a0c-0000-4000-8000-00000000000a", "7f3e5a0c-0000-4000-8000-00000000000b"


@pytest.fixture(autouse=True)
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The attempts that live."""
    attempts = {A1, B2}
    monkeypatch.setattr(gateway_identities, "_sources", [lambda: attempts])
    yield attempts


def kinds() -> list[str]:
    return list(SecurityEvent.objects.order_by("id").values_list("kind", flat=True))


def revoked_serials(now: datetime) -> set[str]:
    return {f"{row.serial_number:x}" for row in x509.load_pem_x509_crl(identities.crl_pem(now=now))}


def test_gateway_gets_one_certificate_however_often_it_asks() -> None:
    csr = request()
    first = gateway_identities.admit(A1, csr, now=NOW)
    again = gateway_identities.admit(A1, csr, now=NOW + HOUR)
    row = GatewayIdentity.objects.get()
    assert (first.address, first.fingerprint) == (again.address, again.fingerprint) == (row.address, row.sha256)
    certificate = x509.load_pem_x509_certificate(row.certificate.encode())
    assert certificate.subject.rfc4514_string() == f"CN=g-{A1}"
    assert kinds().count("gateway_identity_issued") == 1
    assert row.certificate in first.text and "PRIVATE KEY" not in first.text
    assert "BEGIN" not in repr(first)


def test_certificate_outlasts_the_wait_and_one_screen_but_not_the_week(settings: Settings) -> None:
    settings.GATEWAY_WARM_HOURS, settings.TUNNEL_MAX_S = 12, 8 * 3600
    gateway_identities.admit(A1, request(), now=NOW)
    life = GatewayIdentity.objects.get().expires_at - NOW
    assert timedelta(hours=20) < life < timedelta(days=7)


def test_another_key_for_the_same_attempt_is_an_alarm_and_ends_it() -> None:
    csr = request()
    gateway_identities.admit(A1, csr, now=NOW)
    with pytest.raises(GatewayRefused, match="another key"):
        gateway_identities.admit(A1, request(), now=NOW)
    assert kinds()[-2:] == ["gateway_refused", "gateway_identity_revoked"]
    assert gateway_identities.allow_list(NOW) == {}
    with pytest.raises(GatewayRefused, match="has ended"):
        gateway_identities.admit(A1, csr, now=NOW)  # nor the first key any more
    assert GatewayIdentity.objects.count() == 1


def test_attempt_that_does_not_live_gets_nothing(live: set[str]) -> None:
    live.remove(A1)
    with pytest.raises(GatewayRefused, match="no live attempt"):
        gateway_identities.admit(A1, request(), now=NOW)
    assert not GatewayIdentity.objects.exists()


def test_request_that_is_not_from_the_keys_holder_is_refused() -> None:
    with pytest.raises(RequestRefused):
        gateway_identities.admit(A1, badly_signed(), now=NOW)


def test_withdrawn_gateway_is_neither_admitted_nor_forgotten_by_the_list_of_revocations() -> None:
    gateway_identities.admit(A1, request(), now=NOW)
    row = GatewayIdentity.objects.get()
    before = read_wishes(NOW)
    assert set(before.allow_list.gateways) == {f"g-{A1}"}
    assert gateway_identities.withdraw(A1, now=NOW)
    assert not gateway_identities.withdraw(A1, now=NOW)
    after = read_wishes(NOW)
    assert not after.allow_list.gateways and after.revocations != before.revocations
    assert row.serial in revoked_serials(NOW)
    assert row.serial not in revoked_serials(row.expires_at + timedelta(days=2))
    assert kinds().count("gateway_identity_revoked") == 1


def test_identity_of_an_attempt_that_died_without_a_word_ends_too(live: set[str]) -> None:
    gateway_identities.admit(A1, request(), now=NOW)
    gateway_identities.admit(B2, request(), now=NOW)
    live.remove(A1)
    assert set(gateway_identities.allow_list(NOW)) == {f"g-{B2}"}  # at once, whoever sweeps when
    assert gateway_identities.withdraw_dead(NOW) == 1
    assert gateway_identities.withdraw_dead(NOW + timedelta(days=365)) == 1  # expired
    assert not GatewayIdentity.objects.filter(revoked_at=None).exists()


def test_address_of_a_rescue_that_outlives_its_certificate_is_nobody_elses(
    live: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gateway_identities.admit(A1, request(), now=NOW).address
    monkeypatch.setattr(networks, "gateway_numbers", lambda _: [int(ipaddress.IPv4Address(first))])
    later = NOW + timedelta(days=9)
    gateway_identities.withdraw_dead(later)
    (ending,) = read_wishes(later).endings
    Record().write(TunnelEnded(ending.wish, ending.common_name))
    with pytest.raises(NoAddressLeft):
        gateway_identities.admit(B2, request(), now=later)
    live.remove(A1)
    assert gateway_identities.admit(B2, request(), now=later).address == first


def test_address_is_free_again_only_when_its_gateway_was_seen_out(settings: Settings, live: set[str]) -> None:
    settings.VPN_NETWORK = ipaddress.ip_network("10.77.0.0/20")
    first = gateway_identities.admit(A1, request(), now=NOW).address
    assert first == "10.77.0.2"
    numbers = networks.gateway_numbers(settings.VPN_NETWORK)
    fill = [
        GatewayIdentity(
            attempt_id=f"x{number}", address=str(ipaddress.IPv4Address(number)), key_sha256="k", serial=f"s{number}",
            sha256=f"f{number}", issued_at=NOW, expires_at=NOW + HOUR,
        )
        for number in numbers[1:]
    ]  # fmt: skip
    GatewayIdentity.objects.bulk_create(fill)
    with pytest.raises(NoAddressLeft, match="All 254 addresses"):
        gateway_identities.admit(B2, request(), now=NOW)
    gateway_identities.withdraw(A1, now=NOW)
    with pytest.raises(NoAddressLeft):
        gateway_identities.admit(B2, request(), now=NOW)
    (ending,) = (one for one in read_wishes(NOW).endings if one.common_name == f"g-{A1}")
    Record().write(TunnelEnded(ending.wish, ending.common_name))
    live.remove(A1)
    assert gateway_identities.admit(B2, request(), now=NOW).address == first
    assert not [one for one in read_wishes(NOW).endings if one.common_name == f"g-{A1}"]


@pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL plans by how many rows there are.")
def test_agent_does_not_read_all_gateways_that_ever_were() -> None:
    """It asks three times a second, and a row for each rescue stays."""
    gateway_identities.admit(A1, request(), now=NOW)
    with CaptureQueriesContext(connection) as queries:
        gateway_identities.allow_list(NOW)
        gateway_identities.leaving()
        gateway_identities.withdraw_dead(NOW)
    asked = [query["sql"] for query in queries if "gatewayidentity" in query["sql"]]
    assert len(asked) == 3
    for sql in asked:
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
            plan = [row[3] for row in cursor.fetchall()]
        assert [step for step in plan if "INDEX" in step] and not [step for step in plan if "SCAN" in step], plan


def test_gateways_stay_is_written_to_its_row_and_taken_over_by_the_next_agent() -> None:
    gateway_identities.admit(A1, request(), now=NOW)
    row = GatewayIdentity.objects.get()
    joined = Joined(_key(), row.common_name, row.sha256, 4, "10.0.1.9", 40001, NOW)
    Record().write(joined)
    (known,) = read_known()
    assert (known.common_name, known.fingerprint, known.client_id) == (row.common_name, row.sha256, 4)
    record = Record()
    record.adopt([known])
    assert record.end_others(NOW) == 0
    record.write(Left(known.key, "The machine ended it or its line was lost.", NOW + HOUR))
    row.refresh_from_db()
    assert (row.connected_at, row.left_at) == (NOW, NOW + HOUR)
    assert read_known() == []


def test_end_of_a_connection_that_a_newer_one_replaced_is_no_end() -> None:
    gateway_identities.admit(A1, request(), now=NOW)
    row = GatewayIdentity.objects.get()
    record, old = Record(), _key()
    record.write(Joined(old, row.common_name, row.sha256, 4, "10.0.1.9", 40001, NOW))
    record.write(Joined(_key(), row.common_name, row.sha256, 5, "10.0.1.9", 40002, NOW + HOUR))
    record.write(Left(old, "gone", NOW + HOUR))
    row.refresh_from_db()
    assert (row.client_id, row.left_at) == (5, None)


def test_alarm_about_a_gateway_names_its_attempt() -> None:
    Record().write(Alarm("vpn_duplicate", f"g-{A1}", "10.0.1.9", {"fingerprint": "ab"}))
    event = SecurityEvent.objects.get(kind="vpn_duplicate")
    assert (event.machine, event.detail["gateway"]) == (None, A1)


def _key() -> uuid.UUID:
    return uuid.uuid4()


@pytest.mark.django_db(transaction=True)
def test_gateways_that_are_admitted_at_once_get_addresses_of_their_own(live: set[str]) -> None:
    attempts = [f"7f3e5a0c-0000-4000-8000-0000000000{number:02}" for number in range(6)]
    live.update(attempts)
    identities.ensure_authority(now=NOW)
    start = threading.Barrier(len(attempts))

    def admit(attempt: str) -> str:
        try:
            csr = request()
            start.wait(30)
            return gateway_identities.admit(attempt, csr, now=NOW).address
        finally:
            connection.close()

    with ThreadPoolExecutor(len(attempts)) as threads:
        addresses = list(threads.map(admit, attempts))
    assert len(set(addresses)) == len(attempts)
