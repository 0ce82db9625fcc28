"""What a simulated machine is: one JSON file in its folder, its token in a file beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from agent import __version__
from agent.config import AgentConfig, ConfigError, check_address, check_url, read_token_file
from agent.files import private_folder, write_json
from agent.simulator.coffee import FAULTS

FILE_NAME = "machine.json"
_REQUIRED = ("serial", "api_url", "token_file")


@dataclass(frozen=True)
class MachineConfig:
    """One simulated machine; `rdp_port` 0 takes any free one and keeps it."""

    folder: Path
    serial: str
    api_url: str
    token_file: str
    token: str = field(repr=False)
    address: str = ""  # left out only with a `vpn_profile`: calls leave from the tunnel's, RDP listens there
    name: str = "Coffee machine"
    model: str = "Aurora 9"
    site: str = ""
    time_zone: str = "UTC"
    rdp_port: int = 3389
    fault: str = ""
    heartbeat_s: float = 30.0
    width: int = 1024
    height: int = 768
    vpn_profile: str = ""  # relative to the folder; without one the server is reached as things are
    vpn_when: str = "press"
    openvpn_program: str = "openvpn"

    @classmethod
    def from_folder(cls, folder: Path) -> MachineConfig:
        """Reads FOLDER/machine.json; raises ConfigError naming the key, what was found and what was expected."""
        path = folder / FILE_NAME
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror}). Expected a machine's settings.") from error
        except ValueError as error:
            raise ConfigError(f"{path}: found no JSON, expected an object ({error}).") from error
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: found {type(document).__name__}, expected an object.")
        return cls._checked(folder, path, document)

    @classmethod
    def write(cls, folder: Path, *, token: str, **values: Any) -> MachineConfig:
        """Makes the folder with its settings and its token (mode 0600), and reads it back. Raises ConfigError."""
        private_folder(folder)
        values.setdefault("token_file", "token")
        handle = os.open(folder / values["token_file"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(token + "\n")
        write_json(folder / FILE_NAME, values)
        return cls.from_folder(folder)

    def for_agent(self) -> AgentConfig:
        """The settings of the agent that runs on this machine."""
        return AgentConfig(
            api_url=self.api_url,
            token=self.token,
            state_dir=self.folder / "agent",
            source_address=None if self.vpn_profile else self.address,
            vpn_profile=self.folder / self.vpn_profile if self.vpn_profile else None,
            vpn_program=self.openvpn_program,
            vpn_when=self.vpn_when,
            rdp_port=self.rdp_port,
            rdp_security="nla",
            software=f"{self.model}, agent {__version__}",
            heartbeat_s=self.heartbeat_s,
        )

    @classmethod
    def _checked(cls, folder: Path, path: Path, document: Mapping[str, Any]) -> MachineConfig:
        known = {item.name: item for item in fields(cls) if item.name not in ("folder", "token")}
        for name, value in document.items():
            if name not in known:
                raise ConfigError(f"{path}: found key {name!r}, expected one of {', '.join(sorted(known))}.")
            _check(path, name, value, _EXPECTED[name])
        for name in _REQUIRED:
            if not document.get(name):
                raise ConfigError(f"{path}: {name} is missing, and there is no default for it.")
        if not document.get("address") and not document.get("vpn_profile"):
            raise ConfigError(f"{path}: address is missing, expected it or a vpn_profile that brings one.")
        try:
            token = read_token_file(folder / document["token_file"])
        except ValueError as error:
            raise ConfigError(f"{path}: token_file: found {document['token_file']!r}, expected {error}.") from error
        return cls(folder=folder, token=token, **document)


def machine_folders(folder: Path) -> list[Path]:
    """The folders of the machines in this one, which may be a machine's own; raises ConfigError when there are none."""
    if (folder / FILE_NAME).is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob(f"*/{FILE_NAME}"))
    if not found:
        raise ConfigError(f"{folder}: found no {FILE_NAME} in it or one level below, expected one for each machine.")
    return found


def _text(limit: int) -> Any:
    def check(value: Any) -> None:
        if not isinstance(value, str) or len(value) > limit or not (value.isprintable()):
            raise ValueError(f"text of at most {limit} characters")

    return check


def _number(minimum: float, maximum: float, *, whole: bool = True) -> Any:
    def check(value: Any) -> None:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not minimum <= value <= maximum:
            raise ValueError(f"a {'whole ' if whole else ''}number from {minimum:g} to {maximum:g}")

    return check


def _fault(value: Any) -> None:
    if value != "" and value not in FAULTS:
        raise ValueError(f"one of {', '.join(FAULTS)}, or nothing")


def _when(value: Any) -> None:
    if value not in ("press", "always"):
        raise ValueError("press or always")


def _checks(check: Any) -> Any:
    def convert(value: Any) -> None:
        if not isinstance(value, str):
            raise ValueError("text")
        check(value)

    return convert


_EXPECTED: Mapping[str, Any] = {
    **{name: _text(80) for name in ("serial", "name", "model", "site", "time_zone")},
    "token_file": _text(200),
    "address": _checks(check_address),
    "api_url": _checks(check_url),
    "rdp_port": _number(0, 65535),
    "fault": _fault,
    "heartbeat_s": _number(0.1, 3600, whole=False),
    "width": _number(640, 3840),
    "height": _number(480, 2160),
    "vpn_profile": _text(200),
    "vpn_when": _when,
    "openvpn_program": _text(200),
}


def _check(path: Path, name: str, value: Any, check: Any) -> None:
    try:
        check(value)
    except ValueError as error:
        raise ConfigError(f"{path}: {name}: found {value!r}, expected {error}.") from error
