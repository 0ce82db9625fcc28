"""What else reads gateways, and finds some without a session: passages, the admin, the cleaner, operators."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.urls import reverse
from pytest_django.fixtures import Settings

from machines.models import Fleet, User
from sessions import attachments, gateway_rows, selectors, services
from sessions.models import Gateway
from sessions.states import State
from tests.sessions.clients import client_of
from tests.sessions.pooling import House
from tests.sessions.rescues import fleet, machine, person
from tests.sessions.working import fresh

pytestmark = pytest.mark.django_db


def test_warm_gateways_have_no_passage_and_a_claimed_one_has_its_machines(house: House) -> None:
    Fleet.objects.update(warm_gateways=2)
    house.stoke()
    Gateway.objects.update(handle={"uid": 61000})
    assert selectors.passages() == []
    session = house.press()
    house.worker.run_pass()
    (passage,) = selectors.passages()
    assert passage.machine_address == session.machine.vpn_address


def test_old_records_of_those_that_nobody_had_are_erased(house: House, settings: Settings) -> None:
    house.stoke()
    session = house.press()
    house.work()
    settings.GATEWAY_WARM = 0
    house.stoke(4, every_s=20)
    assert Gateway.objects.count() == 2
    house.clock.tick(8 * 86_400)
    house.stoke(1)
    assert list(Gateway.objects.all()) == [house.of(session)]


def test_end_of_the_server_leaves_no_row_that_looks_ready(house: House) -> None:
    house.stoke()
    gateway_rows.give_up_warm("local", now=house.clock())
    house.driver.die()
    session = house.press()
    house.worker.run_pass()
    assert house.of(session).claimed_at is None


def test_admin_says_warm_and_shows_the_pool_on_its_fleets_page(house: House) -> None:
    client = client_of(User.objects.create_superuser("root"))
    house.stoke()
    assert 'field-whose">warm' in client.get(reverse("admin:support_gateway_changelist")).content.decode()
    session = house.press()
    house.work()
    page = client.get(reverse("admin:support_gateway_changelist")).content.decode()
    assert f"{session}, was warm" in page
    page = client.get(reverse("admin:machines_fleet_change", args=[fleet().pk])).content.decode()
    assert "GATEWAY_WARM says so." in page and "1 ready, 0 starting" in page
    assert Gateway in admin.site._registry


def test_managers_see_the_warm_gateways_of_their_own_fleets_alone(house: House) -> None:
    machine("C1", of="South")
    house.stoke()
    bob = person("Bob")
    request: Any = type("Request", (), {"user": bob})()
    shown = admin.site._registry[Gateway].get_queryset(request)
    assert {row.fleet.name for row in shown if row.fleet} == {"North"}


def test_operator_attaches_to_a_desktop_at_a_claimed_gateway(house: House) -> None:
    alice = person("Alice")
    house.stoke()
    session = services.claim(house.press(), user=alice)
    house.work()
    house.hold_desktop(session)
    ticket = attachments.issue_ticket(fresh(session), user=alice, role="controller")
    attachments.redeem_ticket(ticket, session_id=session.pk, user=alice)
    assert fresh(session).state == State.ACTIVE
