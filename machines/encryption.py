"""Encrypted columns: Fernet (cryptography), the purpose bound into the plaintext, loud on failure.

A value moved to another column does not decrypt there. CREDENTIAL_KEYS holds the keys: the first encrypts,
all decrypt, so a new key is put in front and the old one taken out when nothing of it is left.
"""

from __future__ import annotations

from typing import Any

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models, transaction


class DecryptionError(Exception):
    """A stored value does not decrypt with any of CREDENTIAL_KEYS, or was made for another column."""


def encrypt(text: str, *, purpose: str) -> str:
    return _fernet().encrypt(f"{purpose}\0{text}".encode()).decode("ascii")


def decrypt(token: str, *, purpose: str) -> str:
    """The text of `encrypt`; raises DecryptionError, which never holds the value."""
    try:
        plain = _fernet().decrypt(token.encode("ascii")).decode()
    except InvalidToken as error:
        raise DecryptionError(f"A value for {purpose} does not decrypt with any key of CREDENTIAL_KEYS.") from error
    found, _, text = plain.partition("\0")
    if found != purpose:
        raise DecryptionError(f"Found a value made for {found}, expected one for {purpose}.")
    return text


class EncryptedTextField(models.TextField):  # type: ignore[type-arg]
    """A text that the database only ever sees encrypted; it cannot be searched for."""

    def _purpose(self) -> str:
        return f"{self.model._meta.db_table}.{self.column}"

    def get_prep_value(self, value: Any) -> str | None:
        return None if value is None else encrypt(str(value), purpose=self._purpose())

    def from_db_value(self, value: str | None, expression: object, connection: object) -> str | None:
        return None if value is None else decrypt(value, purpose=self._purpose())


def reencrypt() -> int:
    """Encrypts every row of every encrypted column anew, with the first of CREDENTIAL_KEYS; how many rows those were.

    Before an old key is taken out: the VPN authority's key outlives it. Raises DecryptionError, and changes nothing,
    for a row that none of the keys decrypts.
    """
    count = 0
    with transaction.atomic():
        for model in apps.get_models():
            names = [one.name for one in model._meta.concrete_fields if isinstance(one, EncryptedTextField)]
            rows = model._base_manager.select_for_update().order_by().only("pk", *names) if names else []
            for row in rows:
                model._base_manager.filter(pk=row.pk).update(**{name: getattr(row, name) for name in names})
                count += 1
    return count


def _fernet() -> MultiFernet:
    try:
        return MultiFernet([Fernet(key) for key in settings.CREDENTIAL_KEYS])
    except ValueError as error:
        raise ImproperlyConfigured(
            "CREDENTIAL_KEYS: expected Fernet keys, 32 bytes in URL-safe base64 each."
        ) from error
