"""What several tests of the rescues share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from sessions.api import waiting
from sessions.worker import Worker
from tests.fakes.gateway_driver import FakeGateways
from tests.sessions.asking import reachable
from tests.sessions.pooling import House
from tests.sessions.rescues import Clock
from tests.sessions.working import FakeVpn


@pytest.fixture(scope="session")
def poll_pool(django_db_setup: None) -> Iterator[None]:
    """The polls' threads keep their connections, as they should; PostgreSQL drops no database that is in use."""
    yield
    together = threading.Barrier(waiting.POOL_THREADS)

    def leave() -> None:
        together.wait(60)  # so that each thread gets one
        connections.close_all()

    for left in [waiting._pool.submit(leave) for _ in range(waiting.POOL_THREADS)]:
        left.result(100)


@pytest.fixture(autouse=True)
def _no_pass_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass leaves no step to the next one because the computer was busy; tests of that set a time of their own."""
    monkeypatch.setattr("sessions.passes.STEPS_S", 600.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver() -> FakeGateways:
    return FakeGateways()


@pytest.fixture
def vpn() -> FakeVpn:
    return FakeVpn()


@pytest.fixture
def worker(clock: Clock, driver: FakeGateways, vpn: FakeVpn) -> Worker:
    return Worker("test worker", now=clock, driver_for=lambda _: driver, vpn=lambda: vpn)


@pytest.fixture
def house(settings: Settings) -> House:
    """One gateway is kept ready for each fleet."""
    settings.GATEWAY_WARM = 1
    return House()


@pytest.fixture
def web_push_alone(settings: Settings) -> None:
    """Messages go to devices; there is no other channel."""
    settings.VAPID_PRIVATE_KEY = "a key"
    settings.NOTIFY_EMAIL_URL = ""
    settings.SMS = "none"


@pytest.fixture
def cast(db: None, web_push_alone: None) -> None:
    """Alice and Bob are on duty, Sue supervises; each has a phone. Charlie has one elsewhere."""
    for name in ("Alice", "Bob"):
        reachable(name)
    reachable("Sue", role="supervisor")
    reachable("Charlie", of="South")
