"""What every telemetry driver keeps to: subclass it, and give it an arrangement."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

import pytest
from django.utils import timezone

from machines import identities
from machines.models import Machine
from machines.telemetry.base import Duty, Profile, TelemetryDriver
from tests.machines.cast import new_machine
from tests.sessions.rescues import person


class Arrangement(Protocol):
    """A driver, and how a test brings about what it is to answer."""

    source: str

    @property
    def driver(self) -> TelemetryDriver:
        """The driver in question."""

    def make_responsible(self, machine: Machine, usernames: Sequence[str]) -> None:
        """From now on these are to be asked about the machine, in this order, and nobody else."""

    def let_say(self, machine: Machine, *, at: datetime, software: str, faults: Sequence[str]) -> None:
        """The machine says this."""


def made_profile(machine: Machine) -> Profile:
    """A good profile for the machine."""
    identity = identities.issue_identity(machine)
    return Profile(identity_serial=identity.serial, text=identities.hand_over(identity))


def names(duty: Duty) -> list[str]:
    return [one.username for one in duty.candidates]


@pytest.mark.django_db
@pytest.mark.usefixtures("vpn")
class TelemetryContract:
    """The promises of machines.telemetry.base.TelemetryDriver."""

    @pytest.fixture
    def arrangement(self) -> Arrangement:
        raise NotImplementedError("A subclass gives the arrangement.")

    def test_those_responsible_come_in_their_order(self, arrangement: Arrangement) -> None:
        machine, now = new_machine(), timezone.now()
        for name in ("Alice", "Bob", "Zoe"):
            person(name)
        arrangement.make_responsible(machine, ["zoe", "alice", "bob"])
        duty = arrangement.driver.who_is_responsible(machine, now=now)
        assert names(duty) == ["zoe", "alice", "bob"]
        assert (duty.source, duty.stood_in) == (arrangement.source, "")
        for one in duty.candidates:
            assert 0 < len(one.why) <= 200
            assert one.why.isprintable()

    def test_newest_arrangement_counts(self, arrangement: Arrangement) -> None:
        machine, now = new_machine(), timezone.now()
        person("Alice"), person("Bob")
        arrangement.make_responsible(machine, ["alice", "bob"])
        arrangement.driver.who_is_responsible(machine, now=now)
        arrangement.make_responsible(machine, ["bob"])
        assert names(arrangement.driver.who_is_responsible(machine, now=now)) == ["bob"]

    def test_nobody_is_an_answer_and_no_error(self, arrangement: Arrangement) -> None:
        machine, now = new_machine(), timezone.now()
        person("Alice")
        arrangement.make_responsible(machine, [])
        duty = arrangement.driver.who_is_responsible(machine, now=now)
        assert duty.candidates == ()
        assert duty.next_at is None or duty.next_at > now

    def test_each_machine_has_its_own(self, arrangement: Arrangement) -> None:
        one, other, now = new_machine(), new_machine("B1", of="South"), timezone.now()
        person("Alice"), person("Charlie", of="South")
        arrangement.make_responsible(one, ["alice"])
        arrangement.make_responsible(other, ["charlie"])
        assert names(arrangement.driver.who_is_responsible(one, now=now)) == ["alice"]
        assert names(arrangement.driver.who_is_responsible(other, now=now)) == ["charlie"]

    def test_last_word_is_what_the_machine_said_last(self, arrangement: Arrangement) -> None:
        machine, at = new_machine(), timezone.now().replace(microsecond=0)
        arrangement.let_say(machine, at=at - timedelta(minutes=5), software="4.1", faults=[])
        arrangement.let_say(machine, at=at, software="4.2", faults=["E17", "E03"])
        word = arrangement.driver.last_word(machine)
        assert word is not None
        assert (word.at, word.software, word.faults) == (at, "4.2", ("E17", "E03"))

    def test_machine_that_never_spoke_has_no_last_word(self, arrangement: Arrangement) -> None:
        assert arrangement.driver.last_word(new_machine()) is None

    def test_driver_takes_a_profile_and_the_same_one_again(self, arrangement: Arrangement) -> None:
        machine = new_machine()
        profile = made_profile(machine)
        arrangement.driver.deliver_profile(machine, profile)
        arrangement.driver.deliver_profile(machine, profile)
