"""What the settings of a telemetry web app may be; nothing of Django is imported here, since the settings do."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from machines.hosts import is_this_computer

# HMAC-SHA256's own strength needs a key as long as its digest (RFC 2104, section 3).
_SHORTEST_KEY = 32
_KEY_ID = r"[A-Za-z0-9._:@/-]{1,100}"


def check_url(text: str) -> str:
    """The address without a slash at its end. Raises ValueError that says what was found and expected.

    Profiles go there, which are secret: over https, or without leaving this computer.
    """
    expected = "https://host[:port][/path], or http:// to this computer alone (localhost, 127.0.0.0/8, ::1)"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"found what is no address, expected {expected}") from None
    is_plain = re.fullmatch(r"[A-Za-z0-9._~/-]*", parts.path) and not parts.query and not parts.fragment
    if "@" in parts.netloc:
        raise ValueError(f"found a name or password in the address, expected {expected}")
    if parts.scheme not in {"http", "https"} or not host or not is_plain or text[-1] in "?#":
        raise ValueError(f"found {text[:80]!r}, expected {expected}")
    if parts.scheme == "http" and not is_this_computer(host):
        raise ValueError(f"found {text[:80]!r}, expected {expected}")
    return text.rstrip("/")


def check_key_id(text: str) -> str:
    """The name of the key. Raises ValueError."""
    if not re.fullmatch(_KEY_ID, text):
        raise ValueError(f"found {text[:80]!r}, expected 1 to 100 letters, digits and ._:@/-")
    return text


def check_key(text: str) -> str:
    """The key itself. Raises ValueError, which does not show it."""
    if len(text.encode()) < _SHORTEST_KEY:
        raise ValueError(f"found {len(text.encode())} characters, expected {_SHORTEST_KEY} or more, the same as there")
    return text
