"""What settings alone can tell: errors that `manage.py check` and every start stop at, and `check --deploy`.

A wrong value of one setting stops the reading of portal/settings.py already; here is what one setting means for
another, and what takes an import to find out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cryptography.fernet import Fernet
from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.utils.module_loading import import_string

from machines.hosts import is_this_computer
from machines.telemetry.aliases import ALIASES as TELEMETRY
from machines.vpn.base import ALIASES as VPN
from sessions.gateways.base import ALIASES as GATEWAYS

# A computer that the cluster has to start first takes three minutes; a task on one that is there up to ECS_READY_S.
_ROOM_AFTER_READY_S = 20


@register(Tags.compatibility)
def drivers_are_there(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """Each chosen driver can be imported; nothing of it is made yet."""
    choices = (
        ("GATEWAY", settings.GATEWAY, GATEWAYS, "portafilter.E001"),
        ("TELEMETRY", settings.TELEMETRY, TELEMETRY, "portafilter.E002"),
        ("VPN", settings.VPN, VPN, "portafilter.E003"),
    )
    return [error for choice in choices for error in _of_driver(*choice)]


def _of_driver(setting: str, value: str, aliases: Mapping[str, str], number: str) -> Iterator[CheckMessage]:
    try:
        import_string(aliases.get(value, value))
    except (ImportError, ValueError, TypeError):
        expected = f"expected one of {', '.join(aliases)}, or the dotted path of a class"
        yield Error(f"{setting}: found {value[:80]!r}, {expected}.", id=number)


@register(Tags.security)
def keys_are_keys(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """CREDENTIAL_KEYS are Fernet's; what is said of one is its place, never itself."""
    found: list[CheckMessage] = []
    for place, key in enumerate(settings.CREDENTIAL_KEYS, start=1):
        try:
            Fernet(key)
        except ValueError:
            words = f"CREDENTIAL_KEYS: found something else in place {place}, expected Fernet keys, comma separated."
            found.append(Error(words, hint="manage.py make_secrets --file FILE makes one.", id="portafilter.E004"))
    if not settings.CREDENTIAL_KEYS:
        found.append(Error("CREDENTIAL_KEYS: found no key, expected one at least.", id="portafilter.E004"))
    return found


