"""`manage.py doctor`: each thing that can be wrong with a deployment is a line that says what to do about it."""

from __future__ import annotations

import io
import ipaddress
import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, OperationalError, connection
from pytest_django.fixtures import Settings

from machines import identities
from machines.models import VpnAuthority
from portal.doctor import cloud as cloud_checks
from portal.doctor import findings, here, messages
from portal.doctor.findings import Check, Finding, Verdict, attention, ok, wrong
from portal.management.commands import doctor
from tests.fakes.mail_server import MailServer
from tests.portal.findings import lines, only, said
from tests.ports import refusing_port
from tests.waiting import LONG_S, until

ORIGIN = "https://help.example.com"

# --- how checks are run -----------------------------------------------------------------------------------------------


def test_check_that_hangs_is_left_behind_and_hinders_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hangs() -> Iterator[Finding]:
        yield ok("So far, so good.")
        hanging.set()
        release.wait(60)

    def seconds() -> Iterator[float]:
        """The time is up as soon as one hangs and the other is done, however long that took this computer."""
        yield 1000.0
        assert hanging.wait(LONG_S)
        until(lambda: "doctor second" not in {one.name for one in threading.enumerate()}, "the second is done")
        yield from itertools.repeat(1000.3)

    monkeypatch.setattr(findings, "time", SimpleNamespace(monotonic=partial(next, seconds())))
    found = lines([Check("first", hangs), Check("second", lambda: [ok("Fine.")])], limit_s=0.3)
    release.set()
    assert found == [
        ("first", "ok", "So far, so good."),
        ("first", "wrong", "This was not done within 0.3 s. Something it asks does not answer."),
        ("second", "ok", "Fine."),
    ]


def test_check_that_fails_says_so_without_words_that_might_be_secret() -> None:
    def fails() -> Iterator[Finding]:
        raise RuntimeError("password=hunter22")
        yield

    assert lines([Check("it", fails)]) == [("it", "wrong", "This could not be looked at (RuntimeError).")]


def test_no_secret_is_ever_shown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.SECRET_KEY, settings.TELEMETRY_KEY = "secret-of-django", "secret-of-telemetry"
    settings.REDIS_URL = "rediss://:p%40ss-of-redis@redis.example.com"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-aws")
    said = (
        "secret-of-django p@ss-of-redis p%40ss-of-redis secret-of-aws\nsecret-of-telemetry "
        + settings.CREDENTIAL_KEYS[0]
    )
    assert lines([Check("it", lambda: [wrong(said)])]) == [("it", "wrong", "… … … … … …")]


@pytest.fixture
def one_check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Finding], None]:
    def choose(finding: Finding) -> None:
        monkeypatch.setattr(doctor, "all_checks", lambda: [Check("it", lambda: [finding, ok("Well.")])])

    return choose


@pytest.mark.parametrize(("finding", "code"), [(attention("Look."), 0), (wrong("Do this."), 1)])
def test_code_of_the_end_says_whether_something_is_wrong(one_check: Any, finding: Finding, code: int) -> None:
    one_check(finding)
    ended = 0
    text = io.StringIO()
    try:
        call_command("doctor", "--json", stdout=text)
    except SystemExit as end:
        ended = int(str(end.code))
    assert ended == code
    assert json.loads(text.getvalue()) == [
        {"check": "it", "verdict": finding.verdict.value, "words": finding.words},
        {"check": "it", "verdict": "ok", "words": "Well."},
    ]
    assert logging.root.manager.disable == logging.NOTSET


def test_lines_are_for_people_and_quiet_leaves_out_what_is_well(one_check: Any) -> None:
    one_check(attention("Look here."))
    text = io.StringIO()
    call_command("doctor", "--quiet", "--no-color", stdout=text)
    assert text.getvalue().splitlines() == ["attention it  Look here.", "0 wrong, 1 for attention."]
    with pytest.raises(CommandError, match="--seconds: found 0, expected 1 to 600"):
        call_command("doctor", "--seconds", "0")


def test_what_was_not_chosen_is_not_looked_at(settings: Settings) -> None:
    settings.REDIS_URL, settings.NOTIFY_EMAIL_URL, settings.VPN = "", "", "loopback"
    settings.TELEMETRY, settings.GATEWAY, settings.SECURE = "builtin", "local", False
    assert [check.name for check in doctor.all_checks()] == ["database", "worker", "keys", "files", "web push"]


