"""What is this installation's own: its database, Redis, keys, files, VPN, and the portal as people reach it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings
from django.core.cache import caches
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.test import RequestFactory
from django.utils import timezone

from machines import identities
from machines.encryption import DecryptionError
from machines.hosts import is_this_computer
from machines.models import VpnAuthority
from machines.vpn.base import has_vpn
from portal import database_rights
from portal.doctor.cloud import of_clocks, uses_ecs
from portal.doctor.findings import Check, Finding, attention, ok, wrong
from portal.health import healthz

_CERTIFICATE_WARNED_DAYS = 14
_ORIGIN_S = 5


def checks() -> list[Check]:
    found = [Check("database", database), Check("worker", worker), Check("keys", keys), Check("files", files)]
    if settings.REDIS_URL or _has_several_processes():
        found.append(Check("redis", redis))
    if settings.SECURE:
        found.append(Check("portal", portal))
    if has_vpn():
        found.append(Check("vpn", vpn))
    return found


def _has_several_processes() -> bool:
    """As far as the settings tell: gateways elsewhere are for more than one computer's worth of work."""
    return uses_ecs() or bool(settings.REDIS_URL)


# --- where rows and live messages are ---------------------------------------------------------------------------------


def database() -> Iterator[Finding]:
    """Reachable, of the right kind, up to date, and its clock."""
    try:
        with connection.cursor() as cursor:
            if connection.vendor != "postgresql":
                cursor.execute("SELECT 1")
                ahead_s = None
            else:
                begun = datetime.now(UTC)
                cursor.execute("SELECT clock_timestamp()")
                at = cursor.fetchone()[0]
                ahead_s = (at - (begun + (datetime.now(UTC) - begun) / 2)).total_seconds()
        may_erase = connection.vendor == "postgresql" and database_rights.may_change_tables(connection)
        behind = len(
            MigrationExecutor(connection).migration_plan(MigrationExecutor(connection).loader.graph.leaf_nodes())
        )
    except DatabaseError as error:
        yield wrong(f"DATABASE_URL: {_of_database(error)}")
        return
    if behind:
        yield wrong(f"The database lacks {behind} changes of this version. Run: manage.py migrate")
    if may_erase:
        yield attention(
            "This app may change its tables, and so erase the audit. Run migrate with DATABASE_APP_ROLE, and the app "
            "as that role."
        )
    if ahead_s is not None:
        yield ok("PostgreSQL answers.")
        yield of_clocks("the database's", ahead_s)
    elif _has_several_processes():
        yield wrong("DATABASE_URL: found SQLite, expected PostgreSQL: there are several processes here.")
    else:
        yield ok("SQLite answers; it is for the processes of one computer.")


def _of_database(error: DatabaseError) -> str:
    """Why it does not answer. The driver's own words hold no password, but more than anybody needs."""
    said = str(error).lower()
    for words, sentence in {
        "password authentication": "the database does not accept the user and password.",
        "timeout": "the database does not answer. Does its security group let this computer in?",
        "timed out": "the database does not answer. Does its security group let this computer in?",
        "refused": "nobody listens at that host and port. Does the database run?",
        "does not exist": "the database server knows no such database or user.",
        "translate host": "its host's name is not known here.",
        "resolve": "its host's name is not known here.",
        "ssl": "no TLS comes about with the database. Look at sslmode and sslrootcert.",
        "certificate": "no TLS comes about with the database. Look at sslmode and sslrootcert.",
        "unable to open": "the file cannot be opened. Is its folder there, and this user's?",
        "locked": "the database was busy for too long.",
        "no such table": "the database is empty. Run: manage.py migrate",
    }.items():
        if words in said:
            return sentence
    return f"the database does not answer ({type(error).__name__})."


def redis() -> Iterator[Finding]:
    """Reachable, where it is needed."""
    if not settings.REDIS_URL:
        yield wrong("REDIS_URL is not set: pages of other processes hear of nothing, and sign-ins are counted apart.")
        return
    try:
        caches["default"].get("portafilter-doctor")
    except Exception as error:  # the client has errors of its own, and the system's
        name = type(error).__name__
        words = (
            "does not accept the password" if "Auth" in name or "NoPermission" in name else f"does not answer ({name})"
        )
        yield wrong(f"REDIS_URL: Redis {words}. Until it does nobody can sign in.")
    else:
        yield ok("Redis answers.")


def worker() -> Iterator[Finding]:
    """What /healthz says, which the rows tell wherever the worker is."""
    answer = json.loads(healthz(RequestFactory().get("/healthz")).content)
    if answer.get("database") != "ok":
        return
    if answer.get("worker") != "ok":
        yield wrong("The worker is behind: what people asked for waits for more than 15 s. Is manage.py work running?")
    else:
        yield ok("Nothing waits for the worker.")
    if answer.get("pool") == "short":
        yield attention(
            "For ten minutes fewer gateways were ready than should be. The fleet's page in the admin says why."
        )


# --- secrets ----------------------------------------------------------------------------------------------------------


def keys() -> Iterator[Finding]:
    """CREDENTIAL_KEYS are those that the database was written with."""
    try:
        has_authority = VpnAuthority.objects.filter(pk=1).first() is not None
    except DecryptionError:
        yield wrong(
            "CREDENTIAL_KEYS: none of them reads what is in the database. Put the old key back, behind a comma."
        )
    except DatabaseError:
        return
    else:
        if has_authority:
            yield ok("CREDENTIAL_KEYS read what is in the database.")


