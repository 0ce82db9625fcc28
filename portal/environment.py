"""Typed readers of the environment: a wrong value stops the start and says what was found and what was expected.

Values come from the process environment; what is not there is looked up in the file named by
PORTAFILTER_ENV_FILE (KEY=VALUE lines, `#` comments). An empty value counts as not set.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from machines.hosts import is_this_computer

_Value = TypeVar("_Value")

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}
_ORIGIN = "scheme://host or scheme://host:port"
_NETWORKS = "10.0.0.7, 10.1.0.0/24 or fd00::/64"
_THIS_COMPUTER = "localhost, 127.0.0.0/8 or ::1"


class SettingError(Exception):
    """A setting is missing or cannot be understood; the text names it, what was found and what was expected."""


def check(name: str, value: _Value, rule: Callable[[_Value], object]) -> None:
    """Has a rule of another module look at a setting: its ValueError, which says no secret, becomes a SettingError."""
    try:
        rule(value)
    except ValueError as error:
        raise SettingError(f"{name}: {error}") from None


def read_env_file(path: Path) -> dict[str, str]:
    """The KEY=VALUE lines of a file; raises SettingError for an unreadable file or a line of another shape."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingError(f"PORTAFILTER_ENV_FILE: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise SettingError(f"PORTAFILTER_ENV_FILE: found no UTF-8 in {path}, expected text") from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SettingError(f"{path}, line {number}: expected NAME=VALUE")
        values[name.strip()] = value.strip()
    return values


