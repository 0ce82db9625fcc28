"""Encrypted columns: unreadable without the key, bound to their column, and loud when something is wrong."""

from __future__ import annotations

import pytest
from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection
from pytest_django.fixtures import Settings

from machines import identities
from machines.encryption import DecryptionError, decrypt, encrypt
from machines.models import VpnAuthority, VpnIdentity
from sessions.models import RdpCredential
from tests.sessions.rescues import PASSWORD, machine, press


def test_value_comes_back_for_its_purpose_only() -> None:
    token = encrypt("pässwörd;,. 🔑", purpose="a.b")

    assert decrypt(token, purpose="a.b") == "pässwörd;,. 🔑"
    with pytest.raises(DecryptionError, match=r"made for a\.b, expected one for a\.c"):
        decrypt(token, purpose="a.c")


def test_new_key_in_front_still_reads_what_the_old_one_wrote(settings: Settings) -> None:
    token = encrypt("secret", purpose="p")
    old = settings.CREDENTIAL_KEYS

    settings.CREDENTIAL_KEYS = [Fernet.generate_key().decode(), *old]
    assert decrypt(token, purpose="p") == "secret"
    settings.CREDENTIAL_KEYS = settings.CREDENTIAL_KEYS[:1]
    with pytest.raises(DecryptionError) as caught:
        decrypt(token, purpose="p")
    assert "secret" not in str(caught.value)


def test_key_of_another_shape_is_named(settings: Settings) -> None:
    settings.CREDENTIAL_KEYS = ["short"]

    with pytest.raises(ImproperlyConfigured, match="CREDENTIAL_KEYS"):
        encrypt("x", purpose="p")


@pytest.mark.django_db
def test_database_never_sees_a_login() -> None:
    press()

    with connection.cursor() as cursor:
        cursor.execute("SELECT username, password, domain FROM support_rdp_credential")
        row = cursor.fetchone()
    assert all(value not in " ".join(row) for value in (PASSWORD, "once"))
    assert RdpCredential.objects.get().password == PASSWORD


@pytest.mark.django_db
def test_all_is_readable_with_the_new_key_alone_after_reencryption(settings: Settings) -> None:
    press()
    identity = identities.issue_identity(machine())
    old, new = settings.CREDENTIAL_KEYS, Fernet.generate_key().decode()
    settings.CREDENTIAL_KEYS = [new, *old]
    call_command("reencrypt")
    settings.CREDENTIAL_KEYS = [new]

    assert RdpCredential.objects.get().password == PASSWORD
    assert VpnIdentity.objects.get().private_key == identity.private_key
    assert "BEGIN PRIVATE KEY" in VpnAuthority.objects.get().key
    settings.CREDENTIAL_KEYS = old
    with pytest.raises(CommandError, match=r"does not decrypt with any key of CREDENTIAL_KEYS\. Nothing was changed"):
        call_command("reencrypt")
