"""What a gateway driver is: it starts, describes and stops one guacd for one attempt of one session.

The worker commits what it wants before it calls a driver, and may call again after a crash, with the same attempt id:
every method is idempotent by it. The choice is the setting GATEWAY: an alias below or a dotted path to a class.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Protocol, runtime_checkable

from django.utils.module_loading import import_string

ALIASES = {
    "local": "sessions.gateways.local.LocalGateways",
    "fixed": "sessions.gateways.fixed.FixedGateways",
    "ecs": "sessions.gateways.ecs.EcsGateways",
}

# What a driver needs to find a gateway again: small, plain, kept in the gateway's row, never a secret.
Handle = Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class GatewayRequest:
    """A wish for one gateway; `attempt_id` is its name for ever after.

    Without a `session_id` it is a warm one, for whichever machine of the fleet is the next: it names no machine.
    """

    attempt_id: str
    session_id: str
    machine_address: str
    machine_port: int
    fleet: str = ""  # the fleet's slug


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """What has become of it. `ready` has host and port of a guacd that answers; `detail` says why it is not there.

    `record` says the same to whoever runs Portafilter, for the log and the gateway's row; empty: `detail` does.
    `no_room`: it fails, or waits, for want of room, which another one takes.
    """

    state: Literal["starting", "ready", "stopped", "failed"]
    host: str = ""
    port: int = 0
    handle: dict[str, str | int] = field(default_factory=dict)
    detail: str = ""
    record: str = ""
    no_room: bool = False


class GatewayError(Exception):
    """A driver could not do as told, or could not find out; `permanent` says that trying again is of no use.

    The text is what operators read of it, `record` what whoever runs Portafilter does; without one it is the same.
    """

    def __init__(self, message: str, *, permanent: bool = False, record: str = "") -> None:
        super().__init__(message)
        self.permanent = permanent
        self.record = record or message


class StillStopping(GatewayError):
    """It has been told to stop, and does, but is not gone yet: asking again is how one hears of its end."""


class GatewayDriver(Protocol):
    """One way to have gateways. A call returns or raises within 15 s, since the worker's lease is for 20 s.

    One that hears of changes by itself has a `watch`, too, as Watching has it. One with `can_be_warm = False` has no
    gateways to keep ready before help is pressed, since it starts none. One whose orders depend on settings has a
    `mark`, as Marking has it.
    """

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


@runtime_checkable
class Watching(Protocol):
    """A driver that is told what becomes of its gateways; a thread of the worker's process listens for it."""

    def watch(self, stop: threading.Event, changed: Callable[[list[str]], None]) -> None:
        """Calls `changed` with the attempts of which there is news, until `stop` is set; raises nothing for long.

        An error of it is logged and it is called again: whatever is missed meanwhile is found by looking.
        """


@runtime_checkable
class Marking(Protocol):
    """A driver whose handles say with which settings a gateway was ordered, so that warm ones of older ones can go."""

    def mark(self) -> dict[str, str | int]:
        """`mark`, a digest of the settings, and `since`, the time at which the process came to have them."""


@cache
def get_driver(choice: str) -> GatewayDriver:
    """The driver for an alias or a dotted path, one a process."""
    driver: GatewayDriver = import_string(ALIASES.get(choice, choice))()
    return driver