# --- what is here -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_database_is_named_and_its_clock_compared(settings: Settings) -> None:
    settings.REDIS_URL, settings.GATEWAY = "", "local"
    first, *others = here.database()
    assert first.verdict is Verdict.OK and first.words.startswith(("SQLite", "PostgreSQL"))
    assert all(one.verdict is Verdict.OK for one in others)


@pytest.mark.django_db
def test_sqlite_is_wrong_for_several_processes(settings: Settings) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("this is PostgreSQL")
    settings.GATEWAY = "ecs"
    found = only(here.database())
    assert (found.verdict, "expected PostgreSQL" in found.words) == (Verdict.WRONG, True)


@pytest.mark.parametrize(
    ("driver_said", "words"),
    [
        ('FATAL:  password authentication failed for user "x"', "does not accept the user and password."),
        ("connection timeout expired", "Does its security group let this computer in?"),
        ("connection refused", "nobody listens at that host and port."),
        ('FATAL: database "x" does not exist', "knows no such database or user."),
        ("could not translate host name", "its host's name is not known here."),
        ("SSL error: certificate verify failed", "no TLS comes about"),
        ("unable to open database file", "the file cannot be opened."),
        ("something new", "the database does not answer (OperationalError)."),
    ],
)
def test_database_that_does_not_answer_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, driver_said: str, words: str
) -> None:
    def fail(*_: object) -> None:
        raise OperationalError(driver_said)

    monkeypatch.setattr(here, "connection", SimpleNamespace(cursor=fail, vendor="postgresql"))
    found = only(here.database())
    assert found.verdict is Verdict.WRONG and found.words.startswith("DATABASE_URL: ") and words in found.words


def test_check_without_a_database_leaves_it_to_the_check_of_the_database() -> None:
    def fails() -> Iterator[Finding]:
        raise DatabaseError("no such table")
        yield

    assert lines([Check("keys", fails)]) == []


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [(4.9, "are together"), (-4.9, "are together"), (61.0, "61 s behind AWS'"), (-7.0, "7 s ahead of AWS'")],
)
def test_clocks_may_differ_by_five_seconds(ahead_s: float, words: str) -> None:
    found = cloud_checks.of_clocks("AWS'", ahead_s)
    assert words in found.words
    assert found.verdict is (Verdict.OK if abs(ahead_s) < 5 else Verdict.ATTENTION)