def files() -> Iterator[Finding]:
    """No file with a secret in it is everybody's on this computer."""
    found = [path for path in _secret_files() if _is_open(path)]
    for path in found:
        yield wrong(f"Everybody on this computer may read {path}, which holds secrets. Run: chmod o-rwx {path}")
    if not found:
        yield ok("No file with secrets in it is readable by everybody.")


def _secret_files() -> list[Path]:
    named = {name: value for name, value in os.environ.items() if name.endswith("_FILE") and value}
    ours = [
        *("SECRET_KEY", "CREDENTIAL_KEYS", "VAPID_PRIVATE_KEY", "TELEMETRY_KEY", "NOTIFY_EMAIL_URL"),
        *("DATABASE_PASSWORD", "REDIS_PASSWORD"),
    ]
    found = [Path(named[f"{name}_FILE"]) for name in ours if f"{name}_FILE" in named]
    if "PORTAFILTER_ENV_FILE" in named:
        found.append(Path(named["PORTAFILTER_ENV_FILE"]))
    if connection.vendor == "sqlite":
        found.append(Path(str(settings.DATABASES["default"]["NAME"])))
    return [*found, *sorted(settings.VPN_DIR.glob("*.key"))]


def _is_open(path: Path) -> bool:
    """Whether everybody may read it: the file itself, and every folder on the way to it."""
    try:
        path = path.resolve(strict=True)
        if not path.stat().st_mode & stat.S_IROTH:
            return False
        return all(map(_leads_in, path.parents))
    except OSError:
        return False


def _leads_in(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


# --- the VPN ----------------------------------------------------------------------------------------------------------


def vpn() -> Iterator[Finding]:
    """What ends soon, whether the authorisation agent is at work, and whether machines find the server."""
    now = timezone.now()
    urgent, sentences = identities.server_health(now), identities.health(now)
    yield from (wrong(sentence) for sentence in urgent)
    yield from (attention(sentence) for sentence in sentences if sentence not in urgent)
    authority = VpnAuthority.objects.defer("key", "tls_crypt_key", "server_key").filter(pk=1).first()
    if authority is not None and authority.answering_at is None:
        yield wrong(
            "The authorisation agent was never at OpenVPN's side: no machine can join. Start manage.py authorise."
        )
    elif not sentences:
        yield ok("OpenVPN's authorisation agent is at work, and nothing ends soon.")
    for name in dict.fromkeys((settings.VPN_REMOTE, settings.GATEWAY_VPN_REMOTE)):
        setting = "VPN_REMOTE" if name == settings.VPN_REMOTE else "GATEWAY_VPN_REMOTE"
        try:
            socket.getaddrinfo(name, settings.VPN_PORT, family=socket.AF_INET)
        except OSError:
            yield wrong(f"{setting}: the name {name} is not known. Make the record, or correct the setting.")


# --- the portal as people reach it ------------------------------------------------------------------------------------


def portal() -> Iterator[Finding]:
    """Each origin has a good certificate, and behind it is this portal, in good health."""
    for origin in settings.PUBLIC_ORIGINS:
        parts = urlsplit(origin)
        if not is_this_computer(str(parts.hostname)):
            yield from _origin(origin, str(parts.hostname), parts.port or 443)


def _origin(origin: str, host: str, port: int) -> Iterator[Finding]:
    line: HTTPConnection = HTTPSConnection(host, port, timeout=_ORIGIN_S, context=ssl.create_default_context())
    try:
        line.connect()
        certificate = line.sock.getpeercert() if isinstance(line.sock, ssl.SSLSocket) else None
        line.request("GET", "/healthz")
        answer = line.getresponse()
        status, body = answer.status, answer.read(10_000)
    except ssl.SSLCertVerificationError as error:
        yield wrong(f"{origin} (PUBLIC_ORIGINS) has no certificate that is good for its name: {error.verify_message}.")
        return
    except socket.gaierror:
        words = f"{origin} (PUBLIC_ORIGINS): the name {host} is not known here."
        yield attention(f"{words} Make its record, unless others know it well.")
        return
    except (OSError, HTTPException) as error:
        words = f"{origin} (PUBLIC_ORIGINS) does not answer ({type(error).__name__})."
        yield attention(f"{words} If others reach it, this computer has no way there, which does no harm.")
        return
    finally:
        line.close()
    yield _of_portal(origin, status, body)
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"])) if certificate else None
    days = None if ends is None else int((ends - datetime.now(UTC).timestamp()) // 86_400)
    if days is not None and days < _CERTIFICATE_WARNED_DAYS:
        yield attention(f"The certificate of {origin} ends in {days} days. Look at what renews it.")


def _of_portal(origin: str, status: int, body: bytes) -> Finding:
    try:
        document = json.loads(body)
        said = str(document["status"])
    except (ValueError, KeyError, TypeError):
        said = ""
    if status == 200 and said == "ok":
        return ok(f"{origin} answers, and says that it is well.")
    if status == 200 and said == "degraded":
        needy = ", ".join(sorted(key for key, value in document.items() if key != "status" and value != "ok"))
        return attention(f"{origin} answers, and says that something needs somebody: {needy}.")
    return wrong(
        f"{origin}/healthz answers {status}{f' {said}' if said else ''}, expected 200 ok. Is this portal behind it?"
    )
