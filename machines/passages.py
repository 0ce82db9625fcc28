"""Which gateway may reach which machine just now: told by the apps above, kept by the VPN's firewall.

Imports go downwards only, so whoever knows of gateways registers here when the apps are ready.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_UID = "uid:"
# 0 is root, and the last one is what the kernel takes for nobody at all.
_UIDS = range(1, 2**32 - 1)


@dataclass(frozen=True, slots=True, order=True)
class Passage:
    """The right of one gateway to one port of one machine. Raises ValueError for what no firewall rule can hold.

    `source` is `uid:61003`, a user of this computer, or an IPv4 address from which packets come through it.
    """

    source: str
    machine_address: str
    port: int

    def __post_init__(self) -> None:
        ipaddress.IPv4Address(self.machine_address)
        if not isinstance(self.port, int) or not 1 <= self.port <= 65535:
            raise ValueError(f"Found port {self.port!r}, expected 1 to 65535.")
        if self.uid is None:
            ipaddress.IPv4Address(self.source)

    @property
    def uid(self) -> int | None:
        """The user whose processes may pass; None when the source is an address."""
        if not self.source.startswith(_UID):
            return None
        text = self.source.removeprefix(_UID)
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) in _UIDS):
            raise ValueError(f"Found source {self.source[:40]!r}, expected uid: and a user's number, but not root's.")
        return int(text)


_sources: list[Callable[[], Iterable[Passage]]] = []


def register(source: Callable[[], Iterable[Passage]]) -> None:
    """Adds one who knows of passages; it is asked several times a second, and may raise when the database is away."""
    if source not in _sources:
        _sources.append(source)


def wanted() -> frozenset[Passage]:
    """All passages there should be now."""
    return frozenset(passage for source in _sources for passage in source())
