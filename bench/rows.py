"""Makes and reads rows in the measured server's database; run with its environment: JSON on stdin and on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import django


def login() -> dict[str, str]:
    """A signed-in browser session of Alice's."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from machines.models import User

    alice = User.objects.get(username="alice")
    store = SessionStore()
    store[SESSION_KEY] = str(alice.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = alice.get_session_auth_hash()
    store.create()
    return {"session_key": str(store.session_key)}


def desktops(ports: list[int]) -> list[str]:
    """Rescues that Alice has claimed, whose desktops a keeper holds (as the rows say) at guacd on these ports."""
    from django.db import transaction
    from django.utils import timezone

    from machines.models import Machine, User
    from sessions import presses, services
    from sessions.models import Gateway, GuacamoleConnection
    from sessions.services import RdpLogin
    from sessions.states import GatewayState

    alice = User.objects.get(username="alice")
    now = timezone.now()
    made = []
    for machine, port in zip(Machine.objects.order_by("pk"), ports, strict=False):
        login = RdpLogin(username="once", password="once", port=3389)
        session, _ = presses.request_support(machine, login=login, idempotency_key=f"bench-{machine.serial}")
        with transaction.atomic():
            session = services.begin_starting(session, now=now)
            gateway = Gateway.objects.create(
                session=session, driver="fixed", state=GatewayState.READY, host="127.0.0.1", port=port, ready_at=now
            )
            GuacamoleConnection.objects.create(
                session=session, gateway=gateway, hostname=machine.vpn_address, port=3389,
                connection_id=f"${session.pk}",
            )  # fmt: skip
            session = services.desktop_ready(session, now=now)
        services.claim(session, user=alice)
        made.append(str(session.pk))
    return made


def desktop(session: str) -> dict[str, Any]:
    """How the desktop of a rescue is joined at its guacd, and how its machine is logged in to."""
    from sessions.models import GuacamoleConnection, RdpCredential

    held = GuacamoleConnection.objects.select_related("gateway").get(session_id=UUID(session), closed_at=None)
    once = RdpCredential.objects.get(session_id=UUID(session))
    return {
        "port": held.gateway.port, "connection_id": held.connection_id, "hostname": held.hostname,
        "rdp_port": once.port, "username": once.username, "password": once.password,
    }  # fmt: skip


def duty(devices: list[list[dict[str, str]]], machines: int) -> list[dict[str, Any]]:
    """A person for each list of devices, on duty at a site of their own, two a fleet; and machines at these sites."""
    from datetime import time as clock_time

    from machines.models import Fleet, Machine, MachineModel, Shift, Site
    from machines.services import issue_token

    model, sites = MachineModel.objects.get(), []
    for number, person in enumerate(_people("duty", devices)):
        # Fleets of a size that no rescue waits for a gateway, which is another matter.
        fleet, _ = Fleet.objects.get_or_create(name=f"Fleet {number // 2}", slug=f"fleet-{number // 2}")
        site = Site.objects.create(
            fleet=fleet, name=f"Site {number}", city="Milano", country="IT", time_zone="Europe/Rome"
        )
        person.operator.fleets.add(fleet)
        Shift.objects.create(
            fleet=fleet,
            site=site,
            operator=person.operator,
            weekdays="0123456",
            starts=clock_time(0),
            ends=clock_time(0),
        )
        sites.append(site)
    made = []
    for number in range(machines):
        operator = number % len(sites)
        machine = Machine.objects.create(
            fleet=sites[operator].fleet, site=sites[operator], model=model, serial=f"D-{number:04}",
            vpn_address=f"127.126.{number // 250}.{number % 250 + 1}",
        )  # fmt: skip
        made.append({"token": issue_token(machine), "address": machine.vpn_address, "operator": operator})
    return made


def naive(devices: list[list[dict[str, str]]], presses: int, per_s: int, within_s: float) -> list[dict[str, Any]]:
    """django-webpush as its documents have it: a call for each press, one after the other, until the time is up.

    An error of a call is caught, and the next person's turn comes. What was not sent by then counts as not sent.
    """
    from django.conf import settings
    from webpush import send_user_notification
    from webpush.models import PushInformation

    people = _people("naive", devices)
    for person in people:
        for device in person.push_devices.all():
            PushInformation.objects.create(user=person, subscription=device.subscription)
    settings.WEBPUSH_SETTINGS = {
        "VAPID_PRIVATE_KEY": settings.VAPID_PRIVATE_KEY, "VAPID_ADMIN_EMAIL": "ops@example.com",
    }  # fmt: skip
    began, called = time.time(), []
    for number in range(presses):
        at, subject = began + number / per_s, str(UUID(int=number))
        called.append({"at": at, "subject": subject, "operator": number % len(people)})
        time.sleep(max(0.0, at - time.time()))
        if time.time() < began + within_s:
            with contextlib.suppress(Exception):
                send_user_notification(people[number % len(people)], {"subject": subject}, ttl=300)
    return called


def _people(prefix: str, devices: list[list[dict[str, str]]]) -> list[Any]:
    from machines.models import Operator, User
    from notifications.subscriptions import subscribe

    people = []
    for number, subscriptions in enumerate(devices):
        user = User.objects.create_user(f"{prefix}-{number}", first_name="Duty", last_name=str(number))
        Operator.objects.create(user=user)
        for subscription in subscriptions:
            subscribe(user, **subscription, browser="Chrome", user_agent="", name="phone")
        people.append(user)
    return people


if __name__ == "__main__":
    django.setup()
    work: Callable[..., object] = {
        "login": login, "desktops": desktops, "desktop": desktop, "duty": duty, "naive": naive,
    }[sys.argv[1]]  # fmt: skip
    print(json.dumps(work(**json.load(sys.stdin))))
