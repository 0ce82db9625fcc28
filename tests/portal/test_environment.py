"""Settings are read by type, and a wrong one stops the start with what was found and what was expected."""

from __future__ import annotations

import json
import os
import runpy
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from py_vapid import Vapid02

from machines.telemetry import aliases as telemetry
from machines.vpn import base as vpn
from portal.environment import Environment, SettingError, read_env_file
from sessions.gateways import base as gateways

SETTINGS = Path(__file__).resolve().parents[2] / "portal" / "settings.py"


def test_values_are_read_by_type() -> None:
    env = Environment({"A": "yes", "B": "17", "C": "x, y,", "D": "[::1]:8000", "E": "two", "EMPTY": ""})

    assert env.flag("A", False) is True
    assert env.number("B", 1) == 17
    assert env.seconds("B", 0.5, minimum=1, maximum=20) == 17.0
    assert env.seconds("EMPTY", 0.5, minimum=1, maximum=20) == 0.5
    assert Environment({"S": "0.25"}).seconds("S", 1, minimum=0.1, maximum=1) == 0.25
    assert env.number_or("B", 0, word="auto", maximum=20) == 17
    assert env.number_or("EMPTY", 0, word="auto", maximum=20) == 0
    assert Environment({"N": "auto"}).number_or("N", 0, word="auto", maximum=20) == "auto"
    assert env.items("C") == ["x", "y"]
    assert env.address("D", "") == ("::1", 8000)
    assert env.choice("E", ("one", "two"), "one") == "two"
    assert env.text("EMPTY", "default") == "default"
    assert list(Environment({"S": "7-9"}).span("S")) == [7, 8, 9] and not env.span("EMPTY")
    assert str(env.network("EMPTY", "10.77.0.0/20")) == "10.77.0.0/20"
    assert env.matching("E", "", pattern="[a-z]+", expected="letters") == "two"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda env: env.flag("WORD", False), "WORD: found 'maybe', expected one of true"),
        (lambda env: env.number("WORD", 1), "WORD: found 'maybe', expected a whole number"),
        (lambda env: env.number("SMALL", 1, minimum=1), "SMALL: found 0, expected 1 or more"),
        (lambda env: env.number("TEN", 1, maximum=9), "TEN: found 10, expected 9 or less"),
        (
            lambda env: env.number_or("WORD", 0, word="auto", maximum=9),
            "found 'maybe', expected auto or a number from 0",
        ),
        (
            lambda env: env.number_or("TEN", 0, word="auto", maximum=9),
            "TEN: found '10', expected auto or a number from",
        ),
        (lambda env: env.seconds("WORD", 1, minimum=0.1, maximum=9), "found 'maybe', expected seconds from 0.1 to 9"),
        (lambda env: env.seconds("TEN", 1, minimum=0.1, maximum=9), "TEN: found '10', expected seconds from 0.1 to 9"),
        (lambda env: env.span("WORD"), "WORD: found 'maybe', expected two numbers"),
        (lambda env: env.span("BACK"), "BACK: found '9-7', expected the smaller number first"),
        (lambda env: env.network("WORD", ""), "WORD: found 'maybe', expected a network as in"),
        (lambda env: env.matching("WORD", "", pattern="may", expected="may"), "WORD: found 'maybe', expected may"),
        (lambda env: env.choice("WORD", ("a", "b"), "a"), "WORD: found 'maybe', expected one of a, b"),
        (lambda env: env.address("WORD", ""), "WORD: found 'maybe', expected host:port"),
        (lambda env: env.text("MISSING"), "MISSING is not set"),
        (lambda env: env.secret("MISSING"), "MISSING is not set"),
    ],
)
def test_wrong_value_is_named_with_what_was_expected(read: object, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(Environment({"WORD": "maybe", "SMALL": "0", "TEN": "10", "BACK": "9-7"}))  # type: ignore[operator]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "origins",
    [
        "https://portal.example",
        "https://portal.example,https://other.example:8443",
        "http://localhost:8000,http://127.0.0.1:8000,http://127.3.2.1,http://[::1]:8000",
        "https://localhost",
        "https://192.0.2.1:8443",
    ],
)
def test_origins_are_all_https_or_all_on_this_computer(origins: str) -> None:
    assert Environment({"ORIGINS": origins}).origins("ORIGINS", "") == origins.split(",")


