"""`manage.py make_administrator`: somebody who may do everything, made where there is no terminal."""

from __future__ import annotations

from argparse import ArgumentParser

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import IntegrityError, transaction

from machines import services

_LEAST_ITERATIONS = 500_000


class Command(BaseCommand):
    """Makes one by a password's hash, so that no command line holds the password; changes nobody who is there."""

    help = "Makes a superuser by a password's hash. `createsuperuser` asks for the password where there is a terminal."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--password-hash", required=True, help="as Django keeps it: pbkdf2_sha256$…")

    def handle(self, *, name: str, password_hash: str, **options: object) -> None:
        _check(password_hash)
        user = get_user_model()(username=name, password=password_hash, is_staff=True, is_superuser=True)
        try:
            user.full_clean(exclude=["password"])
            with transaction.atomic():
                user.save()
                services.record_security_event("administrator_made", user=user)
        except (ValidationError, IntegrityError) as error:
            said = "; ".join(error.messages) if isinstance(error, ValidationError) else "that name is taken."
            raise CommandError(f"{name[:40]!r}: {said}") from None
        self.stdout.write(f"{name} may sign in and do everything.")


def _check(password_hash: str) -> None:
    expected = f"expected pbkdf2_sha256 of {_LEAST_ITERATIONS} iterations or more"
    try:
        decoded = PBKDF2PasswordHasher().decode(password_hash)
    except (ValueError, AssertionError):
        raise CommandError(f"Found no such hash of a password, {expected}.") from None
    if int(decoded["iterations"]) < _LEAST_ITERATIONS:
        raise CommandError(f"Found {decoded['iterations']} iterations, {expected}.")
