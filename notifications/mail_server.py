"""What NOTIFY_EMAIL_URL says about the mail server: no rows, no settings, no network."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from machines.hosts import is_this_computer

# One plain address: nothing that a header could be made of.
ADDRESS = r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9]([A-Za-z0-9.-]{0,187}[A-Za-z0-9])?"
_FORM = "smtps://USER:PASSWORD@HOST, smtp+starttls://USER:PASSWORD@HOST or smtp://HOST, each with :PORT if need be"
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed in, and how."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    has_tls: bool
    has_starttls: bool


def parse(url: str) -> MailServer | None:
    """The server, None for an empty text; raises ValueError, without a password, for what cannot be understood.

    `smtp://` is in the clear: with a password it is taken for this computer alone.
    """
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"found what is no URL, expected {_FORM}") from None
    if parts.scheme not in _PORTS or not host or parts.path.strip("/") or parts.query or parts.fragment or port == 0:
        raise ValueError(f"found something else, expected {_FORM}; other characters in the password as %XX")
    if parts.scheme == "smtp" and parts.password and not is_this_computer(host):
        raise ValueError(f"found a password over smtp:// to {host}, expected smtps:// or smtp+starttls://")
    return MailServer(
        host=host,
        port=port or _PORTS[parts.scheme],
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        has_tls=parts.scheme == "smtps",
        has_starttls=parts.scheme == "smtp+starttls",
    )


def default_sender(host: str) -> str:
    """The address that messages come from when none was chosen: at the portal's own name."""
    sender = f"portafilter@{host}"
    return sender if re.fullmatch(ADDRESS, sender) else "portafilter@localhost"
