"""What a telemetry driver is: it brings a machine's profile to the machine.

The choice is the setting TELEMETRY: an alias below or a dotted path to a class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from machines.models import Machine

ALIASES = {"builtin": "machines.telemetry.builtin.BuiltinTelemetry"}


class TelemetryError(Exception):
    """Telemetry could not do as told; `permanent` says that trying again is of no use. The text holds no secret."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class Profile:
    """A machine's .ovpn text, and the serial of the certificate in it: by that a driver knows one it has seen."""

    identity_serial: str
    text: str = field(repr=False)


class TelemetryDriver(Protocol):
    """One way to the machines beside the VPN."""

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        """Takes the profile on its way; when this returns, it is the driver's to see that it arrives.

        A newer profile takes the place of an older one. The same one may come twice, after a crash: then nothing is to
        happen. Called by the worker, never in a request or a transaction. Raises TelemetryError.
        """


@cache
def get_driver() -> TelemetryDriver:
    """The driver that the setting TELEMETRY chooses."""
    driver: TelemetryDriver = import_string(ALIASES.get(settings.TELEMETRY, settings.TELEMETRY))()
    return driver
