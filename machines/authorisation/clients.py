"""A client of OpenVPN as admission knows it, and how it comes to be known.

It asks to be let in, an earlier run of the agent wrote it down, or OpenVPN's status alone tells of it.
"""

from __future__ import annotations

import ipaddress
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from machines.authorisation.allow_list import FINGERPRINT
from machines.authorisation.management import Connecting, StatusRow
from machines.authorisation.outcomes import Alarm, Forget, Known, Left, Moment, Outcome
from machines.authorisation.ways import Way, way_of
from machines.vpn.pki import is_client


class State(Enum):
    WAITING = auto()  # it asked and has no answer
    ADMITTED = auto()  # it was let in and has no tunnel yet
    INSIDE = auto()


@dataclass(slots=True, eq=False)
class Client:
    """One connection to OpenVPN, from its question on; what becomes of it is decided in `admission.py`."""

    client_id: int
    key_id: int
    common_name: str
    fingerprint: str
    remote_address: str
    remote_port: int
    arrived: Moment
    state: State
    heard: Moment
    key: uuid.UUID | None = None
    bytes_received: int = 0
    bytes_sent: int = 0
    ending: str = ""  # why it was told to end
    forget_at: float | None = None

    @property
    def place(self) -> tuple[str, int]:
        return self.remote_address, self.remote_port

    @property
    def way(self) -> Way:
        return way_of(self.client_id)

    @property
    def forgotten(self) -> Forget:
        return Forget(*self.place, self.way)

    def take_last_counts(self, environment: Mapping[str, str]) -> None:
        """What OpenVPN says at the end, unless more was told before."""
        self.bytes_received = max(self.bytes_received, _count(environment.get("bytes_received", "")))
        self.bytes_sent = max(self.bytes_sent, _count(environment.get("bytes_sent", "")))

    def left(self, detail: str, now: Moment) -> list[Outcome]:
        """That its tunnel is no more; nothing of one who had none."""
        if self.key is None:
            return []
        return [Left(self.key, detail, now.wall, self.bytes_received, self.bytes_sent)]

    def alarm(self, kind: str, *, first: Client | None) -> Alarm:
        """`first` is the one who has its name and was there before."""
        detail = {"fingerprint": self.fingerprint}
        if first is not None:
            detail["first"] = f"{first.remote_address}:{first.remote_port}"
            detail["second"] = f"{self.remote_address}:{self.remote_port}"
        return Alarm(kind, self.common_name, self.remote_address, detail)


def newcomer(event: Connecting, now: Moment) -> Client:
    """Somebody who asks. Raises ValueError for what no machine and no gateway of ours can be."""
    values = event.environment
    name = values.get("common_name", "")
    if not is_client(name):
        raise ValueError(f"found common name {printable(name)!r}, expected m- and a number")
    fingerprint = values.get("tls_digest_sha256_0", "").replace(":", "").lower()
    if not FINGERPRINT.fullmatch(fingerprint):
        raise ValueError(f"found fingerprint {printable(fingerprint)!r}, expected SHA-256")
    address = values.get("untrusted_ip") or values.get("trusted_ip", "")
    port = _count(values.get("untrusted_port") or values.get("trusted_port", ""))
    return Client(
        event.client_id, event.key_id, name, fingerprint, str(ipaddress.IPv4Address(address)), port, now,
        State.WAITING, now,
    )  # fmt: skip


def from_known(known: Known, now: Moment) -> Client:
    """Somebody inside whom an earlier run of the agent let in."""
    return Client(
        known.client_id, 0, known.common_name, known.fingerprint, known.remote_address, known.remote_port,
        Moment(now.clock, known.since), State.INSIDE, now, key=known.key,
    )  # fmt: skip


def stranger(row: StatusRow, now: Moment, *, forget_at: float) -> Client:
    """Somebody inside of whom it is not known by which certificate: told to come again, and dropped if it does not."""
    return Client(
        row.client_id, 0, row.common_name, "", row.remote_address, row.remote_port, now, State.INSIDE, now,
        ending="Sent round.", forget_at=forget_at,
    )  # fmt: skip


def printable(text: str) -> str:
    """What a stranger wrote, fit to be shown and written down."""
    return "".join(character if character.isprintable() else "?" for character in text[:80])


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0
