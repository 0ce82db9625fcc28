"""A gateway is ready once it has joined the VPN, and the driver gives up one that never does."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from machines.models import GatewayIdentity
from sessions.gateways import door
from sessions.gateways import ecs as ecs_module
from sessions.gateways.base import GatewayError
from tests.fakes.ecs import FakeEcs
from tests.sessions.gateways.conftest import Case, new_request

pytestmark = pytest.mark.real


def test_gateway_is_ready_once_it_has_joined_and_leaves_when_it_is_stopped(
    case: Case, ecs: FakeEcs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ECS_NETWORK = "tunnel"
    asked: list[tuple[str, int, str]] = []
    left: list[str] = []

    def join(host: str, port: int, attempt_id: str, *, timeout_s: float) -> str:
        asked.append((host, port, attempt_id))
        if len(asked) < 3:
            raise GatewayError("It is not in the VPN yet.")
        return "10.77.0.9"

    monkeypatch.setattr(door, "join", join)
    monkeypatch.setattr(door, "leave", left.append)
    request = new_request()
    status = case.start(request)
    assert status.handle["vpn_address"] == "10.77.0.9"
    assert asked == [(status.host, 4823, request.attempt_id)] * 3
    assert left == []
    case.stop(request, status)
    assert set(left) == {request.attempt_id}


@pytest.mark.django_db
def test_gateway_that_stays_out_of_the_vpn_is_given_up(
    case: Case,
    ecs: FakeEcs,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    """As one that was ready before the VPN's server moved: guacd answers, and reaches no machine any more."""
    later = SimpleNamespace(s=0.0)
    settings.ECS_NETWORK = "tunnel"
    monkeypatch.setattr(door, "join", lambda *_, **__: "10.77.0.9")
    request = new_request()
    status = case.start(request)
    now = timezone.now()
    row = GatewayIdentity.objects.create(
        attempt_id=request.attempt_id, address="10.77.0.9", key_sha256="k", serial="1", sha256="c", certificate="x",
        expires_at=now + timedelta(days=1), connected_at=now, left_at=now - timedelta(minutes=1),
    )  # fmt: skip
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later.s, sleep=time.sleep)
    monkeypatch.setattr(ecs_module, "time", clock)
    with django_assert_num_queries(1):
        assert case.driver.describe(request.attempt_id, status.handle).state == "ready"
    GatewayIdentity.objects.filter(pk=row.pk).update(left_at=now - timedelta(minutes=6))
    later.s = 20
    with django_assert_num_queries(0):
        assert case.driver.describe(request.attempt_id, status.handle).state == "ready"
    later.s = 30
    lost = case.driver.describe(request.attempt_id, status.handle)
    assert (lost.state, lost.detail) == ("failed", "The gateway has lost the VPN.")
    later.s = 0
    case.stop(request, status)


def test_gateway_that_may_never_join_fails(
    case: Case, ecs: FakeEcs, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.ECS_NETWORK = "tunnel"

    def refuse(*args: object, **kwargs: object) -> str:
        raise GatewayError("It has a certificate that is not ours.", permanent=True)

    monkeypatch.setattr(door, "join", refuse)
    failed = case.start(new_request())
    assert (failed.state, failed.detail) == ("failed", "The gateway could not join the VPN.")
    assert "not ours" in failed.record
