"""What `manage.py check` and `check --deploy` say of settings that cannot work, or not together."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.checks import CheckMessage, run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from pytest_django.fixtures import Settings

# A deployment with which nothing is wrong.
GOOD: dict[str, Any] = {
    "DEBUG": False,
    "GATEWAY": "ecs",
    "VPN": "openvpn",
    "VPN_REMOTE": "vpn.example.com",
    "REDIS_URL": "rediss://redis.example.com",
    "DATABASE_URL": "postgresql://portafilter@db.example.com/portafilter?sslmode=verify-full&sslrootcert=/ca",
    "PUBLIC_ORIGINS": ["https://help.example.com"],
    "SECURE": True,
    "TRUSTED_PROXIES": ["10.0.0.0/16"],
    "VAPID_PRIVATE_KEY": "a key",
    "VAPID_SUBJECT": "https://help.example.com",
    "ECS_READY_S": 50,
    "GATEWAY_DEADLINE_S": 120,
    "GATEWAY_ATTEMPTS": 3,
    "ANSWER_DEADLINE_S": 1800,
    "ECS_EVENTS_QUEUE": "https://sqs.eu-west-1.amazonaws.com/123456789012/events",
    "ECS_CAPACITY_PROVIDER": "gateways",
    "ECS_SUBNETS": ["subnet-0a1b2c3d", "subnet-0a1b2c3e"],
    "CREDENTIAL_KEYS": [Fernet.generate_key().decode()],
    "TELEMETRY": "builtin",
}


@pytest.fixture(autouse=True)
def deployment(settings: Settings) -> Settings:
    for name, value in GOOD.items():
        setattr(settings, name, value)
    return settings


def ours(*, deploy: bool) -> list[CheckMessage]:
    found = run_checks(include_deployment_checks=deploy)
    return [one for one in found if str(one.id).startswith("portafilter.")]


def test_good_deployment_has_nothing_to_say() -> None:
    assert ours(deploy=True) == []


@pytest.mark.parametrize(
    ("changes", "number", "words"),
    [
        ({"DEBUG": True}, "E010", "DEBUG is on"),
        ({"DATABASE_URL": "sqlite:///x.sqlite3"}, "E030", "found SQLite, expected PostgreSQL"),
        (
            {"DATABASE_URL": "sqlite:///x.sqlite3", "GATEWAY": "local"},
            "E011",
            "SQLite beside REDIS_URL",
        ),
        ({"REDIS_URL": "redis://redis.example.com"}, "W015", "in the clear"),
        (
            {"DATABASE_URL": "postgresql://portafilter@db.example.com/x"},
            "W016",
            "found sslmode prefer to db.example.com",
        ),
        ({"REDIS_URL": ""}, "E031", "REDIS_URL is not set (GATEWAY is ecs)"),
        ({"VPN": "loopback"}, "E032", "VPN: found loopback, expected openvpn"),
        ({"GATEWAY_DEADLINE_S": 60}, "E033", "found 60, expected 20 more than ECS_READY_S (50)"),
        ({"GATEWAY_DEADLINE_S": 6, "GATEWAY": "local"}, "W013", "too short for 3 tries"),
        ({"ANSWER_DEADLINE_S": 60}, "E014", "the last resort would never be told"),
        ({"PUBLIC_ORIGINS": ["http://127.0.0.1:8000"], "SECURE": False}, "W020", "this computer alone"),
        ({"TRUSTED_PROXIES": []}, "W021", "TRUSTED_PROXIES is empty"),
        ({"VAPID_SUBJECT": "mailto:portafilter@localhost"}, "W022", "Apple"),
        ({"VAPID_PRIVATE_KEY": "", "NOTIFY_EMAIL_URL": "", "SMS": "none"}, "W012", "Nobody can be told"),
        ({"ECS_EVENTS_QUEUE": ""}, "W034", "asked again and again"),
        ({"ECS_CAPACITY_PROVIDER": ""}, "W035", "none is started"),
        ({"ECS_SUBNETS": ["subnet-0a1b2c3d"]}, "W036", "without its zone"),
        ({"VPN_REMOTE": "10.0.0.7"}, "W040", "the internet does not reach"),
    ],
    ids=lambda value: value if isinstance(value, str) and value[1:].isdigit() else "",
)
def test_settings_that_do_not_fit_together_are_named(
    settings: Settings, changes: dict[str, Any], number: str, words: str
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)
    found = {str(one.id): one for one in ours(deploy=True)}
    assert words in found[f"portafilter.{number}"].msg
    assert ours(deploy=False) == [], "a start does not stop at it"


def test_database_behind_a_socket_of_this_computer_needs_no_tls(settings: Settings) -> None:
    settings.DATABASE_URL = "postgresql://portafilter@%2Frun%2Fpostgresql/portafilter"
    assert ours(deploy=True) == []


@pytest.mark.parametrize("setting", ["GATEWAY", "TELEMETRY", "VPN"])
@pytest.mark.parametrize("value", ["nonsense", "no.such.Driver", "sessions.gateways.local.Nothing", "..", "a b"])
def test_driver_that_is_not_there_is_an_error_of_every_start(settings: Settings, setting: str, value: str) -> None:
    setattr(settings, setting, value)
    (found,) = ours(deploy=False)
    assert found.msg.startswith(f"{setting}: found '{value}', expected one of ")
    with pytest.raises(SystemCheckError):
        call_command("check")


@pytest.mark.parametrize("keys", [["a-secret-that-is-no-key"], ["é"], ["MDEy"], []])
def test_keys_that_are_none_are_an_error_that_does_not_show_them(settings: Settings, keys: list[str]) -> None:
    settings.CREDENTIAL_KEYS = [*GOOD["CREDENTIAL_KEYS"], *keys] if keys else []
    (found,) = ours(deploy=False)
    assert found.id == "portafilter.E004"
    assert ("place 2" in found.msg) == bool(keys)
    assert not any(key in f"{found.msg} {found.hint}" for key in keys)
