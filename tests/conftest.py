"""What every test gets: a database whose append-only tables can still be emptied between transactional tests.

Where several processes share the tests, each takes whole files, in the order that is made here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from django.core.signals import setting_changed
from pytest_django import DjangoDbBlocker

from tests import app_role, emptying, migrated

# How long one example takes says nothing where a process may be held up for a second at any line.
hypothesis.settings.register_profile("portafilter", deadline=None)
hypothesis.settings.load_profile("portafilter")

# Those that take five seconds and more: at the end they would keep one process busy, and the others waiting.
LONGEST_FIRST = (
    "vpn/test_lines.py",
    "vpn/test_crashes.py",
    "vpn/test_rescue.py",
    "vpn/test_idle.py",
    "vpn/test_namespaces.py",  # while no other run of namespaces begins, which would clear away what it looks at
    "e2e/test_claims.py",
    "e2e/test_faults.py",
    "e2e/test_endings.py",
    "e2e/test_rescue.py",
    "e2e/test_ecs.py",
    "machines/authorisation/test_openvpn.py",
    "portal/test_demo.py",
    "sessions/test_worker_crashes.py",
    "sessions/test_keeper_real.py",
    "sessions/test_pool_crashes.py",
    "portal/browser/test_rescue.py",
    "portal/test_serve.py",
    "notifications/test_sender.py",
    "test_admin.py",
    "machines/authorisation/test_isolation.py",
    "sessions/test_tunnel.py",
    "portal/browser/test_queue.py",
    "backbone/test_templates.py",
    "sessions/gateways/ecs/test_crashes.py",
    "portal/browser/test_push.py",
    "portal/test_api_schema.py",
    "portal/test_api_permissions.py",
    "sessions/test_idle_cuts.py",
    "sessions/test_keeper.py",
    "sessions/test_state_machine.py",
    "sessions/test_machine_schema.py",
    "machines/authorisation/test_two_ways.py",
    "backbone/test_commands.py",
    "portal/browser/test_registration.py",
    "agent/test_simulated_machine.py",
    "portal/browser/test_live_lines.py",
    "portal/browser/test_attention.py",
    "agent/test_real_openvpn.py",
    "portal/test_proxies.py",
    "portal/test_slow_lines.py",
    "sessions/test_machine_waiting.py",
    "portal/test_secrets_on_the_way.py",
    "agent/test_rescue_vpn.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes
        places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def _migrated_once_a_run() -> Iterator[None]:
    with migrated.instead_of_migrating():
        yield


@pytest.fixture(scope="session")
def django_db_setup(
    _migrated_once_a_run: None, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[None]:
    """pytest-django's own, with tables that are copied, and emptied only where they have rows; used as the app is."""
    with ExitStack() as stack:
        with django_db_blocker.unblock():
            stack.enter_context(emptying.quickly())
            stack.enter_context(app_role.at_work())
        yield


@pytest.fixture(autouse=True, scope="session")
def _emptying_between_tests_passes_the_append_only_law() -> Iterator[None]:
    with emptying.past_the_append_only_law():
        yield


@pytest.fixture(autouse=True, scope="session")
def _drivers_follow_the_settings() -> Iterator[None]:
    """A driver that one test's settings chose must not be the next test's."""
    from machines.telemetry import base as telemetry
    from machines.vpn import base as vpn

    chosen = {"VPN": vpn.get_driver, "VPN_NETWORK": vpn.get_driver, "TELEMETRY": telemetry.get_driver}

    def choose_anew(setting: str, **_: object) -> None:
        if setting in chosen:
            chosen[setting].cache_clear()

    setting_changed.connect(choose_anew)
    yield
    setting_changed.disconnect(choose_anew)
