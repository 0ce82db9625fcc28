"""An identity's life: issued, handed over once, proven, renewed, revoked; and nothing secret is left anywhere."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from django.db import IntegrityError, connection, transaction
from pytest_django.fixtures import Settings

from machines import identities, services
from machines.errors import AlreadyHandedOver, IdentityError, NotAllowed, RequestRefused, TokenRefused
from machines.models import Machine, SecurityEvent, User, VpnAuthority, VpnIdentity
from machines.vpn import pki
from tests.machines.cast import new_machine
from tests.machines.requests import badly_signed, request
from tests.sessions.rescues import person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def kinds() -> list[str]:
    return list(SecurityEvent.objects.order_by("id").values_list("kind", flat=True))


def raw(table: str) -> str:
    """Everything that the database holds in a table, as it holds it."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {table}")
        return repr(cursor.fetchall())


def admitted(machine: Machine, *, now: datetime = NOW) -> set[str]:
    found = identities.allow_list(now).machines.get(f"m-{machine.pk}")
    return set(found.fingerprints) if found else set()


def revoked_serials(*, now: datetime = NOW) -> set[str]:
    return {f"{row.serial_number:x}" for row in x509.load_pem_x509_crl(identities.crl_pem(now=now))}


def test_certificate_is_the_machines_own_and_signed_by_the_authority() -> None:
    machine = new_machine()
    identity = identities.issue_identity(machine, user=person("Alice"), now=NOW)

    certificate = x509.load_pem_x509_certificate(identity.certificate.encode())
    certificate.verify_directly_issued_by(
        x509.load_pem_x509_certificate(identities.ensure_authority(now=NOW).certificate.encode())
    )
    assert certificate.subject.rfc4514_string() == f"CN=m-{machine.pk}"
    assert (identity.serial, identity.sha256) == (pki.serial_of(certificate), pki.sha256_of(certificate))
    assert identity.expires_at == certificate.not_valid_after_utc
    event = SecurityEvent.objects.get(kind="identity_issued")
    assert (event.machine, event.user, event.detail["key"]) == (machine, person("Alice"), "made here")


def test_profile_is_handed_over_once_and_its_secrets_are_gone() -> None:
    identity = identities.issue_identity(new_machine(), now=NOW)
    text = identities.hand_over(identity, now=NOW)

    assert "remote vpn.example.com 1194\n" in text
    (key,) = re.findall(r"(?s)<key>\n(.*)</key>", text)
    loaded: Any = serialization.load_pem_private_key(key.encode(), None)
    certificate = x509.load_pem_x509_certificate(identity.certificate.encode())
    assert loaded.public_key() == certificate.public_key()
    kept = VpnIdentity.objects.get()
    assert (kept.private_key, kept.tls_crypt_key, kept.handed_over_at) == (None, None, NOW)
    with pytest.raises(AlreadyHandedOver, match="A1 was handed over already"):
        identities.hand_over(VpnIdentity.objects.get())
    assert kinds() == ["vpn_authority_made", "identity_issued", "identity_handed_over"]


def test_each_machine_has_a_wrapped_key_of_its_own() -> None:
    machines = [new_machine(serial) for serial in ("A1", "A2")]
    texts = [identities.hand_over(identities.issue_identity(one)) for one in machines]
    wrapped = [re.findall(r"(?s)<tls-crypt-v2>\n(.*)</tls-crypt-v2>", text)[0] for text in texts]

    server_key = VpnAuthority.objects.get().tls_crypt_key
    assert [pki.tls_crypt_metadata(server_key, key) for key in wrapped] == [f"m-{one.pk}".encode() for one in machines]
    assert wrapped[0] != wrapped[1]


def test_key_of_a_request_never_comes_here() -> None:
    key = pki.new_key()
    identity = identities.issue_identity(new_machine(), csr_pem=request(key), now=NOW)
    text = identities.hand_over(identity, now=NOW)

    assert identity.private_key is None and "PRIVATE KEY" not in text
    assert x509.load_pem_x509_certificate(identity.certificate.encode()).public_key() == key.public_key()


@pytest.mark.parametrize("csr", [badly_signed(), "", "x" * 20_000])
def test_request_that_cannot_be_signed_leaves_no_identity(csr: str) -> None:
    with pytest.raises(RequestRefused):
        identities.issue_identity(new_machine(), csr_pem=csr)
    assert not VpnIdentity.objects.exists()


