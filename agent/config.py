"""The agent's settings: one INI file, read once, refused loudly when something in it cannot be meant."""

from __future__ import annotations

import configparser
import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

_T = TypeVar("_T")

_KNOWN: Mapping[str, frozenset[str]] = {
    "api": frozenset({"url", "token", "token_file", "source_address", "ca_file", "timeout_s", "poll_wait_s"}),
    "rdp": frozenset({"port", "domain", "security", "open_command", "close_command", "command_timeout_s"}),
    "vpn": frozenset({"profile", "openvpn_program", "when"}),
    "machine": frozenset({"state_dir", "software", "heartbeat_s"}),
}
_SECURITY = ("any", "nla", "tls", "rdp")
_WHEN = ("press", "always")


class ConfigError(Exception):
    """A setting is missing or cannot be understood; the text names it, what was found and what was expected."""


@dataclass(frozen=True)
class AgentConfig:
    """All that the agent needs to know; times are in seconds, paths are absolute or relative to the settings file."""

    api_url: str
    token: str = field(repr=False)
    state_dir: Path
    source_address: str | None = None  # our own VPN address: every call leaves from it
    ca_file: Path | None = None
    timeout_s: float = 10.0
    poll_wait_s: int = 25
    rdp_port: int = 3389
    rdp_domain: str = ""
    rdp_security: str = ""
    open_command: tuple[str, ...] = ()
    close_command: tuple[str, ...] = ()
    command_timeout_s: float = 30.0
    vpn_profile: Path | None = None  # None: the server is reached without a tunnel of the agent's
    vpn_program: str = "openvpn"
    vpn_when: str = "press"
    software: str = ""
    heartbeat_s: float = 30.0

    @classmethod
    def load(cls, path: Path) -> AgentConfig:
        """Reads the settings file; raises ConfigError naming the key, what was found and what was expected."""
        return _read(_parse(path), path)


def check_url(text: str) -> str:
    """An API address without its trailing slash; raises ValueError that says what was expected."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an address such as http://10.77.0.1:8001")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("an address without user, password, ? or #")
    try:
        parts.port  # noqa: B018 - the property raises for a port that is none
    except ValueError:
        raise ValueError("an address whose port is 1 to 65535") from None
    return text.rstrip("/")


def check_address(text: str) -> str:
    """An IP address; raises ValueError that says what was expected."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("this machine's own VPN address, such as 10.77.1.1") from None


def check_token(text: str) -> str:
    """A bearer token `prefix.secret`; raises ValueError that says what was expected."""
    prefix, dot, secret = text.partition(".")
    if not (dot and prefix and secret) or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("one line `prefix.secret`, as the portal showed it")
    return text


