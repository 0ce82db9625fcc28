"""Machines in the VPN: Alice's A1 in fleet North, Charlie's in South."""

from __future__ import annotations

from django.db import transaction

from machines import identities
from machines.models import Machine, MachineModel, Site
from tests.sessions.rescues import fleet


def new_machine(serial: str = "A1", *, of: str = "North") -> Machine:
    """A machine with the next free address of its fleet."""
    owner = fleet(of)
    site, _ = Site.objects.get_or_create(
        fleet=owner, name="Station", defaults={"city": "Milano", "country": "IT", "time_zone": "Europe/Rome"}
    )
    model, _ = MachineModel.objects.get_or_create(name="Aurora 9")
    with transaction.atomic():
        address = identities.allocate_address(owner)
        return Machine.objects.create(fleet=owner, site=site, model=model, serial=serial, vpn_address=address)