def test_database_never_sees_a_key_of_the_vpn() -> None:
    identity = identities.issue_identity(new_machine())
    authority = VpnAuthority.objects.get()
    assert identity.private_key and identity.tls_crypt_key
    secrets = [authority.key, authority.server_key, authority.tls_crypt_key, identity.private_key]
    secrets.append(identity.tls_crypt_key)

    held = raw("machines_vpnauthority") + raw("machines_vpnidentity") + raw("machines_securityevent")
    assert "BEGIN CERTIFICATE" in held and "PRIVATE" not in held and "tls-crypt" not in held
    for secret in secrets:
        assert secret.splitlines()[1] not in held
    read = VpnIdentity.objects.get()
    assert (read.private_key, VpnAuthority.objects.get().key) == (identity.private_key, authority.key)


def test_database_keeps_no_secret_of_what_was_handed_over() -> None:
    identity = identities.issue_identity(new_machine())
    with pytest.raises(IntegrityError), transaction.atomic():
        VpnIdentity.objects.filter(pk=identity.pk).update(handed_over_at=NOW)


def test_settings_that_make_no_profile_lose_nothing(vpn: Settings) -> None:
    identity = identities.issue_identity(new_machine())
    vpn.VPN_REMOTE = "vpn.example.com\nup /bin/sh"
    with pytest.raises(IdentityError, match="remote: found"):
        identities.hand_over(identity)
    vpn.VPN_REMOTE = "vpn.example.com"
    assert "<key>" in identities.hand_over(identity)


def test_old_identity_stays_good_until_the_new_one_has_connected() -> None:
    machine = new_machine()
    old = identities.issue_identity(machine, now=NOW)
    identities.prove(old, NOW)
    new = identities.renew(machine, now=NOW + DAY)
    assert admitted(machine) == {old.sha256, new.sha256}

    assert identities.prove(old, NOW + DAY) == []  # it comes back once more: that proves nothing new
    assert admitted(machine) == {old.sha256, new.sha256}
    assert identities.prove(new, NOW + DAY) == [old]
    assert admitted(machine) == {new.sha256}
    old.refresh_from_db()
    assert (old.revoked_at, old.revoke_reason) == (NOW + DAY, "superseded")
    assert revoked_serials() == {old.serial}


def test_older_identity_that_connects_late_does_not_end_the_newer() -> None:
    machine = new_machine()
    old, new = identities.issue_identity(machine, now=NOW), identities.renew(machine, now=NOW)
    assert identities.prove(old, NOW) == []
    assert admitted(machine) == {old.sha256, new.sha256}
    assert identities.prove(new, NOW) == [old]


def test_revoked_identity_is_out_and_its_secrets_are_gone() -> None:
    machine = new_machine()
    identity = identities.issue_identity(machine, now=NOW)
    for _ in range(2):
        identities.revoke(identity, reason="stolen", user=person("Alice"), now=NOW)

    assert admitted(machine) == set() and revoked_serials() == {identity.serial}
    kept = VpnIdentity.objects.get()
    assert (kept.private_key, kept.tls_crypt_key, kept.revoke_reason) == (None, None, "stolen")
    assert SecurityEvent.objects.get(kind="identity_revoked").user == person("Alice")
    with pytest.raises(IdentityError, match="revoked or has expired"):
        identities.hand_over(identity)
    assert identities.prove(identity) == [] and VpnIdentity.objects.get().proven_at is None


def test_all_identities_of_a_machine_end_together() -> None:
    machine, other = new_machine(), new_machine("A2")
    mine = [identities.issue_identity(machine, now=NOW) for _ in range(2)]
    theirs = identities.issue_identity(other, now=NOW)

    assert identities.revoke_all(machine, reason="scrapped", now=NOW) == 2
    assert admitted(machine) == set() and admitted(other) == {theirs.sha256}
    assert revoked_serials() == {one.serial for one in mine}


def test_unproven_identities_do_not_pile_up() -> None:
    machine = new_machine()
    for _ in range(5):
        identities.issue_identity(machine)
    with pytest.raises(IdentityError, match="5 identities that never connected"):
        identities.issue_identity(machine)