@pytest.mark.parametrize(
    ("origins", "message"),
    [
        (",", "ORIGINS: found no origin, expected one or more, each scheme://host"),
        ("https://a.example,http://127.0.0.1", "ORIGINS: found both http and https in https://a.example, http://127.0"),
        ("http://portal.example", "ORIGINS: found 'http://portal.example', expected https; http is for this computer"),
        ("https://a.example,http://a.example", "ORIGINS: found 'http://a.example', expected https"),
        ("http://192.0.2.1:8000", "ORIGINS: found 'http://192.0.2.1:8000', expected https"),
        ("http://0.0.0.0:8000", "ORIGINS: found 'http://0.0.0.0:8000', expected https"),
        ("http://localhost.example", "ORIGINS: found 'http://localhost.example', expected https"),
        ("http://127.0.0.1.example", "ORIGINS: found 'http://127.0.0.1.example', expected https"),
        ("http://[2001:db8::1]", "ORIGINS: found 'http://[2001:db8::1]', expected https"),
        *(
            (wrong, f"ORIGINS: found {wrong!r}, expected scheme://host or scheme://host:port")
            for wrong in (
                "portal.example", "ws://portal.example", "https://", "https://*", "https://.example", "https://a/",
                "https://a:99999", "https://a:x", "https://[::1", "https://[::z]", "https://a@b", "https://a?",
                "https://a#b", "https://a b", "127.0.0.1:8000",
            )
        ),
    ],
)  # fmt: skip
def test_other_origins_stop_the_start(origins: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        Environment({"ORIGINS": origins}).origins("ORIGINS", "https://default.example")
    assert str(caught.value).startswith(message)


def test_empty_value_of_a_list_counts_as_not_set() -> None:
    assert Environment({"LIST": ""}).items("LIST", "a,b") == ["a", "b"]


def test_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")

    assert Environment({"KEY_FILE": str(tmp_path / "key")}).secret("KEY") == "s3cret"
    with pytest.raises(SettingError, match="KEY_FILE: cannot read"):
        Environment({"KEY_FILE": str(tmp_path / "none")}).secret("KEY")


def test_line_of_another_shape_in_the_environment_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# fine\nA=1\nnonsense\n")

    with pytest.raises(SettingError, match="line 3: expected NAME=VALUE"):
        read_env_file(file)


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"KEY=\xff")

    with pytest.raises(SettingError, match="KEY_FILE: found no UTF-8 in"):
        Environment({"KEY_FILE": str(file)}).secret("KEY")
    with pytest.raises(SettingError, match="PORTAFILTER_ENV_FILE: found no UTF-8 in"):
        read_env_file(file)


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings", **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("WORKER_THREADS", "many", "found 'many', expected a whole number"),
        ("PUBLIC_ORIGINS", ",", "found no origin, expected one or more, each scheme://host or scheme://host:port"),
        ("DATABASE_URL", "mysql://db/x", "found scheme 'mysql', expected sqlite or postgresql"),
        (
            "DATABASE_URL",
            "postgresql://u:canary/2@db/x",
            "found what is no URL, expected sqlite:///path or postgresql://user:password@host:port/name, "
            "other characters than letters and digits in the password as %XX",
        ),
        ("PUBLIC_BIND", "127.0.0.1:²", "found '127.0.0.1:²', expected host:port"),
        ("TUNNEL_RECHECK_S", "60", "found 60, expected 5 or less"),
    ],
)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_server_does_not_start_with_a_wrong_setting(command: str, setting: str, value: str, message: str) -> None:
    result = _run("manage.py", command, **{setting: value})
    assert result.returncode != 0
    assert (result.stdout, result.stderr.strip()) == ("", f"Wrong setting: {setting}: {message}")


