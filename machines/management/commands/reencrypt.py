"""A step of rotating CREDENTIAL_KEYS: afterwards nothing needs any key but the first."""

from __future__ import annotations

from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError

from machines import encryption


class Command(BaseCommand):
    requires_system_checks = [Tags.models]
    help = "Encrypts what is kept encrypted anew, with the first of CREDENTIAL_KEYS."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            count = encryption.reencrypt()
        except encryption.DecryptionError as error:
            raise CommandError(f"{error} Nothing was changed.") from error
        self.stdout.write(f"Encrypted anew: {count} rows")
