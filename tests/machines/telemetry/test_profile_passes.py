"""Profiles on their way: made once, delivered at least once, tried again with patience."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
from django.db import connections

from machines import identities
from machines.errors import IdentityError, NoVpn
from machines.models import Machine, ProfileDelivery, SecurityEvent, VpnIdentity
from machines.profile_passes import ProfilePasses, request_profile
from machines.telemetry import builtin
from machines.telemetry.base import MachineUnknown, Profile, TelemetryError
from tests.machines.cast import new_machine
from tests.sessions.rescues import Clock, person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]


class Post(builtin.BuiltinTelemetry):
    """A driver that takes what it is given, or says what it is told to say; for the rest as the built-in one."""

    def __init__(self) -> None:
        self.taken: list[Profile] = []
        self.answers: list[BaseException] = []
        self.calls = 0

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        self.calls += 1
        if self.answers:
            raise self.answers.pop(0)
        self.taken.append(profile)


class Round:
    """A worker's passes with a clock and a driver of the test's own."""

    def __init__(self) -> None:
        self.post, self.clock = Post(), Clock()
        self.passes = ProfilePasses(self.clock, lambda: self.post)

    def at(self, seconds: float) -> datetime:
        self.clock.tick(seconds)
        self.passes.run()
        return self.clock.at


@pytest.fixture
def round_() -> Round:
    return Round()


def test_wish_becomes_an_identity_and_a_delivered_profile(round_: Round) -> None:
    machine = new_machine()
    delivery = request_profile(machine, user=person("Alice"))
    assert VpnIdentity.objects.count() == 0, "nothing is made in the request"
    round_.at(1)
    delivery.refresh_from_db()
    (profile,) = round_.post.taken
    assert "<key>" in profile.text
    assert delivery.delivered_at is not None
    assert delivery.profile is None
    identity = VpnIdentity.objects.get()
    assert (identity.serial, identity.private_key) == (profile.identity_serial, None)
    kinds = list(SecurityEvent.objects.filter(machine=machine).order_by("pk").values_list("kind", flat=True))
    assert kinds == ["profile_requested", "identity_issued", "identity_handed_over", "profile_delivered"]


def test_wishing_twice_is_one_wish(round_: Round) -> None:
    machine = new_machine()
    assert request_profile(machine, user=None) == request_profile(machine, user=None)
    round_.at(1)
    round_.at(60)
    assert round_.post.calls == 1


def test_line_that_is_down_is_tried_again_later_and_later_with_the_same_profile(round_: Round) -> None:
    request_profile(new_machine(), user=None)
    round_.post.answers = [TelemetryError("no line")] * 3
    round_.at(1)
    assert ProfileDelivery.objects.get().last_error == "no line"
    waits = []
    for _ in range(3):
        before = round_.post.calls
        waited = 0
        while round_.post.calls == before:
            round_.at(1)
            waited += 1
            assert waited < 100
        waits.append(waited)
    assert waits == [5, 10, 20]
    assert VpnIdentity.objects.count() == 1
    assert len(round_.post.taken) == 1
    assert ProfileDelivery.objects.get().last_error == ""


def test_line_that_is_down_is_waited_for_once_a_pass(round_: Round) -> None:
    for number in range(3):
        request_profile(new_machine(f"A{number}"), user=None)
    round_.post.answers = [TelemetryError("no line"), MachineUnknown("no such machine there")]
    round_.at(1)
    assert round_.post.calls == 1, "the others would wait as long, for nothing"
    round_.at(1)
    assert round_.post.calls == 3, "a machine that is not known there says nothing of the others"
    assert ProfileDelivery.objects.exclude(delivered_at=None).count() == 1


def test_driver_whose_settings_are_wrong_loses_nothing(round_: Round) -> None:
    request_profile(new_machine(), user=None)

    def wrong() -> Post:
        raise TelemetryError("AWS_REGION: found nothing.", permanent=False)

    passes = ProfilePasses(round_.clock, wrong)
    round_.clock.tick(1)
    passes.run()
    assert ProfileDelivery.objects.get().last_error == "AWS_REGION: found nothing."
    round_.at(6)
    assert len(round_.post.taken) == 1


def test_driver_that_breaks_is_only_another_try(round_: Round) -> None:
    request_profile(new_machine(), user=None)
    round_.post.answers = [RuntimeError("out of paper")]
    round_.at(1)
    round_.at(6)
    assert len(round_.post.taken) == 1


def test_what_can_never_arrive_is_given_up_and_revoked(round_: Round) -> None:
    machine = new_machine()
    delivery = request_profile(machine, user=None)
    round_.post.answers = [TelemetryError("no such machine", permanent=True)]
    round_.at(1)
    delivery.refresh_from_db()
    assert (delivery.last_error, delivery.profile) == ("no such machine", None)
    assert delivery.failed_at is not None
    assert VpnIdentity.objects.get().revoked_at is not None
    request_profile(machine, user=None)
    round_.at(1)
    assert len(round_.post.taken) == 1


def test_profile_of_a_machine_frozen_meanwhile_stays_here(round_: Round) -> None:
    machine = new_machine()
    request_profile(machine, user=None)
    identities.freeze(machine, "by hand")
    round_.at(1)
    assert round_.post.calls == 0
    assert "frozen" in ProfileDelivery.objects.get().last_error


def test_crash_between_making_and_delivering_is_taken_up(round_: Round) -> None:
    request_profile(new_machine(), user=None)
    round_.post.answers = [SystemExit()]
    with pytest.raises(SystemExit):
        round_.at(1)
    made = ProfileDelivery.objects.get()
    assert made.profile is not None
    after = Round()
    after.at(6)
    (profile,) = after.post.taken
    assert profile.text == made.profile


def test_profile_is_asked_for_only_where_one_can_be_used(settings: object) -> None:
    machine = new_machine()
    identities.freeze(machine, "by hand")
    with pytest.raises(IdentityError, match="frozen"):
        request_profile(machine, user=None)
    settings.VPN = "loopback"  # type: ignore[attr-defined]
    with pytest.raises(NoVpn):
        request_profile(new_machine("A2"), user=None)


def test_builtin_telemetry_keeps_it_for_the_download() -> None:
    machine = new_machine()
    request_profile(machine, user=person("Alice"))
    clock = Clock()
    clock.tick(1)
    ProfilePasses(clock, builtin.BuiltinTelemetry).run()
    assert "<key>" in builtin.download(machine, user=person("Alice")).text
    clock.tick(builtin.KEPT_FOR.total_seconds() + 60)
    request_profile(machine, user=None)


@pytest.mark.django_db(transaction=True)
def test_of_several_workers_one_delivers() -> None:
    identities.ensure_authority()
    request_profile(new_machine(), user=None)
    post, clock, barrier = Post(), Clock(), threading.Barrier(4)
    clock.tick(timedelta(seconds=1).total_seconds())

    def work(_: int) -> None:
        try:
            barrier.wait(30)
            ProfilePasses(clock, lambda: post).run()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert post.calls == 1
    assert VpnIdentity.objects.count() == 1
