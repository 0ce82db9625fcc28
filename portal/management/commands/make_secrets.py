"""Makes the secrets that an installation needs, each once: what the file has already stays as it is."""

from __future__ import annotations

import base64
import os
import secrets
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.management.base import BaseCommand, CommandError

from portal.environment import SettingError, read_env_file


class Command(BaseCommand):
    help = (
        "Makes SECRET_KEY, CREDENTIAL_KEYS and VAPID_PRIVATE_KEY in a file that only its owner can read; "
        "keeps those that are there."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--file", type=Path, required=True, help="as in var/portafilter.env")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        try:
            kept = read_env_file(file) if file.exists() else {}
        except SettingError as error:
            raise CommandError(str(error)) from error
        made = {
            name: value
            for name, value in {
                "SECRET_KEY": secrets.token_urlsafe(48),
                "CREDENTIAL_KEYS": Fernet.generate_key().decode(),
                "VAPID_PRIVATE_KEY": make_vapid_key(),
            }.items()
            if not kept.get(name)
        }
        if not made:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        old = file.read_text(encoding="utf-8") if file.exists() else "# Secrets of this installation. Keep this file.\n"
        text = old + "".join(f"{name}={value}\n" for name, value in made.items())
        # Written beside and renamed, so that a killed process leaves the old file or the new one, never half of it.
        beside = file.with_name(f"{file.name}.{os.getpid()}")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(file)
        self.stdout.write(f"Made {', '.join(made)} in {file}")


def make_vapid_key() -> str:
    """A key for Web Push (RFC 8292): the number of a private P-256 key as 32 bytes, base64url without padding."""
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("=")