@register(Tags.security, deploy=True)
def settings_fit_together(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """What is right for one computer and wrong for a deployment."""
    return [*_of_everywhere(), *_of_lines(), *_of_origins(), *_of_ecs(), *_of_vpn()]


def _of_everywhere() -> Iterator[CheckMessage]:
    if settings.DEBUG:
        yield Error("DEBUG is on: errors show settings and code to everybody.", id="portafilter.E010")
    if settings.REDIS_URL and _is_sqlite():
        yield Error(
            "DATABASE_URL: found SQLite beside REDIS_URL. Several processes need PostgreSQL.", id="portafilter.E011"
        )
    if not settings.VAPID_PRIVATE_KEY and not settings.NOTIFY_EMAIL_URL and settings.SMS == "none":
        words = "Nobody can be told of a press: no VAPID_PRIVATE_KEY, NOTIFY_EMAIL_URL or SMS is set."
        yield Warning(words, hint="manage.py make_secrets --file FILE makes the first.", id="portafilter.W012")
    if settings.GATEWAY_DEADLINE_S <= 2 * settings.GATEWAY_ATTEMPTS:
        yield Warning(
            f"GATEWAY_DEADLINE_S: found {settings.GATEWAY_DEADLINE_S}, too short for {settings.GATEWAY_ATTEMPTS} tries "
            "(GATEWAY_ATTEMPTS).",
            id="portafilter.W013",
        )
    fleet_s = settings.ASK_NEXT_AFTER_S + settings.ASK_SUPERVISORS_AFTER_S + settings.ASK_LAST_RESORT_AFTER_S
    if fleet_s >= settings.ANSWER_DEADLINE_S:
        yield Error(
            f"ANSWER_DEADLINE_S: found {settings.ANSWER_DEADLINE_S}, expected more than the three waits of the ladder "
            f"together ({fleet_s}): the last resort would never be told.",
            id="portafilter.E014",
        )


def _of_lines() -> Iterator[CheckMessage]:
    """The lines to other computers are encrypted, and those computers are who they say."""
    redis, database = urlsplit(settings.REDIS_URL), urlsplit(settings.DATABASE_URL)
    if redis.scheme == "redis" and not is_this_computer(redis.hostname or ""):
        yield Warning(
            f"REDIS_URL: found redis:// to {redis.hostname}: its password and who is signed in go there in the clear.",
            hint="Use rediss://.",
            id="portafilter.W015",
        )
    mode = parse_qs(database.query).get("sslmode", ["prefer"])[-1]
    host = unquote(database.hostname or "/")  # a folder: a socket of this computer
    if not host.startswith("/") and not is_this_computer(host) and mode not in {"verify-full", "verify-ca"}:
        yield Warning(
            f"DATABASE_URL: found sslmode {mode} to {host}: another computer could pass itself off as it.",
            hint="Append ?sslmode=verify-full&sslrootcert=FILE.",
            id="portafilter.W016",
        )


def _of_origins() -> Iterator[CheckMessage]:
    if not settings.SECURE:
        yield Warning(
            f"PUBLIC_ORIGINS: found {settings.PUBLIC_ORIGINS[0]}, which is for this computer alone.",
            hint="Put a proxy with https before PUBLIC_BIND, and name its address.",
            id="portafilter.W020",
        )
    elif not settings.TRUSTED_PROXIES:
        yield Warning(
            "TRUSTED_PROXIES is empty, and PUBLIC_ORIGINS are https: all people share one limit on failed sign-ins, "
            "and records of who was at a screen hold the proxy's address.",
            hint="Name the proxy's address or its subnets.",
            id="portafilter.W021",
        )
    if settings.SECURE and "@localhost" in settings.VAPID_SUBJECT:
        words = "VAPID_SUBJECT is at localhost, which Apple's push service refuses."
        yield Warning(words, hint="Name an address of yours.", id="portafilter.W022")


def _of_ecs() -> Iterator[CheckMessage]:
    if settings.GATEWAY != "ecs":
        return
    where = f"(GATEWAY is {settings.GATEWAY})"
    if _is_sqlite():
        yield Error(
            f"DATABASE_URL: found SQLite, expected PostgreSQL {where}: the processes are on several computers, and a "
            "container's disk is gone with it.",
            id="portafilter.E030",
        )
    if not settings.REDIS_URL:
        yield Error(
            f"REDIS_URL is not set {where}: what one process changes, another's pages hear of seconds later.",
            id="portafilter.E031",
        )
    if settings.VPN != "openvpn":
        yield Error(
            f"VPN: found {settings.VPN}, expected openvpn {where}: machines on this computer cannot be reached from "
            "elsewhere.",
            id="portafilter.E032",
        )
    if settings.GATEWAY_DEADLINE_S < settings.ECS_READY_S + _ROOM_AFTER_READY_S:
        yield Error(
            f"GATEWAY_DEADLINE_S: found {settings.GATEWAY_DEADLINE_S}, expected {_ROOM_AFTER_READY_S} more than "
            f"ECS_READY_S ({settings.ECS_READY_S}) at least: a gateway that is just ready needs time for the desktop.",
            id="portafilter.E033",
        )
    if not settings.ECS_EVENTS_QUEUE:
        words = f"ECS_EVENTS_QUEUE is not set {where}: what becomes of tasks is asked again and again."
        yield Warning(words, hint="It is EventsQueueUrl of the stack notify.", id="portafilter.W034")
    if not settings.ECS_CAPACITY_PROVIDER:
        words = (
            f"ECS_CAPACITY_PROVIDER is not set {where}: when the computers that are there are full, none is started."
        )
        yield Warning(words, hint="It is GatewayCapacityProvider of the stack gateways.", id="portafilter.W035")
    if len(settings.ECS_SUBNETS) == 1:
        words = f"ECS_SUBNETS: found one {where}: without its zone there are no gateways."
        yield Warning(words, id="portafilter.W036")


def _of_vpn() -> Iterator[CheckMessage]:
    if settings.VPN != "openvpn":
        return
    try:
        is_private = ipaddress.ip_address(settings.VPN_REMOTE).is_private
    except ValueError:
        is_private = settings.VPN_REMOTE == "localhost"
    if is_private:
        yield Warning(
            f"VPN_REMOTE: found {settings.VPN_REMOTE}, which the internet does not reach, and machines are anywhere.",
            id="portafilter.W040",
        )


def _is_sqlite() -> bool:
    return settings.DATABASE_URL.startswith("sqlite:")