def read_token_file(path: Path) -> str:
    """The token in a file; raises ValueError that says what was expected, never what the file holds."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ValueError(f"a readable file with the token ({reason})") from error
    return check_token(text)


def _parse(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=("#", ";"))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read ({reason}). Expected the agent's settings file.") from error
    try:
        parser.read_string(text, source=str(path))
    except configparser.Error as error:
        # Its own words quote the line, which may be the token's: only the place is passed on.
        line = getattr(error, "lineno", None) or (getattr(error, "errors", None) or [("?",)])[0][0]
        raise ConfigError(f"{path}, line {line}: expected [section] or key = value, each key once.") from None
    for section in parser.sections():
        if section not in _KNOWN:
            raise ConfigError(f"{path}: found section [{section}], expected [{'], ['.join(_KNOWN)}].")
        for key in parser[section]:
            if key not in _KNOWN[section]:
                expected = ", ".join(sorted(_KNOWN[section]))
                raise ConfigError(f"{path}: found key {key!r} in [{section}], expected one of {expected}.")
    return parser


class _Reader:
    """Reads one key after the other, and says which one it was that could not be read."""

    def __init__(self, parser: configparser.ConfigParser, path: Path) -> None:
        self._parser = parser
        self._path = path

    def text(self, section: str, key: str, default: str = "") -> str:
        return self._parser.get(section, key, fallback=default).strip()

    def value(self, section: str, key: str, default: _T, convert: Callable[[str], _T], *, secret: bool = False) -> _T:
        text = self.text(section, key)
        if not text:
            return default
        try:
            return convert(text)
        except ValueError as error:
            found = "something else" if secret else repr(text)
            raise ConfigError(f"{self._path}: [{section}] {key}: found {found}, expected {error}.") from error

    def required(self, section: str, key: str, convert: Callable[[str], str], *, secret: bool = False) -> str:
        if not self.text(section, key):
            raise ConfigError(f"{self._path}: [{section}] {key} is missing, and there is no default for it.")
        return self.value(section, key, "", convert, secret=secret)


def _read(parser: configparser.ConfigParser, path: Path) -> AgentConfig:
    reader = _Reader(parser, path)
    folder = path.resolve().parent
    ca_file = reader.text("api", "ca_file")
    profile = reader.text("vpn", "profile")
    config = AgentConfig(
        api_url=reader.required("api", "url", check_url),
        token=_token(reader, path, folder),
        state_dir=folder / reader.text("machine", "state_dir", "state"),
        source_address=reader.value("api", "source_address", None, check_address),
        ca_file=folder / ca_file if ca_file else None,
        timeout_s=reader.value("api", "timeout_s", 10.0, _seconds(0.1, 300)),
        poll_wait_s=reader.value("api", "poll_wait_s", 25, _whole(0, 60)),
        rdp_port=reader.value("rdp", "port", 3389, _whole(1, 65535)),
        rdp_domain=reader.text("rdp", "domain"),
        rdp_security=reader.value("rdp", "security", "", _choice(_SECURITY)),
        open_command=_command(reader, "open_command"),
        close_command=_command(reader, "close_command"),
        command_timeout_s=reader.value("rdp", "command_timeout_s", 30.0, _seconds(0.1, 600)),
        vpn_profile=folder / profile if profile else None,
        vpn_program=reader.text("vpn", "openvpn_program", "openvpn"),
        vpn_when=reader.value("vpn", "when", "press", _choice(_WHEN)),
        software=reader.text("machine", "software"),
        heartbeat_s=reader.value("machine", "heartbeat_s", 30.0, _seconds(1, 3600)),
    )
    if bool(config.open_command) != bool(config.close_command):
        found, missing = ("open_command", "close_command") if config.open_command else ("close_command", "open_command")
        raise ConfigError(f"{path}: [rdp] {found} is set, expected {missing} too: what is opened must be closed.")
    return config


def _token(reader: _Reader, path: Path, folder: Path) -> str:
    if reader.text("api", "token") and reader.text("api", "token_file"):
        raise ConfigError(f"{path}: found both [api] token and token_file, expected one of them.")
    if reader.text("api", "token_file"):
        return reader.required("api", "token_file", lambda name: read_token_file(folder / name))
    return reader.required("api", "token", check_token, secret=True)


def _command(reader: _Reader, key: str) -> tuple[str, ...]:
    # One argument a line: nothing to quote, the same on Linux and Windows, and no shell anywhere.
    return tuple(line.strip() for line in reader.text("rdp", key).splitlines() if line.strip())


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if text.isascii() and text.isdigit() and minimum <= int(text[:9]) <= maximum and len(text) < 10:
            return int(text)
        raise ValueError(f"a whole number from {minimum} to {maximum}")

    return convert


def _seconds(minimum: float, maximum: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if minimum <= number <= maximum:
            return number
        raise ValueError(f"seconds from {minimum:g} to {maximum:g}")

    return convert


def _choice(choices: tuple[str, ...]) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text in choices:
            return text
        raise ValueError(f"one of {', '.join(choices)}")

    return convert
