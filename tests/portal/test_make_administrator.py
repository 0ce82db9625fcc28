"""An administrator is made where there is no terminal, by the hash of a password that stays where it was thought of."""

from __future__ import annotations

import pytest
from django.contrib.auth import authenticate
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django.fixtures import Settings

from backbone import commands
from machines.models import SecurityEvent, User

pytestmark = pytest.mark.django_db


def test_administrator_signs_in_with_the_password_whose_hash_was_given(settings: Settings) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
    call_command("make_administrator", "alice", password_hash=commands._hashed("correct horse"))
    user = authenticate(username="alice", password="correct horse")
    assert user is not None and user.is_superuser and user.is_staff
    assert SecurityEvent.objects.filter(kind="administrator_made", user=user).count() == 1


def test_nobody_who_is_there_is_changed() -> None:
    User.objects.create_user("alice", password="hers")
    with pytest.raises(CommandError, match="already exists"):
        call_command("make_administrator", "alice", password_hash=commands._hashed("mine"))
    assert authenticate(username="alice", password="hers") is not None
    assert not SecurityEvent.objects.filter(kind="administrator_made").exists()


@pytest.mark.parametrize("text", ["hunter2", "", "pbkdf2_sha256$1000$salt$aGFzaA==", "md5$a$b"])
def test_what_is_no_strong_hash_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(CommandError) as caught:
        call_command("make_administrator", "alice", password_hash=text)
    assert "expected pbkdf2_sha256" in str(caught.value)
    assert not text or text not in str(caught.value)
    assert not User.objects.filter(username="alice").exists()


def test_hash_that_is_made_elsewhere_is_django_s_own_kind() -> None:
    ours, djangos = commands._hashed("x").split("$"), PBKDF2PasswordHasher().encode("x", "s" * 22).split("$")
    assert ours[:2] == djangos[:2] and len(ours[2]) == len(djangos[2]) and len(ours[3]) == len(djangos[3])
