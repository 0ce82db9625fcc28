"""Registering a machine and letting it in, on a phone: one path from the form to “enrolled and connected”."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from playwright.sync_api import expect
from pytest_django.fixtures import Settings

from machines import enrolment, identities
from machines.errors import EnrolmentRefused
from machines.models import Machine, VpnConnection
from machines.profile_passes import ProfilePasses
from machines.telemetry.builtin import BuiltinTelemetry
from tests.machines.cast import new_machine
from tests.machines.requests import request
from tests.portal.browser.conftest import PHONE, Operator
from tests.sessions.rescues import person

pytestmark = [pytest.mark.django_db(transaction=True)]

SignIn = Callable[..., Operator]


@pytest.fixture(autouse=True)
def _vpn(settings: Settings) -> None:
    settings.VPN = "openvpn"
    settings.VPN_NETWORK = ipaddress.ip_network("10.77.0.0/20")
    settings.VPN_REMOTE = "vpn.example.com"


def fits(operator: Operator) -> bool:
    """Whether nothing has to be scrolled sideways."""
    return bool(operator.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def connect(machine: Machine) -> None:
    identity = machine.vpn_identities.get(revoked_at=None)
    VpnConnection.objects.create(
        machine=machine, identity=identity, client_id=1, remote_address="198.51.100.7", remote_port=4711
    )


def test_operator_registers_a_machine_and_makes_its_code_on_a_phone(sign_in: SignIn) -> None:
    new_machine()  # so there are a site and a model
    alice = sign_in(person("Alice"), viewport=PHONE)
    page = alice.page
    alice.visit("/machines/")
    assert fits(alice)
    page.get_by_role("link", name="Register a machine").click()
    page.get_by_label("Serial").fill("../it")
    page.get_by_role("button", name="Register").click()
    expect(page.locator(".errors")).to_contain_text("A serial has 1 to 64 letters")
    assert fits(alice)
    page.get_by_label("Serial").fill("IT-0099")
    page.get_by_role("button", name="Register").click()
    expect(page.locator(".messages")).to_contain_text("IT-0099 is registered")
    assert fits(alice)
    page.get_by_role("button", name="Enrolment code").click()
    expect(page.locator(".enrol-code span")).to_have_count(4)
    expect(page.locator("[data-left]")).to_have_text(re.compile(r"1[45]:\d\d"))
    assert fits(alice)
    box = page.locator("svg.qr").bounding_box()
    assert box and box["width"] > 200
    old = page.locator("[data-command]").text_content()
    page.get_by_role("button", name="Make a new one").click()
    expect(page.locator("[data-command]")).not_to_have_text(str(old))


def test_page_with_the_code_says_when_the_machine_has_used_it(sign_in: SignIn) -> None:
    machine = new_machine()
    alice = sign_in(person("Alice"), viewport=PHONE)
    alice.page.unroute("**/api/v1/**")  # the server's own answers
    alice.visit(f"/machines/{machine.pk}/")
    alice.page.get_by_role("button", name="Enrolment code").click()
    command = alice.page.locator("[data-command]").text_content() or ""
    enrolment.enrol(command.split()[-1], request(), address="198.51.100.7")
    expect(alice.page.locator("[data-progress]")).to_contain_text("It is enrolled.")
    expect(alice.page.locator("[data-code]")).to_be_hidden()
    expect(alice.page.locator("[data-over]")).to_be_hidden()
    connect(machine)
    expect(alice.page.locator("[data-progress]")).to_have_text("It is enrolled and connected.")


def test_code_goes_from_the_screen_when_its_time_is_up(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    # A short life rather than Playwright's clock: after a form was sent its jumps may be dropped without a word.
    monkeypatch.setattr(enrolment, "CODE_LIFE", timedelta(seconds=3))
    machine = new_machine()
    alice = sign_in(person("Alice"))
    alice.visit(f"/machines/{machine.pk}/")
    alice.page.get_by_role("button", name="Enrolment code").click()
    expect(alice.page.get_by_text("This code's time is up.")).to_be_visible()
    expect(alice.page.locator("[data-code]")).to_be_hidden()
    expect(alice.page.locator("[data-left]")).to_have_text("0:00")


def test_line_and_profile_come_to_the_open_page(sign_in: SignIn) -> None:
    machine = new_machine()
    alice = sign_in(person("Alice"))
    page = alice.page
    alice.visit(f"/machines/{machine.pk}/")
    expect(page.get_by_text("Never connected")).to_be_visible()
    page.get_by_role("button", name="Make a profile").click()
    expect(page.get_by_text("The profile is being made")).to_be_visible()
    ProfilePasses(driver=BuiltinTelemetry).run()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download profile once").click()
    assert waiting.value.suggested_filename == "A1.ovpn"
    expect(page.get_by_role("button", name="Make a profile")).to_be_visible()
    connect(machine)
    expect(page.get_by_text("198.51.100.7:4711")).to_be_visible()
    VpnConnection.objects.update(bytes_received=2_000_000)
    expect(page.get_by_text("1.9 MB from it")).to_be_visible()


def test_supervisor_at_the_queue_hears_of_a_stolen_code(sign_in: SignIn) -> None:
    machine = new_machine()
    sue = sign_in(person("Sue", role="supervisor"))
    sue.page.clock.install()
    sue.visit("/")
    code = enrolment.issue_code(machine, user=person("Alice")).text
    enrolment.enrol(code, request(), address="198.51.100.7")
    with pytest.raises(EnrolmentRefused):
        enrolment.enrol(code, request(), address="203.0.113.9")
    sue.page.clock.fast_forward("00:16")
    expect(sue.page.get_by_role("alert")).to_contain_text("used a second time, from 203.0.113.9")
    sue.page.get_by_role("link", name="Look at it").click()
    sue.page.get_by_role("button", name="Unfreeze").click()
    expect(sue.page.get_by_text("A1 is admitted again.")).to_be_visible()
    assert identities.allow_list().machines != {}
