"""Profiles are brought by a thread of their own: telemetry that hangs with one costs a rescue nothing."""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest
from pytest_django.fixtures import Settings

from machines.models import Machine, ProfileDelivery
from machines.profile_passes import request_profile
from machines.telemetry import asking
from machines.telemetry.base import Duty, LastWord, Profile
from sessions import bell
from sessions.gateways.base import get_driver as gateway_driver
from sessions.models import Gateway
from sessions.worker import start_threads
from tests.machines.cast import new_machine
from tests.sessions.rescues import press
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


class Stuck:
    """Telemetry that takes a profile and never lets go of the line."""

    may_go_on = threading.Event()
    is_at_it = threading.Event()

    def who_is_responsible(self, machine: Machine, *, now: datetime) -> Duty:
        return Duty((), "stuck")

    def last_word(self, machine: Machine) -> LastWord | None:
        return None

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        self.is_at_it.set()
        self.may_go_on.wait(100)


@pytest.fixture
def threads(settings: Settings) -> Iterator[list[threading.Thread]]:
    settings.TELEMETRY = f"{__name__}.Stuck"
    settings.GATEWAY = "tests.fakes.gateway_driver.FakeGateways"
    settings.VPN, settings.VPN_REMOTE = "openvpn", "vpn.example.com"
    settings.VPN_NETWORK = ipaddress.ip_network("10.77.0.0/20")
    asking.forget()
    Stuck.may_go_on.clear()
    Stuck.is_at_it.clear()
    stop = threading.Event()
    running = start_threads(1, process="test", stop=stop)
    try:
        yield running
    finally:
        stop.set()
        Stuck.may_go_on.set()
        bell.ring()
        for thread in running:
            thread.join(30)
        asking.forget()
        gateway_driver.cache_clear()
    assert not any(thread.is_alive() for thread in running)


def test_telemetry_that_hangs_with_a_profile_delays_no_gateway(threads: list[threading.Thread]) -> None:
    request_profile(new_machine("A9"), user=None)
    assert Stuck.is_at_it.wait(30)
    new_machine("A1")
    press("A1")
    bell.ring()
    until(Gateway.objects.exclude(state="wanted").exists, "the gateway is being started")
    assert not ProfileDelivery.objects.exclude(delivered_at=None).exists()
    Stuck.may_go_on.set()
    until(ProfileDelivery.objects.exclude(delivered_at=None).exists, "the profile is delivered in the end")
