"""The part of a machine's page that goes with the time: who would be asked about it now, and what it last said."""

from __future__ import annotations

from datetime import time, timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines import availability
from machines.models import Machine, Shift
from tests.sessions.clients import client_of
from tests.sessions.rescues import machine, person

pytestmark = pytest.mark.django_db


@pytest.fixture
def a1() -> Machine:
    return machine("A1")


@pytest.fixture
def client() -> Client:
    return client_of(person("Alice"))


def test_machine_page_says_who_would_be_asked_now(client: Client, a1: Machine) -> None:
    Shift.objects.create(
        fleet=a1.fleet, site=a1.site, operator=person("Bob").operator, weekdays="0123456", starts=time(0), ends=time(0)
    )
    person("Sue", role="supervisor")
    page = " ".join(client.get(f"/machines/{a1.pk}/").content.decode().split())
    asked = page.partition("If help were pressed now")[2].partition("</section>")[0]
    assert asked.index("Bob") < asked.index("You")
    assert "on the rota here" in asked
    assert "Then the supervisors: Sue" in asked
    alone = client.get(f"/machines/{a1.pk}/now/")
    assert "If help were pressed now" in alone.content.decode()
    assert "no-store" in alone["Cache-Control"]


def test_machine_page_says_when_nobody_would_be_asked(client: Client, a1: Machine) -> None:
    availability.set_available(person("Alice").operator, is_available=False)
    now = timezone.now()
    sue = person("Sue", role="supervisor").operator
    availability.add_absence(sue, starts_at=now - timedelta(hours=1), ends_at=now + timedelta(hours=1))
    page = client.get(f"/machines/{a1.pk}/now/").content.decode()
    assert "Nobody is on duty, and the rota has nobody" in page
    assert "There is no supervisor to ask." in page


def test_last_resort_is_promised_only_where_something_goes_out_to_it(
    client: Client, a1: Machine, settings: Settings
) -> None:
    a1.fleet.last_resort_email = "help@example.org"
    a1.fleet.save()
    settings.NOTIFY_EMAIL_URL = "smtp://mail.example"
    assert "At last the fleet" in client.get(f"/machines/{a1.pk}/now/").content.decode()
    settings.NOTIFY_EMAIL_URL = ""
    page = client.get(f"/machines/{a1.pk}/now/").content.decode()
    assert "At last the fleet" not in page
    assert "address of last resort could not be told: no e-mail or SMS goes out to it from here." in page


def test_machine_page_shows_what_the_machine_last_said(client: Client, a1: Machine) -> None:
    assert "It has not said anything yet" in client.get(f"/machines/{a1.pk}/").content.decode()
    Machine.objects.filter(pk=a1.pk).update(last_seen_at=timezone.now(), software="<b>9.4</b>", faults=["E17 jammed"])
    page = client.get(f"/machines/{a1.pk}/now/").content.decode()
    assert "&lt;b&gt;9.4" in page
    assert "E17 jammed" in page


def test_who_would_be_asked_is_no_other_fleets_business(a1: Machine) -> None:
    assert client_of(person("Charlie", of="South")).get(f"/machines/{a1.pk}/now/").status_code == 404
    assert Client().get(f"/machines/{a1.pk}/now/").status_code == 302
