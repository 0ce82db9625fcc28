"""Two faces that share no address but those that are meant to be on both (T21), and how each says that it lives."""

from __future__ import annotations

import asyncio
import itertools
import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import Error, connection
from django.test import Client
from django.urls import URLPattern, get_resolver
from django.utils import timezone

from machines import identities
from machines.models import Fleet
from portal.asgi import application as public_application
from portal.machine_asgi import application as machine_application
from sessions.gateway_passes import BUSY, GatewayPasses
from sessions.models import Pool, SupportSession
from tests.sessions.machine_face import Caller, caller_of
from tests.sessions.rescues import machine, press

pytestmark = pytest.mark.django_db(transaction=True)

ON_BOTH = {"/healthz", "/api/schema/"}
_VALUES = {"uuid": str(uuid.uuid4()), "int": "1", "str": "word", "slug": "word", "path": "a/b"}


def addresses(urlconf: str) -> list[str]:
    """An address for each pattern of a URLconf, its converters filled in."""
    found = []
    for route, _ in _patterns(get_resolver(urlconf), ""):
        address = "/" + re.sub(r"<(\w+):\w+>|<\w+>", lambda match: _VALUES[match[1] or "str"], route)
        if not re.search(r"[\\()^$?*]", address):  # a regular expression of the admin's or allauth's own
            found.append(address)
    return sorted(set(found))


def _patterns(resolver: Any, before: str) -> Iterator[tuple[str, URLPattern]]:
    for pattern in resolver.url_patterns:
        route = before + str(pattern.pattern)
        if isinstance(pattern, URLPattern):
            yield route, pattern
        else:
            yield from _patterns(pattern, route)


MACHINE = [address for address in addresses(settings.MACHINE_URLCONF) if address not in ON_BOTH]
PUBLIC = [address for address in addresses(settings.ROOT_URLCONF) if address not in ON_BOTH]
HOST = {"Host": "127.0.0.1:8000"}
HEALTHY = dict.fromkeys(("status", "database", "worker", "pool", "vpn", "notifications"), "ok")


def test_walk_of_the_urlconfs_finds_the_calls() -> None:
    assert {"/api/v1/heartbeat/", f"/api/v1/support-requests/{_VALUES['uuid']}/cancel/"} <= set(MACHINE)
    assert {"/", "/api/v1/sessions/", "/admin/", "/accounts/login/"} <= set(PUBLIC)


def test_no_call_of_the_machines_is_on_the_public_face() -> None:
    a1 = caller_of("A1")
    a1.app = public_application
    for address, method in itertools.product(MACHINE, ("GET", "POST")):
        assert a1(method, address, {} if method == "POST" else None, **HOST).status == 404, address


def test_no_public_address_is_on_the_machines_face() -> None:
    a1 = caller_of("A1")
    for address, method in itertools.product(PUBLIC, ("GET", "POST")):
        a1(method, address, {} if method == "POST" else None).expect_problem(404, "not_found")


def test_machines_face_has_no_websockets() -> None:
    sent: list[dict[str, Any]] = []

    async def connect() -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await machine_application({"type": "websocket", "path": "/ws/live/", "headers": []}, receive, send)

    asyncio.run(connect())
    assert sent == [{"type": "websocket.close"}]


def test_machine_token_opens_nothing_on_the_public_face() -> None:
    a1 = caller_of("A1")
    a1.app = public_application
    assert a1("GET", "/api/v1/sessions/", **HOST).status in (401, 403)


def test_machines_face_sets_no_cookies() -> None:
    a1 = caller_of("A1")
    for answer in (a1.ask(), a1("GET", "/healthz"), a1("GET", "/nothing")):
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.fixture(params=["public", "machines"])
def health(request: pytest.FixtureRequest) -> Any:
    if request.param == "machines":
        return lambda: Caller(address="10.1.1.1")("GET", "/healthz")
    caller = Caller(app=public_application, headers=HOST)
    return lambda: caller("GET", "/healthz")


def test_healthy_face_says_so_to_anybody(health: Any) -> None:
    answer = health()
    assert (answer.status, answer.json) == (200, HEALTHY)


def test_worker_that_does_not_come_is_told(health: Any) -> None:
    press("A1", now=timezone.now() - timedelta(seconds=60))
    answer = health()
    assert (answer.status, answer.json["status"], answer.json["worker"]) == (200, "degraded", "behind")


def test_fleet_without_a_free_gateway_is_no_fault_of_the_worker(health: Any) -> None:
    a_minute_ago = timezone.now() - timedelta(seconds=60)
    session = press("A1", now=a_minute_ago)
    Fleet.objects.filter(pk=session.fleet_id).update(max_open_sessions=0)
    GatewayPasses("worker", lambda: a_minute_ago).run()
    assert SupportSession.objects.get().notice == BUSY
    assert health().json["worker"] == "ok"


def test_pool_that_does_not_fill_is_told_after_a_while(health: Any) -> None:
    row = Pool.objects.create(fleet=machine().fleet, size=2, short_since=timezone.now() - timedelta(seconds=300))
    assert health().json == HEALTHY
    Pool.objects.update(short_since=timezone.now() - timedelta(seconds=900))
    answer = health()
    assert (answer.status, answer.json["status"], answer.json["pool"]) == (200, "degraded", "short")
    Pool.objects.filter(pk=row.pk).update(size=0)
    assert health().json == HEALTHY


def test_vpn_that_will_lock_everybody_out_is_told(health: Any) -> None:
    identities.crl_pem(now=timezone.now() - timedelta(days=20))
    answer = health()
    assert (answer.status, answer.json["status"], answer.json["vpn"]) == (200, "degraded", "needs attention")
    assert "revocation" not in str(answer.json)


@pytest.mark.django_db
def test_health_is_told_to_a_load_balancer_that_asks_by_address() -> None:
    for host in ("10.60.1.5:8000", "elsewhere.example.com"):
        answer = Client().get("/healthz", headers={"host": host})
        assert answer.json()["status"] == "ok" and "Content-Security-Policy" in answer.headers
        assert Client().get("/accounts/login/", headers={"host": host}).status_code == 400
    assert Client().post("/healthz", headers={"host": "10.60.1.5:8000"}).status_code == 405


def test_database_that_is_away_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise Error("secret host name")

    monkeypatch.setattr(connection, "cursor", gone)
    response = Client().get("/healthz")
    assert response.status_code == 503
    assert response.json() == {**dict.fromkeys(HEALTHY, "unknown"), "status": "down", "database": "unreachable"}
