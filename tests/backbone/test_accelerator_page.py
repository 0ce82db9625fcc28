"""The admin's page of Global Accelerator: who sees it, what it says, and the steps to turning something."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from backbone.accelerator import GlobalAccelerator
from backbone.models import AcceleratorReading, DialWish
from backbone.passes import AcceleratorPasses
from machines.aws import Aws
from machines.models import SecurityEvent, User
from tests.fakes.global_accelerator import FakeGlobalAccelerator, load_balancer
from tests.sessions.clients import client_of
from tests.sessions.rescues import person

pytestmark = pytest.mark.django_db
STATUS = "/admin/backbone/acceleratorreading/"


@pytest.fixture
def root() -> Client:
    return client_of(User.objects.create_superuser("root", first_name="Rosa"))


@pytest.fixture
def manager() -> Client:
    """On the staff, may look at the accelerator, and is no superuser."""
    user = person("Alice")
    user.is_staff = True
    user.save()
    user.user_permissions.add(
        *Permission.objects.filter(content_type__app_label="backbone", codename__startswith="view")
    )
    return client_of(user)


@pytest.fixture
def group(aws: FakeGlobalAccelerator, aws_calls: Aws) -> str:
    """The group of UDP 1194, as the worker has read it."""
    made, _ = aws.standard()
    AcceleratorPasses(driver=GlobalAccelerator(aws_calls)).run()
    return made


def turn(group: str, endpoint: str = "") -> str:
    reading = AcceleratorReading.objects.get()
    address = reverse("admin:backbone_acceleratorreading_turn", args=[reading.pk])
    return f"{address}?{urlencode({'group': group, 'endpoint': endpoint})}"


def words_of(answer: Any) -> str:
    return " ".join(strip_tags(answer.content.decode()).split())


def test_page_shows_everything_that_was_read(
    root: Client, group: str, aws: FakeGlobalAccelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = len(aws.calls)
    read_at = AcceleratorReading.objects.get().read_at
    assert read_at is not None
    later = SimpleNamespace(now=lambda: read_at + timedelta(seconds=12.9))
    monkeypatch.setattr("backbone.admin.timezone", later)
    shown = words_of(root.get(STATUS))
    for part in (
        *("portafilter", "Enabled", "Deployed", "198.51.100.7", "203.0.113.7", ".awsglobalaccelerator.com"),
        *("UDP 1194", "TCP 443", "one client address stays with one endpoint", "eu-west-1", "100 %"),
        *("HTTP /healthz at port 8080, every 10 s, 3 in a row", "Network load balancer portafilter-vpn", "Healthy"),
        *("Client address kept", "Weight 128", "(100% of eu-west-1)", "12 s ago"),
    ):
        assert part in shown, part
    assert len(aws.calls) == asked  # nothing outside is asked in a request
    assert STATUS in root.get("/admin/").content.decode()


def test_what_is_wrong_stands_above_it(root: Client, group: str, aws: FakeGlobalAccelerator, aws_calls: Aws) -> None:
    aws.endpoint(group)["HealthState"] = "UNHEALTHY"
    AcceleratorReading.objects.update(due_at=timezone.now())
    AcceleratorPasses(driver=GlobalAccelerator(aws_calls)).run()
    assert "portafilter-vpn is unhealthy" in words_of(root.get(STATUS))


def test_old_data_says_how_old_it_is_and_why(root: Client, group: str) -> None:
    AcceleratorReading.objects.update(read_at=timezone.now() - timedelta(minutes=7))
    shown = words_of(root.get(STATUS))
    assert "7 min ago" in shown and "Is it running, with ACCELERATOR set?" in shown
    words = "globalaccelerator:DescribeAccelerator: Allow it."
    AcceleratorReading.objects.update(trouble=words)
    assert words in words_of(root.get(STATUS))


def test_row_that_another_version_wrote_is_no_error(root: Client, group: str) -> None:
    AcceleratorReading.objects.update(found={"arn": "?"})
    assert root.get(STATUS).status_code == 200


def test_without_the_setting_the_page_says_so_and_the_index_has_no_link(root: Client, settings: Any) -> None:
    settings.ACCELERATOR = ""
    assert "set ACCELERATOR" in words_of(root.get(STATUS))
    assert STATUS not in root.get("/admin/").content.decode()


def test_who_may_look_may_not_turn(manager: Client, group: str) -> None:
    page = manager.get(STATUS)
    assert page.status_code == 200 and "turn/" not in page.content.decode()
    for answer in (manager.get(turn(group)), manager.post(turn(group), {"to": 0, "reason": "x", "sure": "1"})):
        assert answer.status_code == 403
    assert not DialWish.objects.exists()


def test_staff_without_permission_and_operators_see_nothing(group: str) -> None:
    user = person("Bob")
    assert client_of(user).get(STATUS).status_code == 302  # to the sign-in
    user.is_staff = True
    user.save()
    assert client_of(user).get(STATUS).status_code == 403
    assert STATUS not in client_of(user).get("/admin/").content.decode()


def test_turning_says_first_what_will_happen(root: Client, group: str) -> None:
    form = {"to": "0", "reason": "upgrade", "from_value": "100.0"}
    step = words_of(root.post(turn(group), form))
    assert "100 % → 0 %" in step
    for part in (
        "eu-west-1 gets no new connections on UDP 1194",
        "no other region to go to",
        "Existing connections stay",
    ):
        assert part in step
    assert not DialWish.objects.exists()
    answer = root.post(turn(group), {**form, "sure": "Turn it"}, follow=True)
    wish = DialWish.objects.get()
    assert (wish.from_value, wish.to_value, wish.reason, wish.group_arn) == (100, 0, "upgrade", group)
    shown = words_of(answer)
    assert "Under way" in shown and "Rosa" in shown and "Turning…" in shown
    assert b'http-equiv="refresh"' in answer.content
    event = SecurityEvent.objects.get(kind="dial_wished")
    assert event.user == wish.user and event.address == "127.0.0.1" and event.detail["reason"] == "upgrade"


def test_weight_goes_the_same_way(root: Client, group: str) -> None:
    form = {"to": "0", "reason": "upgrade", "from_value": "128"}
    step = words_of(root.post(turn(group, load_balancer()), form))
    assert "128 → 0" in step and "no other endpoint in eu-west-1" in step
    root.post(turn(group, load_balancer()), {**form, "sure": "Turn it"})
    assert DialWish.objects.get().endpoint_id == load_balancer()


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"to": "50", "reason": ""}, "This field is required"),
        ({"to": "101", "reason": "x"}, "less than or equal to 100"),
        ({"to": "-1", "reason": "x"}, "greater than or equal to 0"),
        ({"to": "a lot", "reason": "x"}, "Expected a whole number from 0 to 100"),
        ({"to": "100", "reason": "x"}, "already"),
    ],
)
def test_bad_input_is_told_and_nothing_is_wished(root: Client, group: str, form: dict[str, str], said: str) -> None:
    answer = root.post(turn(group), {"from_value": "100.0", "sure": "Turn it", **form})
    assert answer.status_code == 400 and said in words_of(answer)
    assert not DialWish.objects.exists()


def test_what_was_turned_since_the_page_was_opened_is_shown_first(root: Client, group: str) -> None:
    answer = root.post(turn(group), {"to": "0", "reason": "upgrade", "from_value": "80.0", "sure": "Turn it"})
    assert "It was turned meanwhile, to 100" in words_of(answer)
    assert not DialWish.objects.exists()


def test_second_wish_hears_whose_is_under_way(root: Client, group: str) -> None:
    form = {"to": "0", "reason": "upgrade", "from_value": "100.0", "sure": "Turn it"}
    root.post(turn(group), form)
    answer = root.post(turn(group), {**form, "to": "10"}, follow=True)
    assert "Rosa has just turned something in this group" in words_of(answer)
    assert DialWish.objects.count() == 1 and SecurityEvent.objects.filter(kind="dial_wished").count() == 1


def test_what_is_gone_sends_back_to_the_page(root: Client, group: str) -> None:
    answer = root.get(turn("arn:gone"), follow=True)
    assert "not there any more" in words_of(answer)
    assert root.get(f"{STATUS}999/turn/").status_code == 404


def test_record_of_what_was_turned_can_only_be_read(root: Client, group: str) -> None:
    root.post(turn(group), {"to": "0", "reason": "=1+1", "from_value": "100.0", "sure": "Turn it"})
    wish = DialWish.objects.get()
    assert root.get("/admin/backbone/dialwish/").status_code == 200
    assert root.get("/admin/backbone/dialwish/add/").status_code == 403
    assert root.post(f"/admin/backbone/dialwish/{wish.pk}/delete/", {"post": "yes"}).status_code == 403
    assert b"<input" not in root.get(f"/admin/backbone/dialwish/{wish.pk}/change/").content.split(b"<fieldset")[1]
