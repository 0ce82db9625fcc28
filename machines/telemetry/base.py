"""What a telemetry driver is: it knows who is responsible for a machine and what the machine last said, and brings the
machine's profile to it.

The choice is the setting TELEMETRY: an alias of machines/telemetry/aliases.py or a dotted path to a class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Protocol, runtime_checkable

from django.conf import settings
from django.utils.module_loading import import_string

from machines.models import Machine
from machines.telemetry.aliases import ALIASES


class TelemetryError(Exception):
    """Telemetry could not do as told; `permanent` says that trying again is of no use. The text holds no secret."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class MachineUnknown(TelemetryError):
    """Telemetry works, but has no such machine, or not as one of this fleet."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A machine's .ovpn text, and the serial of the certificate in it: by that a driver knows one it has seen."""

    identity_serial: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody to ask, by user name; `why` says it in short words, as in: on the rota here until 18:00."""

    username: str
    why: str


@dataclass(frozen=True, slots=True)
class Duty:
    """Whom to ask about a machine at a moment, in this order; each name once, and perhaps nobody.

    `next_at` is from when there will be somebody, if nobody is there now and it is known. `stood_in` is empty, or says
    for the record of a rescue that and why this is not the chosen telemetry's own answer.
    """

    candidates: tuple[Candidate, ...]
    source: str
    next_at: datetime | None = None
    stood_in: str = ""


@dataclass(frozen=True, slots=True)
class LastWord:
    """What a machine last said, and when; `is_connected` is None where nobody knows."""

    at: datetime | None
    is_connected: bool | None
    software: str
    faults: tuple[str, ...]
    profile_version: str = ""


@dataclass(frozen=True, slots=True)
class Invitation:
    """That a machine is to make its own key and to enrol; `number` is this wish's name for ever.

    `issue` makes the code for it, which is good for 15 minutes: call it only when the machine is there to use it.
    """

    number: str
    address: str
    issue: Callable[[], tuple[str, datetime]] = field(repr=False)


class TelemetryDriver(Protocol):
    """One way to the machines beside the VPN."""

    def who_is_responsible(self, machine: Machine, *, now: datetime) -> Duty:
        """Whom to ask about this machine now. Names are user names here; what nobody has here is the caller's to skip.

        May take its time: callers have a deadline of their own. Never called in a request or a transaction, but for the
        built-in one. Raises TelemetryError.
        """

    def last_word(self, machine: Machine) -> LastWord | None:
        """What the machine last said; None if it never did. As slow as the other, and raises TelemetryError, too."""

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        """Takes the profile on its way; when this returns, it is the driver's to see that it arrives.

        A newer profile takes the place of an older one. The same one may come twice, after a crash: then nothing is to
        happen. Called by the worker, never in a request or a transaction. Raises TelemetryError.
        """


@runtime_checkable
class InvitingDriver(Protocol):
    """A driver that carries no private keys: the machine is invited to enrol instead of given a profile."""

    def invite(self, machine: Machine, invitation: Invitation) -> None:
        """Takes the invitation on its way, and further: called again and again until the machine has enrolled.

        Called by the worker, never in a request or a transaction. Raises TelemetryError.
        """

    def end_invitation(self, machine: Machine, invitation: Invitation, *, profile_version: str) -> None:
        """The machine has enrolled, for the certificate with this serial. May come twice. Raises TelemetryError."""


@cache
def get_driver() -> TelemetryDriver:
    """The driver that the setting TELEMETRY chooses."""
    driver: TelemetryDriver = import_string(ALIASES.get(settings.TELEMETRY, settings.TELEMETRY))()
    return driver
