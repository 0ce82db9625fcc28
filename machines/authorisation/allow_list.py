"""Whom to admit, as a file beside OpenVPN: it decides when the database is away.

The file holds no secret: names, addresses and fingerprints. It is written before OpenVPN's questions are answered by
it, so after a crash the agent begins with what it last knew.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from machines.vpn import files
from machines.vpn.pki import MACHINE_NAME

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_VERSION = 1


class AllowListError(Exception):
    """The file is missing or is no allow list; the text names what was found."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """One machine: its address in the VPN, and the SHA-256 fingerprints (lower hex) that may use it."""

    address: str
    fingerprints: frozenset[str]

    def __post_init__(self) -> None:
        ipaddress.IPv4Address(self.address)
        for fingerprint in self.fingerprints:
            if not FINGERPRINT.fullmatch(fingerprint):
                raise ValueError(f"Found fingerprint {fingerprint[:80]!r}, expected 64 digits of lower-case hex.")


@dataclass(frozen=True, slots=True)
class AllowList:
    """All whom OpenVPN may let in, by common name. Raises ValueError for what no machine can have."""

    machines: Mapping[str, Allowed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.machines:
            if not MACHINE_NAME.fullmatch(name):
                raise ValueError(f"Found common name {name[:80]!r}, expected m- and a number.")

    def address_of(self, common_name: str, fingerprint: str) -> str | None:
        """The address that this holder of a certificate gets; None: it is not admitted."""
        allowed = self.machines.get(common_name)
        if allowed is None or fingerprint not in allowed.fingerprints:
            return None
        return allowed.address


def write(path: Path, allow_list: AllowList) -> bool:
    """Replaces the file at once; False when it was the same already."""
    document = {
        "version": _VERSION,
        "machines": {
            name: {"address": allowed.address, "fingerprints": sorted(allowed.fingerprints)}
            for name, allowed in sorted(allow_list.machines.items())
        },
    }
    return files.replace(path, json.dumps(document, indent=1).encode() + b"\n")


def read(path: Path) -> AllowList:
    """What was last written. Raises AllowListError; half a file is never believed."""
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise AllowListError(f"{path}: found version {document['version']!r}, expected {_VERSION}.")
        return AllowList(
            {
                name: Allowed(entry["address"], frozenset(entry["fingerprints"]))
                for name, entry in document["machines"].items()
            }
        )
    except FileNotFoundError:
        raise AllowListError(f"{path}: there is no allow list yet.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise AllowListError(f"{path}: no allow list can be read from it ({type(error).__name__}: {error}).") from error