class Environment:
    """Reads settings by name and type from one mapping, so that tests can pass their own."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        if values is None:
            file_name = os.environ.get("PORTAFILTER_ENV_FILE", "")
            from_file = read_env_file(Path(file_name)) if file_name else {}
            values = {**from_file, **{name: value for name, value in os.environ.items() if value}}
        self._values = values

    def text(self, name: str, default: str | None = None) -> str:
        """A text; raises SettingError when it is not set and there is no default."""
        value = self._values.get(name, "")
        if value:
            return value
        if default is None:
            raise SettingError(f"{name} is not set, and there is no default for it")
        return default

    def driver(self, name: str, default: str, aliases: Mapping[str, str]) -> str:
        """An alias, or the dotted path of a class. The path of one that has an alias is that alias: one name for it."""
        value = self.text(name, default)
        return next((alias for alias, path in aliases.items() if path == value), value)

    def flag(self, name: str, default: bool) -> bool:
        value = self._values.get(name, "").lower()
        if not value:
            return default
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise SettingError(f"{name}: found {value!r}, expected one of true, false, yes, no, on, off, 1, 0")

    def number(self, name: str, default: int, *, minimum: int = 0, maximum: int | None = None) -> int:
        value = self._values.get(name, "")
        if not value:
            return default
        try:
            found = int(value)
        except ValueError:
            raise SettingError(f"{name}: found {value!r}, expected a whole number") from None
        if found < minimum:
            raise SettingError(f"{name}: found {found}, expected {minimum} or more")
        if maximum is not None and found > maximum:
            raise SettingError(f"{name}: found {found}, expected {maximum} or less")
        return found

    def optional_number(self, name: str, *, minimum: int, maximum: int) -> int | None:
        """The same, or None where it is not set."""
        return self.number(name, 0, minimum=minimum, maximum=maximum) if self._values.get(name, "") else None

    def number_or(self, name: str, default: int, *, word: str, minimum: int = 0, maximum: int) -> int | str:
        """A whole number, or this one word in its place."""
        value = self._values.get(name, "")
        if value == word:
            return word
        if value and not (value.isascii() and value.isdigit() and minimum <= int(value) <= maximum):
            raise SettingError(f"{name}: found {value[:40]!r}, expected {word} or a number from {minimum} to {maximum}")
        return int(value) if value else default

    def seconds(self, name: str, default: float, *, minimum: float, maximum: float) -> float:
        """A time in seconds that may have a fraction, as in 0.5."""
        value = self._values.get(name, "")
        if not value:
            return default
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value) or not minimum <= float(value) <= maximum:
            raise SettingError(f"{name}: found {value[:40]!r}, expected seconds from {minimum:g} to {maximum:g}")
        return float(value)

    def span(self, name: str, default: str = "") -> range:
        """Whole numbers from one to another, both included, as in 61000-61999; empty when not set."""
        value = self._values.get(name, "") or default
        if not value:
            return range(0)
        first, dash, last = value.partition("-")
        if not (dash and first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            raise SettingError(f"{name}: found {value!r}, expected two numbers, as in 61000-61999")
        if int(first) > int(last):
            raise SettingError(f"{name}: found {value!r}, expected the smaller number first")
        return range(int(first), int(last) + 1)

    def network(self, name: str, default: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """A network in CIDR notation, as in 10.77.0.0/20."""
        value = self._values.get(name, "") or default
        try:
            return ipaddress.ip_network(value)
        except ValueError as error:
            raise SettingError(f"{name}: found {value!r}, expected a network as in 10.77.0.0/20 ({error})") from None

    def matching(self, name: str, default: str, *, pattern: str, expected: str) -> str:
        """A text that matches the pattern wholly; `expected` says in words what that is."""
        value = self._values.get(name, "") or default
        if not re.fullmatch(pattern, value):
            raise SettingError(f"{name}: found {value[:80]!r}, expected {expected}")
        return value

    def items(self, name: str, default: str = "") -> list[str]:
        """A comma-separated list, blanks around its items removed."""
        return [item.strip() for item in (self._values.get(name, "") or default).split(",") if item.strip()]

    def ids(self, name: str, *, prefix: str, maximum: int, is_needed: bool) -> list[str]:
        """AWS' ids of one kind, comma separated, as in subnet-0a1b2c3d."""
        found = self.items(name)
        expected = f"1 to {maximum} ids as in {prefix}0a1b2c3d, comma separated"
        if is_needed and not found:
            raise SettingError(f"{name}: found nothing, expected {expected}")
        if len(set(found)) != len(found) or len(found) > maximum:
            raise SettingError(f"{name}: found {len(found)} ids, expected {expected}, each once")
        for item in found:
            if not re.fullmatch(re.escape(prefix) + r"[0-9a-f]{8,17}", item):
                raise SettingError(f"{name}: found {item[:40]!r}, expected {expected}")
        return found

    def origins(self, name: str, default: str) -> list[str]:
        """The exact origins of web pages, at least one: all https, or all http to this computer alone.

        Over http to anywhere else passwords and cookies could be read on the way, and browsers withhold the clipboard
        from such a page. With both schemes cookies could not be kept to https. Raises SettingError for anything else.
        """
        origins = self.items(name, default)
        if not origins:
            raise SettingError(f"{name}: found no origin, expected one or more, each {_ORIGIN}")
        schemes = set()
        for origin in origins:
            scheme, host = _scheme_and_host(name, origin)
            schemes.add(scheme)
            if scheme == "http" and not is_this_computer(host):
                raise SettingError(
                    f"{name}: found {origin!r}, expected https; http is for this computer alone ({_THIS_COMPUTER})"
                )
        if len(schemes) > 1:
            raise SettingError(
                f"{name}: found both http and https in {', '.join(origins)}, expected https for all, "
                f"or http for all of them with this computer as the host ({_THIS_COMPUTER})"
            )
        return origins

    def networks(self, name: str, default: str = "") -> list[str]:
        """IP addresses and networks, comma separated; raises SettingError for others, and for the whole world."""
        networks = []
        for item in self.items(name, default):
            try:
                network = ipaddress.ip_network(item)
            except ValueError:
                raise SettingError(
                    f"{name}: found {item!r}, expected addresses or networks as in {_NETWORKS}"
                ) from None
            if network.prefixlen == 0:
                raise SettingError(f"{name}: found {item!r}, which is everybody, expected some as in {_NETWORKS}")
            networks.append(str(network))
        return networks

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        value = self._values.get(name, "") or default
        if value not in choices:
            raise SettingError(f"{name}: found {value!r}, expected one of {', '.join(choices)}")
        return value

    def secret(self, name: str, default: str | None = None) -> str:
        """A secret, from NAME or from the file that NAME_FILE names; never shown in an error."""
        file_name = self._values.get(f"{name}_FILE", "")
        if file_name:
            try:
                return Path(file_name).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SettingError(f"{name}_FILE: cannot read {file_name}: {error.strerror}") from error
            except UnicodeDecodeError:
                raise SettingError(f"{name}_FILE: found no UTF-8 in {file_name}, expected text") from None
        value = self._values.get(name, "")
        if value:
            return value
        if default is None:
            raise SettingError(
                f"{name} is not set (nor {name}_FILE). `make run` makes all secrets; "
                "by hand: manage.py make_secrets --file FILE, then PORTAFILTER_ENV_FILE=FILE"
            )
        return default

    def address(self, name: str, default: str) -> tuple[str, int]:
        """A `host:port`, split."""
        value = self._values.get(name, "") or default
        host, colon, port = value.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
            raise SettingError(f"{name}: found {value!r}, expected host:port")
        return host.strip("[]"), int(port)

    def optional_address(self, name: str) -> tuple[str, int] | None:
        """The same, or None where it is not set."""
        return self.address(name, "") if self._values.get(name, "") else None


def _scheme_and_host(name: str, origin: str) -> tuple[str, str]:
    wrong = SettingError(f"{name}: found {origin!r}, expected {_ORIGIN}")
    try:
        parts = urlsplit(origin)
        host, _ = parts.hostname or "", parts.port
        if ":" in host:
            ipaddress.IPv6Address(host)
    except ValueError:
        raise wrong from None
    # What Django's list of hosts would take for a pattern, as in *, is no host.
    is_host = ":" in host or re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host)
    has_more = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in {"http", "https"} or not is_host or has_more or origin[-1] in "?#":
        raise wrong
    return parts.scheme, host
