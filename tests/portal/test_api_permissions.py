"""Who gets what over the public face's REST calls: every role, every address, every owner (T22)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import URLPattern, reverse
from pytest_django.fixtures import Settings

from machines.models import Machine, Operator, SecurityEvent, User
from notifications.models import Delivery, PushDevice
from portal.api.urls import urlpatterns
from sessions import services
from sessions.models import Attachment, SessionEvent, SupportSession
from tests.portal.devices import VAPID_PRIVATE_KEY, subscribe
from tests.sessions.clients import client_of
from tests.sessions.rescues import fleet, person, press

pytestmark = pytest.mark.django_db

NAMED = [pattern for pattern in urlpatterns if isinstance(pattern, URLPattern) and pattern.name]
ONES = [pattern.name for pattern in NAMED if pattern.pattern.converters]
LISTS = [pattern.name for pattern in NAMED if not pattern.pattern.converters]
# A good body for each call: a refusal must come from who asks, not from what is sent.
BODIES: dict[str, dict[str, object]] = {
    "api-close": {"outcome": "not_resolved"},
    "api-attachments": {"role": "watcher"},
    "api-machine-freeze": {"reason": "Stolen"},
    "api-device": {"name": "Charlie's telephone"},
}
# What one's own fleet is answered, where that is not 200.
ANSWERS = {
    # Charlie has the rescue already: only he can claim it again.
    ("api-claim", "supervisor"): 409,
    **{("api-attachments", role): 201 for role in ("operator", "supervisor")},
    # These tests' installation has no VPN that machines join.
    **{
        (name, role): 409
        for name in ("api-machine-codes", "api-machine-profile")
        for role in ("operator", "supervisor")
    },
    ("api-machine-unfreeze", "operator"): 403,
    # A supervisor looks at what nobody came to; here Charlie came.
    ("api-looked-at", "operator"): 403,
    ("api-looked-at", "supervisor"): 409,
    ("api-device-test", "operator"): 202,
    # Devices are a person's own, also within a fleet.
    **{(name, "supervisor"): 404 for name in ("api-device", "api-device-test")},
}
SECRET_OF_SOUTH = "Boiler-of-South"


def _signed_in(user: User | None) -> Client:
    return client_of(user) if user else Client()


def _no_operator() -> User:
    return User.objects.create_user("nobody")


def _root() -> User:
    return User.objects.create_superuser("root")


def _operator_without_fleet() -> User:
    user = User.objects.create_user("newcomer")
    Operator.objects.create(user=user)
    return user


def _dismissed() -> User:
    user = person("Dora", of="South")
    Operator.objects.get(user=user).fleets.clear()
    return user


# Everybody who must see nothing of South's.
OUTSIDERS = {
    "operator elsewhere": lambda: person("Alice"),
    "supervisor elsewhere": lambda: person("Sue", role="supervisor"),
    "no operator": _no_operator,
    "superuser": _root,
    "operator of no fleet": _operator_without_fleet,
    "taken out of the fleet": _dismissed,
}
INSIDERS = {
    "operator": lambda: person("Charlie", of="South"),
    "supervisor": lambda: person("Carla", of="South", role="supervisor"),
}


@pytest.fixture(autouse=True)
def _push(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY
    cache.clear()  # where the calls of the last minute are counted


@pytest.fixture
def rescue() -> SupportSession:
    """A rescue of South, which Charlie has claimed."""
    session = press("B1", of="South")
    SupportSession.objects.filter(pk=session.pk).update(problem_text=SECRET_OF_SOUTH)
    subscribe(person("Charlie", of="South"), name=SECRET_OF_SOUTH)
    return services.claim(session, user=person("Charlie", of="South"))


def address(name: str, session: SupportSession) -> str:
    if name.startswith("api-device"):
        # Where there never was such a rescue, there never was such a device either.
        device = PushDevice.objects.filter(user=session.operator).first() if session.operator else None
        return reverse(name, args=[device.pk if device else 10**9])
    return reverse(name, args=[session.machine_id if name.startswith("api-machine") else session.pk])


def calls(client: Client, name: str, session: SupportSession) -> Iterator[Any]:
    body = BODIES.get(name, {"operator": person("Charlie", of="South").pk} if name == "api-handover" else {})
    yield client.get(address(name, session))
    yield client.post(address(name, session), body, content_type="application/json")
    if name == "api-device":
        yield client.patch(address(name, session), body, content_type="application/json")


def what_is_kept() -> tuple[Any, ...]:
    rows = SupportSession.objects.order_by("pk").values_list("pk", "version", "state", "operator_id")
    frozen = list(Machine.objects.order_by("pk").values_list("pk", "frozen_at"))
    devices = list(PushDevice.objects.order_by("pk").values_list("pk", "user", "name"))
    counts = (SessionEvent.objects.count(), Attachment.objects.count(), SecurityEvent.objects.count())
    return (list(rows), counts, frozen, devices, Delivery.objects.count())


@pytest.mark.parametrize("role", OUTSIDERS)
@pytest.mark.parametrize("name", ONES)
def test_what_belongs_to_another_fleet_does_not_exist(rescue: SupportSession, name: str, role: str) -> None:
    client = _signed_in(OUTSIDERS[role]())
    before = what_is_kept()
    for response in calls(client, name, rescue):
        assert response.status_code in (404, 405), response.request
        assert SECRET_OF_SOUTH not in response.content.decode()
    assert what_is_kept() == before


@pytest.mark.parametrize("name", ONES)
def test_another_fleets_answer_is_that_of_what_never_was(rescue: SupportSession, name: str) -> None:
    client = _signed_in(person("Alice"))
    never = SupportSession(pk=uuid.uuid4(), machine_id=10**9)
    for theirs, nothing in zip(calls(client, name, rescue), calls(client, name, never), strict=True):
        assert (theirs.status_code, theirs.content) == (nothing.status_code, nothing.content)


@pytest.mark.parametrize("role", OUTSIDERS)
@pytest.mark.parametrize("name", LISTS)
def test_lists_hold_nothing_of_another_fleet(rescue: SupportSession, name: str, role: str) -> None:
    client = _signed_in(OUTSIDERS[role]())
    for query in ("", "?state=open", f"?machine={rescue.machine_id}", "?q=B1"):
        response = client.get(reverse(name) + query)
        text = response.content.decode()
        assert response.status_code == 200
        assert SECRET_OF_SOUTH not in text and "South" not in text and str(rescue.pk) not in text


@pytest.mark.parametrize("role", INSIDERS)
@pytest.mark.parametrize("name", ONES)
def test_ones_own_fleet_is_there(rescue: SupportSession, name: str, role: str) -> None:
    answers = [response.status_code for response in calls(_signed_in(INSIDERS[role]()), name, rescue)]
    (status,) = set(answers) - {405}  # one of the two methods is the call's
    assert status == ANSWERS.get((name, role), 200)


@pytest.mark.parametrize("name", [*ONES, *LISTS])
@pytest.mark.parametrize("who", ["nobody", "deactivated"])
def test_nobody_gets_anything_without_a_login(rescue: SupportSession, name: str, who: str) -> None:
    client = _signed_in(person("Charlie", of="South") if who == "deactivated" else None)
    User.objects.filter(username="charlie").update(is_active=False)
    before = what_is_kept()
    if name in ONES:
        answers = list(calls(client, name, rescue))
    else:
        answers = [client.get(reverse(name)), client.post(reverse(name), {}, content_type="application/json")]
    for response in answers:
        assert response.status_code == 403 and response.json()["code"] == "not_authenticated", response.request
    assert what_is_kept() == before


def test_operator_of_two_fleets_sees_both(rescue: SupportSession) -> None:
    here = press("A1")
    alice = person("Alice")
    Operator.objects.get(user=alice).fleets.add(fleet("South"))
    found = _signed_in(alice).get("/api/v1/sessions/?state=open").json()["results"]
    assert {card["id"] for card in found} == {str(here.pk), str(rescue.pk)}


def test_machine_carries_its_open_rescue_for_its_own_fleet(rescue: SupportSession) -> None:
    client = _signed_in(person("Charlie", of="South"))
    (machine,) = client.get("/api/v1/machines/?q=B1").json()["results"]
    assert machine["open_session"]["id"] == str(rescue.pk)
    assert client.get(f"/api/v1/machines/{machine['id']}/").json() == machine
    assert machine["vpn_address"] == rescue.machine.vpn_address


def test_one_is_told_who_one_is_and_where() -> None:
    me = _signed_in(person("Sue", role="supervisor")).get("/api/v1/me/").json()
    assert (me["name"], me["role"], [found["name"] for found in me["fleets"]]) == ("Sue", "supervisor", ["North"])
    assert _signed_in(_no_operator()).get("/api/v1/me/").json()["role"] is None
