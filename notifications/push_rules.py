"""Which addresses a push may go to (T17): no rows, no settings, no network.

A subscription's endpoint comes from a browser, so from anybody. It is used only when it is at one of the push services
that the installation names: an origin, exactly, or https with any host below a suffix. A name below must lead to a
public address (looked at when connecting, `notifications/channels/public_resolver.py`); only what is written out as
http, or as this computer, may lead inward.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from machines.hosts import is_this_computer

# Google's second one is what a Chromium subscribes with that is of no channel of Google's, as Debian's is.
DEFAULT_SERVICES = (
    "https://fcm.googleapis.com,https://jmt17.google.com,https://*.push.services.mozilla.com,"
    "https://*.notify.windows.com,https://*.push.apple.com"
)
# What VAPID's `sub` may be (RFC 8292, section 2.1).
SUBJECT = r"mailto:[^\s@:,]+@[A-Za-z0-9.-]+|https://[A-Za-z0-9.:-]+(/[!-~]*)?"
MAX_ENDPOINT_CHARS = 500
_SERVICE = re.compile(
    r"(?P<scheme>https?)://(?P<any>\*\.)?(?P<host>[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*)"
    r"(:(?P<port>[1-9][0-9]{0,4}))?"
)
# No space, backslash, control or other character that two parsers might read in two ways.
_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?/[A-Za-z0-9!$&'()*+,;=:@/?%._~-]*")
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")


class EndpointRefused(ValueError):
    """The address is at no push service that may be used; the text is for the person who sent it."""


@dataclass(frozen=True, slots=True)
class Service:
    """One entry of PUSH_SERVICES."""

    scheme: str
    host: str
    port: int
    is_suffix: bool
    may_be_inside: bool

    def has(self, scheme: str, host: str, port: int) -> bool:
        """Whether an endpoint's origin is this service's."""
        if (scheme, port) != (self.scheme, self.port):
            return False
        return host.endswith(f".{self.host}") if self.is_suffix else host == self.host


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that was looked at and found good."""

    url: str
    origin: str
    host: str
    may_be_inside: bool


@lru_cache(maxsize=16)
def parse_services(entries: tuple[str, ...]) -> tuple[Service, ...]:
    """PUSH_SERVICES' entries; raises ValueError naming the one that cannot be understood."""
    services = []
    for entry in entries:
        found = _SERVICE.fullmatch(entry)
        port = int(found["port"] or 0) if found else 0
        if found is None or port > 65535:
            raise ValueError(
                f"found {entry!r}, expected origins as in https://push.example.com or https://*.example.com"
            )
        is_suffix, scheme, host = bool(found["any"]), found["scheme"], found["host"]
        is_here = is_this_computer(host)
        if is_suffix and (scheme != "https" or port or "." not in host or is_here):
            raise ValueError(
                f"found {entry!r}, expected *. before a domain of two parts or more, with https and without port"
            )
        services.append(
            Service(
                scheme=scheme,
                host=host,
                port=port or (443 if scheme == "https" else 80),
                is_suffix=is_suffix,
                may_be_inside=scheme == "http" or is_here,
            )
        )
    return tuple(services)


def check_endpoint(url: str, services: Sequence[str]) -> Endpoint:
    """The endpoint, when it is at one of the services; raises EndpointRefused."""
    if len(url) > MAX_ENDPOINT_CHARS:
        raise EndpointRefused(f"The subscription's address has {len(url)} characters, expected {MAX_ENDPOINT_CHARS}.")
    if _URL.fullmatch(url) is None:
        raise EndpointRefused("The subscription's address is no plain https:// address of a push service.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise EndpointRefused("The subscription's address has no port that can be.") from error
    host = (parts.hostname or "").lower()
    port = port if port is not None else (443 if parts.scheme == "https" else 80)
    for service in parse_services(tuple(services)):
        if service.has(parts.scheme, host, port) and (not service.is_suffix or _HOST.fullmatch(host)):
            return Endpoint(
                url=url,
                origin=_origin(parts.scheme, host, port),
                host=host,
                may_be_inside=service.may_be_inside,
            )
    raise EndpointRefused(f"Messages are not sent to {host[:80]}: it is none of this installation's push services.")


def check_vapid_key(key: str) -> str:
    """The key again; raises ValueError, without the key, when it is not 32 bytes in base64url."""
    try:
        raw = decode_base64url(key)
    except ValueError:
        raw = b""
    if key and (len(raw) != 32 or not any(raw)):
        raise ValueError("found no key, expected 32 bytes in base64url, as manage.py make_secrets makes them")
    return key


def decode_base64url(text: str) -> bytes:
    """What browsers and VAPID keys are written in, with or without padding; raises ValueError."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*={0,2}", text):
        raise ValueError("no base64url")
    bare = text.rstrip("=")
    try:
        return base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error as error:
        raise ValueError("no base64url") from error


def _origin(scheme: str, host: str, port: int) -> str:
    is_default = port == (443 if scheme == "https" else 80)
    return f"{scheme}://{host}" if is_default else f"{scheme}://{host}:{port}"
