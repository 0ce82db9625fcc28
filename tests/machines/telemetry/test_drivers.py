"""Profiles with the built-in telemetry: kept until somebody downloads them, once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections
from django.utils import timezone

from machines import identities
from machines.errors import AlreadyHandedOver, IdentityError
from machines.models import KeptProfile, SecurityEvent, VpnIdentity
from machines.telemetry import base, builtin
from machines.telemetry.base import Profile
from tests.machines.cast import new_machine
from tests.machines.telemetry.contract import made_profile
from tests.sessions.rescues import person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]


def test_profile_shows_its_text_to_no_log() -> None:
    assert "PRIVATE" not in repr(Profile(identity_serial="ab", text="PRIVATE KEY"))


def test_setting_chooses_the_driver() -> None:
    base.get_driver.cache_clear()
    assert isinstance(base.get_driver(), builtin.BuiltinTelemetry)


def test_same_profile_delivered_twice_is_downloaded_once() -> None:
    machine, telemetry = new_machine(), builtin.BuiltinTelemetry()
    profile = made_profile(machine)
    telemetry.deliver_profile(machine, profile)
    telemetry.deliver_profile(machine, profile)
    assert builtin.download(machine, user=person("Alice")).text == profile.text
    telemetry.deliver_profile(machine, profile)
    with pytest.raises(AlreadyHandedOver, match="Alice"):
        builtin.download(machine, user=person("Bob"))


def test_newer_profile_takes_the_place_of_the_older() -> None:
    machine, telemetry = new_machine(), builtin.BuiltinTelemetry()
    old, new = made_profile(machine), made_profile(machine)
    telemetry.deliver_profile(machine, old)
    telemetry.deliver_profile(machine, new)
    assert builtin.download(machine, user=person("Alice")).text == new.text
    assert KeptProfile.objects.exclude(profile=None).count() == 0
    good = VpnIdentity.objects.filter(revoked_at=None)
    assert [one.serial for one in good] == [new.identity_serial], "what the older one admits has never left this place"


def test_kept_profile_is_encrypted_and_gone_after_the_download() -> None:
    machine = new_machine()
    profile = made_profile(machine)
    builtin.BuiltinTelemetry().deliver_profile(machine, profile)

    def column() -> str:
        with connection.cursor() as cursor:
            cursor.execute("SELECT profile FROM machines_keptprofile")
            return str(cursor.fetchone()[0])

    assert len(column()) > 1000
    assert "BEGIN" not in column()
    builtin.download(machine, user=person("Alice"))
    assert column() == "None"
    event = SecurityEvent.objects.get(kind="profile_downloaded")
    assert (event.user, event.machine, event.detail) == (
        person("Alice"),
        machine,
        {"serial": profile.identity_serial},
    )


def test_revoked_profile_is_not_given_out() -> None:
    machine = new_machine()
    builtin.BuiltinTelemetry().deliver_profile(machine, made_profile(machine))
    assert builtin.kept_for(machine) is not None
    identities.revoke_all(machine, reason="lost")
    assert builtin.kept_for(machine) is None
    with pytest.raises(IdentityError, match="revoked"):
        builtin.download(machine, user=person("Alice"))


def test_frozen_machines_profile_is_not_given_out() -> None:
    machine = new_machine()
    builtin.BuiltinTelemetry().deliver_profile(machine, made_profile(machine))
    identities.freeze(machine, "by hand")
    with pytest.raises(IdentityError, match="frozen"):
        builtin.download(machine, user=person("Alice"))


def test_machine_without_a_profile_says_so() -> None:
    with pytest.raises(IdentityError, match="no profile"):
        builtin.download(new_machine(), user=person("Alice"))


def test_what_nobody_fetched_is_erased_and_revoked_in_the_end() -> None:
    machine, now = new_machine(), timezone.now()
    builtin.BuiltinTelemetry().deliver_profile(machine, made_profile(machine))
    assert builtin.forget_stale(now=now + builtin.KEPT_FOR - timedelta(minutes=1)) == 0
    assert builtin.forget_stale(now=now + builtin.KEPT_FOR + timedelta(minutes=1)) == 1
    assert KeptProfile.objects.get().profile is None
    assert VpnIdentity.objects.get().revoked_at is not None


@pytest.mark.django_db(transaction=True)
def test_double_click_on_download_gives_it_once() -> None:
    machine, alice = new_machine(), person("Alice")
    builtin.BuiltinTelemetry().deliver_profile(machine, made_profile(machine))
    barrier = threading.Barrier(4)

    def click(_: int) -> object:
        try:
            barrier.wait(30)
            return builtin.download(machine, user=alice)
        except AlreadyHandedOver as error:
            return error
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(click, range(4)))
    assert sum(isinstance(one, Profile) for one in outcomes) == 1
    assert SecurityEvent.objects.filter(kind="profile_downloaded").count() == 1