def test_allow_list_has_active_machines_that_are_not_frozen_with_identities_that_live() -> None:
    machine, idle = new_machine(), new_machine("A2")
    identity = identities.issue_identity(machine, now=NOW)

    found = identities.allow_list(NOW).machines
    assert found == {f"m-{machine.pk}": (machine.vpn_address, frozenset({identity.sha256}))}
    assert f"m-{idle.pk}" not in found
    assert admitted(machine, now=identity.expires_at) == set()
    Machine.objects.filter(pk=machine.pk).update(is_active=False)
    assert admitted(machine) == set()
    Machine.objects.filter(pk=machine.pk).update(is_active=True)
    identities.freeze(machine, "code used twice")
    assert admitted(machine) == set()


def test_machine_with_an_address_from_before_the_vpn_gets_no_identity() -> None:
    machine = new_machine()
    Machine.objects.filter(pk=machine.pk).update(vpn_address="127.64.1.0")
    with pytest.raises(IdentityError, match=r"A1 has the address 127.64.1.0, expected one of machines in 10.77.0.0/20"):
        identities.issue_identity(machine, now=NOW)


def test_frozen_machine_is_admitted_nowhere_until_a_supervisor_has_looked() -> None:
    machine = new_machine()
    token = services.issue_token(machine)
    identities.issue_identity(machine, now=NOW)
    for _ in range(2):
        identities.freeze(machine, "code used twice", now=NOW)

    with pytest.raises(TokenRefused, match="A1 is frozen"):
        services.authenticate_machine(token, peer_address=machine.vpn_address)
    with pytest.raises(IdentityError, match=r"A1 is frozen \(code used twice\)"):
        identities.issue_identity(machine)
    for stranger in (person("Alice"), person("Charlie", of="South", role="supervisor")):
        with pytest.raises(NotAllowed, match="Only a supervisor or a manager"):
            identities.unfreeze(machine, stranger)
    identities.unfreeze(machine, person("Eve", role="supervisor"))
    assert services.authenticate_machine(token, peer_address=machine.vpn_address) == machine
    assert len(admitted(machine)) == 1
    assert [kind for kind in kinds() if "frozen" in kind] == ["machine_frozen", "machine_unfrozen"]


def test_superuser_unfreezes_too_but_not_when_switched_off() -> None:
    machine, root = new_machine(), User.objects.create_superuser("root")
    identities.freeze(machine, "looked odd")
    root.is_active = False
    with pytest.raises(NotAllowed):
        identities.unfreeze(machine, root)
    root.is_active = True
    identities.unfreeze(machine, root)
    assert Machine.objects.get().frozen_at is None


def test_list_of_revocations_is_always_fresh() -> None:
    for later in (timedelta(0), 29 * DAY, 400 * DAY):
        crl = x509.load_pem_x509_crl(identities.crl_pem(now=NOW + later))
        assert crl.next_update_utc == NOW + later + timedelta(days=30)
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 3
    assert crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)


def test_revoked_one_stays_in_the_list_beyond_its_own_end() -> None:
    identity = identities.issue_identity(new_machine(), now=NOW)
    identities.revoke(identity, reason="stolen", now=NOW)
    assert revoked_serials(now=identity.expires_at + timedelta(hours=23)) == {identity.serial}
    assert revoked_serials(now=identity.expires_at + timedelta(hours=25)) == set()


def test_there_is_one_authority_and_its_servers_certificate_is_renewed_in_time() -> None:
    first = identities.ensure_authority(now=NOW)
    again = identities.ensure_authority(now=NOW + 600 * DAY)
    renewed = identities.ensure_authority(now=NOW + 800 * DAY)

    assert first.certificate == again.certificate == renewed.certificate
    assert first.server_certificate == again.server_certificate != renewed.server_certificate
    ends = x509.load_pem_x509_certificate(renewed.server_certificate.encode()).not_valid_after_utc
    assert ends == NOW + 1625 * DAY
    with pytest.raises(IntegrityError), transaction.atomic():
        VpnAuthority.objects.create(pk=2)


def test_wish_that_a_tunnel_ends_is_kept_once_and_fulfilled_once() -> None:
    machine = new_machine()
    wish = identities.end_tunnel_wish(machine, "rescue closed", now=NOW)
    assert identities.end_tunnel_wish(machine, "again", now=NOW + DAY) == wish
    identities.tunnel_ended(wish, now=NOW)
    identities.tunnel_ended(wish, now=NOW + DAY)
    wish.refresh_from_db()
    assert (wish.reason, wish.done_at) == ("rescue closed", NOW)
    assert identities.end_tunnel_wish(machine, "rescue closed") != wish
