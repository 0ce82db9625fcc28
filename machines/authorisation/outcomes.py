"""What admission is told and what comes of it: the words between those who ask, the one that decides and those who do.

The agent sends OpenVPN what is for it, by the functions of the same names in `management.py`; `hands.py` and `rows.py`
write down the rest.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from machines.authorisation.ways import Way

# --- what it is told --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """Now: `clock` (monotonic seconds) for waiting, `wall` for comparing with what others wrote."""

    clock: float
    wall: datetime


@dataclass(frozen=True, slots=True)
class Ending:
    """The wish that the tunnels end which a machine had at that time, or a gateway at any (None).

    Of a gateway it is only asked when that is out: it is no longer on the allow list, and cut for that.
    """

    wish: int
    common_name: str
    requested_at: datetime | None


@dataclass(frozen=True, slots=True)
class Known:
    """A tunnel that an earlier run of the agent wrote down."""

    key: uuid.UUID
    common_name: str
    fingerprint: str
    client_id: int
    remote_address: str
    remote_port: int
    since: datetime


# --- what to tell OpenVPN ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admit:
    client_id: int
    key_id: int
    address: str


@dataclass(frozen=True, slots=True)
class Confirm:
    client_id: int
    key_id: int


@dataclass(frozen=True, slots=True)
class Deny:
    client_id: int
    key_id: int
    log: str
    shown: str


@dataclass(frozen=True, slots=True)
class Halt:
    client_id: int


@dataclass(frozen=True, slots=True)
class Restart:
    client_id: int


@dataclass(frozen=True, slots=True)
class Forget:
    remote_address: str
    remote_port: int
    way: Way = Way.FIRST


# --- what to write down -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Joined:
    """A tunnel is there; `key` names it in all that follows."""

    key: uuid.UUID
    common_name: str
    fingerprint: str
    client_id: int
    remote_address: str
    remote_port: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Left:
    key: uuid.UUID
    detail: str
    at: datetime
    bytes_received: int = 0
    bytes_sent: int = 0


@dataclass(frozen=True, slots=True)
class TunnelEnded:
    """A wish that a tunnel ends is fulfilled; whose it was."""

    wish: int
    common_name: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What came and went through a tunnel so far, and when something last came."""

    at: datetime
    bytes_received: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something for the security record; `kind` as there."""

    kind: str
    common_name: str
    address: str
    detail: Mapping[str, str]


Outcome = Admit | Confirm | Deny | Halt | Restart | Forget | Joined | Left | TunnelEnded | Alarm
