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
from typing import Any

from machines.vpn import files
from machines.vpn.pki import GATEWAY_NAME, MACHINE_NAME

FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_VERSION = 1


class AllowListError(Exception):
    """The file is missing or is no allow list; the text names what was found."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """One machine or gateway: its address in the VPN, and the SHA-256 fingerprints (lower hex) that may use it."""

    address: str
    fingerprints: frozenset[str]

    def __post_init__(self) -> None:
        ipaddress.IPv4Address(self.address)
        for fingerprint in self.fingerprints:
            if not FINGERPRINT.fullmatch(fingerprint):
                raise ValueError(f"Found fingerprint {fingerprint[:80]!r}, expected 64 digits of lower-case hex.")


@dataclass(frozen=True, slots=True)
class AllowList:
    """All whom OpenVPN may let in, by common name. Raises ValueError for what no machine and no gateway can have."""

    machines: Mapping[str, Allowed] = field(default_factory=dict)
    gateways: Mapping[str, Allowed] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.machines:
            if not MACHINE_NAME.fullmatch(name):
                raise ValueError(f"Found common name {name[:80]!r}, expected m- and a number.")
        for name in self.gateways:
            if not GATEWAY_NAME.fullmatch(name):
                raise ValueError(f"Found common name {name[:80]!r}, expected g- and an attempt.")

    def address_of(self, common_name: str, fingerprint: str) -> str | None:
        """The address that this holder of a certificate gets; None: it is not admitted."""
        allowed = self.machines.get(common_name) or self.gateways.get(common_name)
        if allowed is None or fingerprint not in allowed.fingerprints:
            return None
        return allowed.address


def write(path: Path, allow_list: AllowList) -> bool:
    """Replaces the file at once; False when it was the same already."""
    document: dict[str, object] = {"version": _VERSION, "machines": _listed(allow_list.machines)}
    if allow_list.gateways:
        document["gateways"] = _listed(allow_list.gateways)
    return files.replace(path, json.dumps(document, indent=1).encode() + b"\n")


def read(path: Path) -> AllowList:
    """What was last written. Raises AllowListError; half a file is never believed."""
    try:
        document = json.loads(path.read_bytes())
        if document["version"] != _VERSION:
            raise AllowListError(f"{path}: found version {document['version']!r}, expected {_VERSION}.")
        return AllowList(_read(document["machines"]), _read(document.get("gateways", {})))
    except FileNotFoundError:
        raise AllowListError(f"{path}: there is no allow list yet.") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise AllowListError(f"{path}: no allow list can be read from it ({type(error).__name__}: {error}).") from error


def _listed(allowed: Mapping[str, Allowed]) -> dict[str, object]:
    return {
        name: {"address": one.address, "fingerprints": sorted(one.fingerprints)}
        for name, one in sorted(allowed.items())
    }


def _read(entries: dict[str, dict[str, Any]]) -> dict[str, Allowed]:
    return {name: Allowed(entry["address"], frozenset(entry["fingerprints"])) for name, entry in entries.items()}