def test_database_that_takes_calls_and_says_nothing_is_away_within_seconds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://alice@127.0.0.1:{silent.getsockname()[1]}/fleet"
        # It comes back by itself, long before it would be ended here.
        result = _run("manage.py", "migrate", "--check", DATABASE_URL=url)
    assert result.returncode != 0 and "OperationalError" in result.stderr


_OPENVPN = {"VPN": "openvpn", "VPN_NETWORK": "10.77.0.0/20", "VPN_REMOTE": "vpn.example.com"}


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("VPN_REMOTE", "", "found '', expected the host name or IPv4 address that machines connect to"),
        ("VPN_REMOTE", "vpn.example.com\nup /bin/sh", "found 'vpn.example.com\\nup /bin/sh', expected the host name"),
        ("VPN_REMOTE", "{{7*7}}", "found '{{7*7}}', expected the host name"),
        ("VPN_NETWORK", "", "found 127.64.0.0/10, expected a private network"),
        ("VPN_NETWORK", "8.8.0.0/16", "found 8.8.0.0/16, expected a private network"),
        ("VPN_NETWORK", "10.77.0.0/24", "found 10.77.0.0/24, expected an IPv4 network between /8 and /23"),
        ("VPN_NETWORK", "fd00::/64", "found fd00::/64, expected an IPv4 network"),
        ("VPN_PORT", "70000", "found 70000, expected 65535 or less"),
        ("VPN_PROTOCOL", "icmp", "found 'icmp', expected one of udp, tcp"),
        ("VPN_TCP_PORT", "70000", "found 70000, expected 65535 or less"),
        ("VPN_DEVICE", "tun-much-too-long", "found 'tun-much-too-long', expected an interface's name"),
        ("MACHINE_API_BIND", "0.0.0.0:8001", "found 0.0.0.0, expected 10.77.0.1, the server's own address"),
    ],
)
def test_vpn_that_cannot_be_meant_stops_the_start(setting: str, value: str, message: str) -> None:
    result = _run("manage.py", "check", **{**_OPENVPN, setting: value})
    assert result.returncode != 0
    assert f"Wrong setting: {setting}: {message}" in result.stderr


def test_machines_are_listened_to_on_the_servers_vpn_address() -> None:
    result = _run("-c", "import portal.settings as s; print(*s.MACHINE_API_BIND)", **_OPENVPN)
    assert result.stdout.split() == ["10.77.0.1", "8001"], result.stderr


_SHOWN = ("PUBLIC_ORIGINS", "ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_SECURE")
_SHOW = f"import json, portal.settings as s; print(json.dumps([getattr(s, name) for name in {_SHOWN}]))"


