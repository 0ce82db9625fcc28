"""Where the database and Redis are, read from their URLs, with passwords that may be kept apart from them.

Apart, a password can be a secret that something else keeps and changes, while the address is for everybody to read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from portal.environment import SettingError

_DATABASE = (
    "sqlite:///path or postgresql://user:password@host:port/name, other characters than letters and digits in the "
    "password as %XX"
)
_REDIS = "redis://host:port/number, or rediss://… for TLS"
# PostgreSQL cuts longer names, and keeps some for itself; others need quotes wherever somebody types them.
_ROLE = re.compile(r"(?!pg_|public$|none$)[a-z_][a-z0-9_]{0,62}")
_TLS_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def database(url: str, password: str, *, test_file: Path) -> dict[str, object]:
    """DATABASES' entry for DATABASE_URL and DATABASE_PASSWORD; raises SettingError, which never shows a password.

    `?sslmode=verify-full&sslrootcert=FILE` are libpq's: TLS, and by which roots the server is known.
    """
    parts = _split("DATABASE_URL", url, _DATABASE)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "portal.sqlite",
            "NAME": url.removeprefix("sqlite:///"),
            # DEFERRED lets two writers that have both read fail with "database is locked"; IMMEDIATE makes them queue.
            # secure_delete overwrites erased credentials in the file.
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 10,
                "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA secure_delete=ON;",
            },
            # A file, not memory: the worker, the keeper and the faces are several threads, tests' too.
            "TEST": {"NAME": str(test_file)},
        }
    if parts.scheme in {"postgres", "postgresql"}:
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.lstrip("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": _one_password("DATABASE", parts, password),
            "HOST": unquote(parts.hostname or ""),
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 60,
            "CONN_HEALTH_CHECKS": True,
            # One that has fallen silent (a line, a computer) is away within seconds, not after the kernel's quarter of
            # an hour: until then nobody hears who was revoked.
            "OPTIONS": {
                "connect_timeout": 5,
                "tcp_user_timeout": 10_000,
                "keepalives_idle": 5,
                "keepalives_interval": 3,
                "keepalives_count": 3,
                **_tls(parts.query),
            },
        }
    raise SettingError(f"DATABASE_URL: found scheme {parts.scheme!r}, expected sqlite or postgresql")


def check_app_role(url: str, role: str, password: str) -> None:
    """Raises SettingError where DATABASE_APP_ROLE and its password cannot be made beside DATABASE_URL's user."""
    if bool(role) != bool(password):
        there, lacks = ("ROLE", "PASSWORD") if role else ("PASSWORD", "ROLE")
        raise SettingError(f"DATABASE_APP_{lacks} is not set, but DATABASE_APP_{there} is, expected both or neither")
    if not role:
        return
    if not _ROLE.fullmatch(role):
        raise SettingError(
            f"DATABASE_APP_ROLE: found {role[:80]!r}, expected up to 63 small letters, digits and _, no digit "
            "first, and no name that PostgreSQL keeps for itself (public, none, pg_…)"
        )
    parts = _split("DATABASE_URL", url, _DATABASE)
    if parts.scheme == "sqlite":
        raise SettingError(
            "DATABASE_APP_ROLE: found one beside SQLite, which knows no roles, expected PostgreSQL or none"
        )
    if unquote(parts.username or "") == role:
        raise SettingError(
            "DATABASE_APP_ROLE: found the user of DATABASE_URL, expected another: migrations work as the owner of the "
            "tables, the app does not"
        )


def redis_url(url: str, password: str) -> str:
    """REDIS_URL with REDIS_PASSWORD in it, for those who connect; raises SettingError, which never shows a password.

    With rediss:// the server must have a certificate of its host's name that this system trusts.
    """
    if not url:
        if password:
            raise SettingError("REDIS_PASSWORD: found one without a REDIS_URL, expected both or neither")
        return ""
    parts = _split("REDIS_URL", url, _REDIS)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise SettingError(f"REDIS_URL: found scheme {parts.scheme[:20]!r}, expected {_REDIS}")
    one = _one_password("REDIS", parts, password)
    if not password:
        return url
    return parts._replace(
        netloc=f"{parts.username or ''}:{quote(one, safe='')}@{parts.netloc.rpartition('@')[2]}"
    ).geturl()


def _split(name: str, url: str, expected: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        # Neither the value nor the cause is said: where a password has a / or #, its beginning looks like the port.
        raise SettingError(f"{name}: found what is no URL, expected {expected}") from None
    return parts


def _one_password(name: str, parts: SplitResult, password: str) -> str:
    if parts.password and password:
        raise SettingError(f"{name}_PASSWORD: found one in {name}_URL, too, expected it in one of them")
    return password or unquote(parts.password or "")


def _tls(query: str) -> dict[str, str]:
    readers: dict[str, Callable[[str], bool]] = {
        "sslmode": lambda value: value in _TLS_MODES,
        "sslrootcert": lambda value: value == "system" or value.startswith("/"),
    }
    found = dict(parse_qsl(query, keep_blank_values=True))
    for key, value in found.items():
        # Nor are values said: what follows a ? may be part of a password.
        if key not in readers or not readers[key](value):
            raise SettingError(
                "DATABASE_URL: found something else after the question mark, expected sslmode (one of "
                f"{', '.join(_TLS_MODES)}) and sslrootcert (a file's whole path, or system)"
            )
    return found
