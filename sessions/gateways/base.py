"""What a gateway driver is: it starts, describes and stops one guacd for one attempt of one session.

The worker commits what it wants before it calls a driver, and may call again after a crash, with the same attempt id:
every method is idempotent by it. The choice is the setting GATEWAY: an alias below or a dotted path to a class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Protocol

from django.utils.module_loading import import_string

ALIASES = {
    "local": "sessions.gateways.local.LocalGateways",
    "fixed": "sessions.gateways.fixed.FixedGateways",
}

# What a driver needs to find a gateway again: small, plain, kept in the gateway's row, never a secret.
Handle = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """A wish for one gateway; `attempt_id` is its name for ever after."""

    attempt_id: str
    session_id: str
    machine_address: str
    machine_port: int


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """What has become of it. `ready` has host and port of a guacd that answers; `detail` says why it is not there."""

    state: Literal["starting", "ready", "stopped", "failed"]
    host: str = ""
    port: int = 0
    handle: dict[str, str | int] = field(default_factory=dict)
    detail: str = ""


class GatewayError(Exception):
    """A driver could not do as told, or could not find out; `permanent` says that trying again is of no use."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class GatewayDriver(Protocol):
    """One way to have gateways. A call returns or raises within 15 s, since the worker's lease is for 20 s."""

    def start(self, request: GatewayRequest) -> GatewayStatus:
        """Starts the attempt's gateway, or finds the one that an earlier call started: `starting`, `ready` or `failed`.

        Raises GatewayError; whatever is half there then is taken away by `stop`.
        """

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        """What has become of an attempt's gateway. `stopped`: it is surely gone. GatewayError: nobody can tell now."""

    def stop(self, attempt_id: str, handle: Handle) -> None:
        """Returns when nothing of the attempt is left, also when it never ran. Raises GatewayError."""

    def running(self) -> list[str]:
        """The attempts of this installation of which anything is there, for the sweep. Raises GatewayError."""


@cache
def get_driver(choice: str) -> GatewayDriver:
    """The driver for an alias or a dotted path, one a process."""
    driver: GatewayDriver = import_string(ALIASES.get(choice, choice))()
    return driver
