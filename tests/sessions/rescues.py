"""The cast and a rescue's first steps: Alice operates machine A1, Bob is her colleague, Charlie works elsewhere."""

from __future__ import annotations

import itertools
from datetime import datetime, timedelta

from django.utils import timezone

from machines.models import Fleet, Machine, MachineModel, Operator, Site, User
from sessions import presses
from sessions.models import SupportSession
from sessions.services import RdpLogin

PASSWORD = "canary-7Yk2"
_numbers = itertools.count(1)


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.at = timezone.now()

    def __call__(self) -> datetime:
        return self.at

    def tick(self, seconds: float) -> datetime:
        self.at += timedelta(seconds=seconds)
        return self.at


def fleet(name: str = "North") -> Fleet:
    return Fleet.objects.get_or_create(name=name, defaults={"slug": name.lower()})[0]


def person(name: str, *, of: str = "North", role: str = "operator") -> User:
    user, made = User.objects.get_or_create(username=name.lower(), defaults={"first_name": name})
    if made:
        operator = Operator.objects.create(user=user, role=role)
        operator.fleets.add(fleet(of))
    return user


def machine(serial: str = "A1", *, of: str = "North") -> Machine:
    owner = fleet(of)
    known = Machine.objects.filter(fleet=owner, serial=serial).first()
    if known:
        return known
    site, _ = Site.objects.get_or_create(
        fleet=owner, name="Station", defaults={"city": "Milano", "country": "IT", "time_zone": "Europe/Rome"}
    )
    model, _ = MachineModel.objects.get_or_create(name="Aurora 9")
    number = next(_numbers)
    address = f"127.{64 + number // 65536 % 64}.{number // 256 % 256}.{number % 256}"
    return Machine.objects.create(fleet=owner, site=site, model=model, serial=serial, vpn_address=address)


def press(
    serial: str = "A1", *, of: str = "North", key: str = "", password: str = PASSWORD, now: datetime | None = None
) -> SupportSession:
    """Help is pressed on a machine."""
    session, _ = presses.request_support(
        machine(serial, of=of),
        login=RdpLogin(username="once", password=password, port=3390),
        idempotency_key=key or f"key-{next(_numbers)}",
        problem_code="E17",
        problem_text="Grinder jammed",
        now=now,
    )
    return session