@pytest.mark.parametrize(
    ("found", "origins", "hosts", "is_secure"),
    [
        ("HTTPS://Portal.Example:443", ["https://portal.example"], ["portal.example"], True),
        (
            "http://[::1]:8000,http://localhost",
            ["http://[::1]:8000", "http://localhost"],
            ["[::1]", "localhost"],
            False,
        ),
    ],
)
def test_hosts_and_cookies_follow_from_the_origins(
    found: str, origins: list[str], hosts: list[str], is_secure: bool
) -> None:
    result = _run("-c", _SHOW, PUBLIC_ORIGINS=found)
    assert json.loads(result.stdout) == [origins, hosts, origins, is_secure, is_secure], result.stderr


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "new" / "portafilter.env"

    call_command("make_secrets", file=file)
    first = read_env_file(file)
    call_command("make_secrets", file=file)

    assert read_env_file(file) == first
    assert set(first) == {"SECRET_KEY", "CREDENTIAL_KEYS", "VAPID_PRIVATE_KEY"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_key_for_web_push_signs_as_the_push_services_want_it(tmp_path: Path) -> None:
    file = tmp_path / "portafilter.env"
    call_command("make_secrets", file=file)
    vapid = Vapid02.from_string(read_env_file(file)["VAPID_PRIVATE_KEY"])
    signed = vapid.sign({"sub": "mailto:ops@example.com", "aud": "https://push.example.com"})
    assert Vapid02.verify(signed["Authorization"])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("VAPID_PRIVATE_KEY", "canary", "found no key, expected 32 bytes in base64url"),
        ("PUSH_SERVICES", "ftp://push.example.com", "found 'ftp://push.example.com', expected"),
        ("NOTIFY_EMAIL_URL", "imap://alice:canary@mail.example.com", "found something else, expected"),
        ("TELEMETRY_URL", "ftp://telemetry.example.com", "found"),
        ("TELEMETRY_KEY", "canary", "found"),
    ],
)
def test_what_a_rule_refuses_stops_the_start_by_its_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured) as found:
        runpy.run_path(str(SETTINGS))
    assert str(found.value).startswith(f"{name}: {words}")
    assert "canary" not in str(found.value)


@pytest.mark.parametrize(
    ("name", "alias", "also"),
    [
        ("GATEWAY", "ecs", {"AWS_REGION": "eu-west-1", "ECS_CLUSTER": "portafilter", "ECS_TASK_DEFINITION": "gateway",
                            "ECS_SUBNETS": "subnet-0123abcd", "ECS_SECURITY_GROUPS": "sg-0123abcd",
                            "INSTALLATION": "portafilter"}),
        ("VPN", "openvpn", {"VPN_NETWORK": "10.77.0.0/20", "VPN_REMOTE": "vpn.example.com"}),
        ("TELEMETRY", "iot_core", {"AWS_REGION": "eu-west-1"}),
    ],
)  # fmt: skip
def test_driver_that_has_an_alias_is_the_same_by_its_path(
    monkeypatch: pytest.MonkeyPatch, name: str, alias: str, also: dict[str, str]
) -> None:
    aliases = {"GATEWAY": gateways.ALIASES, "VPN": vpn.ALIASES, "TELEMETRY": telemetry.ALIASES}[name]
    for key, value in also.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv(name, alias)
    by_alias = runpy.run_path(str(SETTINGS))
    monkeypatch.setenv(name, aliases[alias])
    by_path = runpy.run_path(str(SETTINGS))
    plain = {key for key, value in by_alias.items() if key.isupper() and isinstance(value, str | int | tuple | list)}
    assert {key: by_path[key] for key in plain} == {key: by_alias[key] for key in plain} and name in plain
    # The rest of what it needs is asked for either way.
    monkeypatch.delenv(next(iter(also)))
    with pytest.raises(ImproperlyConfigured, match=next(iter(also))):
        runpy.run_path(str(SETTINGS))
    monkeypatch.setenv(name, "of.our.Own")
    assert runpy.run_path(str(SETTINGS))[name] == "of.our.Own"


def test_missing_secret_is_added_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "portafilter.env"
    file.write_text("SECRET_KEY=mine\nPUBLIC_BIND=127.0.0.1:9000\n")

    call_command("make_secrets", file=file)

    values = read_env_file(file)
    assert (values["SECRET_KEY"], values["PUBLIC_BIND"]) == ("mine", "127.0.0.1:9000")
    assert values["CREDENTIAL_KEYS"] and values["VAPID_PRIVATE_KEY"]


def test_broken_environment_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "portafilter.env"
    file.write_text("nonsense\n")

    with pytest.raises(CommandError, match="expected NAME=VALUE"):
        call_command("make_secrets", file=file)
    assert file.read_text() == "nonsense\n"