def test_redis_that_is_away_or_missing_is_said(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = ""
    assert "REDIS_URL is not set" in only(here.redis()).words

    class Away:
        def get(self, key: str) -> None:
            raise ConnectionError("Error 111 connecting to :p@ss@redis")

    settings.REDIS_URL = "redis://127.0.0.1:1"
    monkeypatch.setattr(here, "caches", {"default": Away()})
    found = only(here.redis())
    assert found.verdict is Verdict.WRONG
    assert found.words == "REDIS_URL: Redis does not answer (ConnectionError). Until it does nobody can sign in."


def test_origin_whose_name_nobody_knows_is_said_in_words(settings: Settings) -> None:
    settings.PUBLIC_ORIGINS = ["https://portal.invalid"]
    found = only(here.portal())
    assert found.verdict is Verdict.ATTENTION and "the name portal.invalid is not known here" in found.words
    assert "gaierror" not in found.words


def test_files_with_secrets_that_everybody_may_read_are_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VPN_DIR = tmp_path
    monkeypatch.setattr(here, "_leads_in", lambda folder: True)  # the tests' own folder is nobody else's
    environment, key = tmp_path / "portafilter.env", tmp_path / "server.key"
    for path in (environment, key):
        path.write_text("SECRET=1")
        path.chmod(0o644)
    monkeypatch.setenv("PORTAFILTER_ENV_FILE", str(environment))
    wrongs = [one.words for one in here.files() if str(tmp_path) in one.words]
    assert len(wrongs) == 2
    assert [f"chmod o-rwx {path}" in words for path, words in zip((environment, key), wrongs, strict=True)] == [
        True
    ] * 2
    for path in (environment, key):
        path.chmod(0o600)
    assert [one for one in here.files() if str(tmp_path) in one.words] == []


@pytest.fixture
def vpn(settings: Settings) -> Settings:
    settings.VPN, settings.VPN_NETWORK = "openvpn", ipaddress.ip_network("10.77.0.0/20")
    settings.VPN_REMOTE = "vpn.example.com"
    return settings


@pytest.mark.django_db
def test_keys_that_do_not_read_the_database_are_said(vpn: Settings) -> None:
    from cryptography.fernet import Fernet

    identities.ensure_authority()
    assert only(here.keys()).verdict is Verdict.OK
    vpn.CREDENTIAL_KEYS = [Fernet.generate_key().decode()]
    assert only(here.keys()).words.startswith("CREDENTIAL_KEYS: none of them reads what is in the database.")


@pytest.mark.django_db
def test_vpn_without_its_agent_or_its_name_is_wrong(vpn: Settings) -> None:
    vpn.VPN_REMOTE = vpn.GATEWAY_VPN_REMOTE = "nowhere.invalid"
    authority = identities.ensure_authority()
    words = [text for verdict, text in said(here.vpn()) if verdict is Verdict.WRONG]
    assert any("was never at OpenVPN's side" in text for text in words)
    assert any(text.startswith("VPN_REMOTE: the name nowhere.invalid is not known.") for text in words)
    vpn.VPN_REMOTE = vpn.GATEWAY_VPN_REMOTE = "127.0.0.1"
    VpnAuthority.objects.filter(pk=authority.pk).update(answering_at=datetime.now(UTC) - timedelta(minutes=5))
    assert any("was last at OpenVPN's side" in text for text in (one.words for one in here.vpn()))
    VpnAuthority.objects.filter(pk=authority.pk).update(answering_at=datetime.now(UTC))
    assert [verdict for verdict, _ in said(here.vpn())] == [Verdict.OK]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("udp_s", "tcp_s", "words"),
    [
        (0, 0, "at work, and nothing ends soon."),
        (60, 0, "OpenVPN over UDP is away since"),
        (0, 60, "OpenVPN over TCP is away since"),
        (0, None, "OpenVPN over TCP was never there: machines whose network lets no UDP out cannot join."),
        (60, 60, "no machine can join. Look at OpenVPN, both over UDP and over TCP"),
    ],
)
def test_one_of_two_ways_into_the_vpn_that_is_away_is_named(
    vpn: Settings, udp_s: int, tcp_s: int | None, words: str
) -> None:
    vpn.VPN_REMOTE = vpn.GATEWAY_VPN_REMOTE = "127.0.0.1"
    vpn.VPN_TCP_PORT = 443
    now = datetime.now(UTC)
    VpnAuthority.objects.filter(pk=identities.ensure_authority().pk).update(
        answering_at=now - timedelta(seconds=udp_s),
        tcp_answering_at=None if tcp_s is None else now - timedelta(seconds=tcp_s),
    )
    ((verdict, found),) = said(here.vpn())
    assert words in found and (verdict is Verdict.OK) == (udp_s == tcp_s == 0)


@pytest.mark.parametrize(
    ("status", "body", "verdict", "words"),
    [
        (200, b'{"status": "ok"}', Verdict.OK, "says that it is well."),
        (200, b'{"status": "degraded", "vpn": "needs attention", "pool": "ok"}', Verdict.ATTENTION, "somebody: vpn."),
        (503, b'{"status": "down"}', Verdict.WRONG, "answers 503 down, expected 200 ok."),
        (200, b"<html>", Verdict.WRONG, "Is this portal behind it?"),
    ],
)
def test_portal_is_known_by_its_health(status: int, body: bytes, verdict: Verdict, words: str) -> None:
    found = here._of_portal(ORIGIN, status, body)
    assert found.verdict is verdict and words in found.words


def test_mail_server_is_asked_without_sending(settings: Settings) -> None:
    with MailServer() as server:
        settings.NOTIFY_EMAIL_URL = server.url
        assert only(messages.mail()).verdict is Verdict.OK
        assert server.mails == []
    with refusing_port() as port:
        settings.NOTIFY_EMAIL_URL = f"smtp://127.0.0.1:{port}"
        assert "cannot be used (ConnectionRefusedError)" in only(messages.mail()).words
