"""Whose address counts: the socket's, unless a proxy that was named says for whom it asks; for machines never (T13)."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from django.core.cache import cache

from portal.asgi import application as public_application
from portal.environment import Environment, SettingError
from portal.proxies import BehindProxies
from tests.portal.server_process import ServerProcess, Visitor
from tests.sessions.machine_face import REQUESTS, Caller
from tests.sessions.rescues import person

PROXIES = ["10.0.0.0/24", "fd00::7"]
CLIENT, OTHER = "203.0.113.9", "198.51.100.4"
STRANGER = "192.0.2.66"


def _seen(
    peer: str | None, *forwarded: str, proto: str = "", kind: str = "http", proxies: list[str] = PROXIES
) -> tuple[str | None, str]:
    """The address and the scheme that an application behind the proxies sees."""
    seen: list[tuple[str | None, str]] = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        seen.append((scope["client"] and scope["client"][0], scope["scheme"]))

    headers = [(b"x-forwarded-for", one.encode()) for one in forwarded]
    if proto:
        headers.append((b"x-forwarded-proto", proto.encode()))
    scope = {
        "type": kind,
        "scheme": {"http": "http", "websocket": "ws"}[kind],
        "client": (peer, 4000) if peer else None,
        "headers": headers,
    }
    asyncio.run(BehindProxies(application, proxies)(scope, None, None))
    return seen[0]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("peer", [STRANGER, "10.0.1.1", "::ffff:10.0.0.1", "fd00::8"])
def test_forged_headers_of_a_stranger_mean_nothing(peer: str, kind: str) -> None:
    scheme = "http" if kind == "http" else "ws"
    assert _seen(peer, CLIENT, proto="https", kind=kind) == (peer, scheme)
    assert _seen(peer, "10.0.0.1", proto="https", kind=kind) == (peer, scheme)


@pytest.mark.parametrize(
    "forwarded",
    [
        [CLIENT],
        [f"{OTHER}, {CLIENT}"],  # what the client wrote itself stands before
        [f"10.0.0.9, {CLIENT}"],
        [OTHER, CLIENT],  # some proxies add a line instead
        [f"{OTHER}, {CLIENT}, 10.0.0.8"],  # two proxies of ours
        [f"{OTHER}, {CLIENT}", "10.0.0.8, fd00::7"],
        [f"{CLIENT}:51000"],
    ],
)
@pytest.mark.parametrize("peer", ["10.0.0.1", "fd00::7"])
def test_proxy_of_ours_says_for_whom_it_asks(peer: str, forwarded: list[str]) -> None:
    assert _seen(peer, *forwarded) == (CLIENT, "http")


def test_behind_cloudfront_its_networks_must_be_known() -> None:
    """It adds the client's address, and the load balancer behind adds CloudFront's (docs/decisions/0010)."""
    forwarded = f"{OTHER}, {CLIENT}, 130.176.1.9"
    assert _seen("10.0.0.1", forwarded, proxies=[*PROXIES, "130.176.0.0/17"]) == (CLIENT, "http")
    # Otherwise all of its clients are one, and so is their limit on sign-ins.
    assert _seen("10.0.0.1", forwarded) == ("130.176.1.9", "http")


@pytest.mark.parametrize("forwarded", ["", "unknown", "_hidden", "1.2.3", f"{CLIENT},", f"{CLIENT}, nonsense", "[::1"])
def test_what_is_no_address_leaves_the_proxys_own(forwarded: str) -> None:
    assert _seen("10.0.0.1", forwarded) == ("10.0.0.1", "http")


def test_scheme_is_the_one_that_the_proxy_was_asked_by() -> None:
    assert _seen("10.0.0.1", CLIENT, proto="https") == (CLIENT, "https")
    assert _seen("10.0.0.1", CLIENT, proto="https", kind="websocket") == (CLIENT, "wss")
    assert _seen("10.0.0.1", CLIENT, proto="gopher") == (CLIENT, "http")


def test_socket_without_a_peer_is_nobody() -> None:
    assert _seen(None, CLIENT, proto="https") == (None, "http")


def test_proxies_are_addresses_and_networks() -> None:
    assert Environment({}).networks("PROXIES") == []
    env = Environment({"PROXIES": "10.0.0.7, 10.1.0.0/24,fd00::/64"})
    assert env.networks("PROXIES") == ["10.0.0.7/32", "10.1.0.0/24", "fd00::/64"]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [("*", "expected"), ("proxy.example", "expected"), ("10.0.0.7/24", "expected"), ("10.0.0.7:80", "expected"),
     ("0.0.0.0/0", "which is everybody"), ("::/0", "which is everybody")],
)  # fmt: skip
def test_other_proxies_stop_the_start(wrong: str, why: str) -> None:
    with pytest.raises(SettingError, match=re.escape(f"PROXIES: found {wrong!r}, {why}")):
        Environment({"PROXIES": f"10.0.0.7,{wrong}"}).networks("PROXIES")


# --- the limit on failed sign-ins -------------------------------------------------------------------------------------

_CSRF = "a" * 32
_LIMIT = 10  # allauth's, a minute and address


@pytest.fixture
def _no_attempts_yet() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def _is_told_to_wait(peer: str, forwarded: str, number: int) -> bool:
    """Whether a failed sign-in, as somebody new each time, was one too many for its address."""
    form = {"login": f"nobody-{number}", "password": "wrong", "csrfmiddlewaretoken": _CSRF}
    answer = Caller(address=peer, app=BehindProxies(public_application, PROXIES))(
        "POST", "/accounts/login/", urlencode(form).encode(),
        **{"Host": "127.0.0.1:8000", "Content-Type": "application/x-www-form-urlencoded",
           "Cookie": f"csrftoken={_CSRF}", "X-Forwarded-For": forwarded},
    )  # fmt: skip
    assert answer.status == 200
    limited = b"Too many failed login attempts" in answer.content
    assert limited or b"do not go together" in answer.content, answer.content
    return limited


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_no_attempts_yet")
def test_failed_sign_ins_are_counted_for_the_client_behind_the_proxy() -> None:
    person("Alice")
    for number in range(_LIMIT):
        # Whatever the client writes before, the proxy's own hop is the last.
        assert not _is_told_to_wait("10.0.0.1", f"198.51.100.{number}, {CLIENT}", number)
    assert _is_told_to_wait("10.0.0.1", CLIENT, 50)
    assert _is_told_to_wait("10.0.0.2", f"{OTHER}, {CLIENT}", 51), "another proxy, the same client"
    assert not _is_told_to_wait("10.0.0.1", OTHER, 52), "everybody behind the proxy shares one limit"


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_no_attempts_yet")
def test_stranger_cannot_escape_the_limit_by_forging_addresses() -> None:
    for number in range(_LIMIT):
        assert not _is_told_to_wait(STRANGER, f"198.51.100.{number}", number)
    assert _is_told_to_wait(STRANGER, "198.51.100.200", 50)
    assert not _is_told_to_wait("10.0.0.1", "198.51.100.200", 51), "nor use up somebody else's"


# --- a real server ----------------------------------------------------------------------------------------------------

ORIGIN = "https://portal.example"
A1, A2 = "127.77.0.1", "127.77.0.2"


def _rows(folder: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(folder / "db.sqlite3", timeout=60)) as database:
        return database.execute(query).fetchall()


@pytest.mark.parametrize("trusted", ["127.0.0.1", "10.9.9.9"])
def test_server_knows_people_by_their_own_address_and_machines_by_their_sockets(tmp_path: Path, trusted: str) -> None:
    with ServerProcess(tmp_path) as server:
        tokens = server.seed({"A1": A1, "A2": A2})
        server.start("--no-worker", "--no-keeper", PUBLIC_ORIGINS=ORIGIN, TRUSTED_PROXIES=f"{trusted},{A2}")
        public, machines = server.until_ready()
        forged = {"X-Forwarded-For": A1, "X-Real-IP": A1, "Forwarded": f"for={A1}", "X-Forwarded-Proto": "https"}

        # A2 is even among the proxies, and has stolen A1's token.
        thief = Visitor(machines, address=A2, Authorization=f"Bearer {tokens['A1']}")
        assert thief.get("/api/v1/heartbeat/", **forged).status == 403
        assert _rows(tmp_path, "SELECT address FROM machines_securityevent WHERE kind = 'address_refused'") == [(A2,)]
        own = Visitor(machines, address=A1, Authorization=f"Bearer {tokens['A1']}")
        press = {"rdp": {"username": "once", "password": "canary-3Zt8", "port": 3390}}
        asked = own.post_json(REQUESTS, press, **{"Idempotency-Key": "press-1", "X-Forwarded-For": A2})
        assert asked.status == 201, asked
        rescue = asked.json["id"]

        alice = Visitor(public, host="portal.example", X_Forwarded_For=f"{OTHER}, {CLIENT}", X_Forwarded_Proto="https")
        alice.sign_in("alice", ORIGIN)
        is_trusted = trusted == "127.0.0.1"
        assert (alice.get("/").header("Strict-Transport-Security") is not None) == is_trusted
        attach = f"/api/v1/sessions/{rescue}/attachments/"
        answer = alice.post_json(attach, {"role": "watcher"}, Origin=ORIGIN, Referer=f"{ORIGIN}/")
        assert answer.status == 201, answer
        said = alice.show_ticket(rescue, answer.json["ticket"], ORIGIN)
        assert "3.519;" in said[-1], said  # admitted; only nobody keeps the desktop here
        attached = _rows(tmp_path, "SELECT address FROM support_attachment WHERE attached_at IS NOT NULL")
        assert attached == [(CLIENT if is_trusted else "127.0.0.1",)]
        assert "Traceback" not in server.log.read_text()
