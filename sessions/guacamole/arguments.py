"""Which arguments of guacd's RDP support we ever set, and to what.

guacd offers some eighty names; among them are drives, SFTP, recording paths, gateways, programs to start and
wake-on-LAN. Only the names in this table can be given a value: all others, known or not, are answered with nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sessions.guacamole.codec import MAX_ELEMENT_LENGTH
from sessions.guacamole.errors import ArgumentRefused


@dataclass(frozen=True, slots=True)
class _Rule:
    """Values that match the pattern, and as a number are at most `highest`."""

    expected: str
    pattern: re.Pattern[str]
    highest: int | None = None

    def accepts(self, value: str) -> bool:
        return bool(self.pattern.fullmatch(value)) and (self.highest is None or int(value) <= self.highest)


def _one_of(*values: str) -> _Rule:
    return _Rule(f"one of {', '.join(values)}", re.compile("|".join(map(re.escape, values))))


def _up_to(highest: int) -> _Rule:
    return _Rule(f"a whole number from 1 to {highest}", re.compile("[1-9][0-9]{0,4}"), highest)


_BOOLEAN = _one_of("true", "false")
# libguac keeps values as C strings: one with a NUL in it would be another value there.
_TEXT = _Rule(
    f"at most {MAX_ELEMENT_LENGTH} characters, without NUL or half a surrogate pair",
    re.compile(rf"[^\x00\ud800-\udfff]{{1,{MAX_ELEMENT_LENGTH}}}"),
)
_NAME = _Rule("printable characters, at most 255", re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,255}"))

_RULES: Mapping[str, _Rule] = {
    "hostname": _Rule("an address or a host name", re.compile(r"[A-Za-z0-9.:_-]{1,255}")),
    "port": _up_to(65_535),
    "timeout": _up_to(600),
    "username": _TEXT,
    "password": _TEXT,
    "domain": _TEXT,
    "security": _one_of("any", "nla", "nla-ext", "tls", "vmconnect", "rdp"),
    "ignore-cert": _BOOLEAN,
    "cert-tofu": _BOOLEAN,
    "cert-fingerprints": _Rule("fingerprints, comma-separated", re.compile(r"[A-Za-z0-9:, -]{1,2048}")),
    "client-name": _NAME,
    "server-layout": _Rule("the name of a keyboard layout", re.compile(r"[a-z0-9-]{1,64}")),
    "timezone": _Rule("an IANA time zone", re.compile(r"[A-Za-z0-9_+/-]{1,64}")),
    "width": _up_to(8192),
    "height": _up_to(8192),
    "dpi": _up_to(1000),
    "color-depth": _one_of("8", "16", "24", "32"),
    "resize-method": _one_of("display-update", "reconnect"),
    "force-lossless": _BOOLEAN,
    "read-only": _BOOLEAN,
    "disable-copy": _BOOLEAN,
    "disable-paste": _BOOLEAN,
    "normalize-clipboard": _one_of("preserve", "unix", "windows"),
    "disable-audio": _BOOLEAN,
    "enable-touch": _BOOLEAN,
    "enable-wallpaper": _BOOLEAN,
    "enable-theming": _BOOLEAN,
    "enable-font-smoothing": _BOOLEAN,
    "enable-full-window-drag": _BOOLEAN,
    "enable-desktop-composition": _BOOLEAN,
    "enable-menu-animations": _BOOLEAN,
    "disable-bitmap-caching": _BOOLEAN,
    "disable-offscreen-caching": _BOOLEAN,
    "disable-glyph-caching": _BOOLEAN,
    "disable-gfx": _BOOLEAN,
}

ALLOWED_ARGUMENTS = frozenset(_RULES)


def check_arguments(arguments: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the arguments, all of them allowed; an empty value leaves the choice to guacd.

    Raises ArgumentRefused, which names the argument and never its value.
    """
    for name, value in arguments.items():
        rule = _RULES.get(name)
        if rule is None:
            raise ArgumentRefused(name, "a name that is not allowed", "an allowed argument of guacd's RDP support")
        if value and not rule.accepts(value):
            raise ArgumentRefused(name, "a value that is not allowed", rule.expected)
    return dict(arguments)
