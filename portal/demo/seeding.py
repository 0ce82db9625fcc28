"""Puts planned fleets in the database: what is missing is made, what is there stays as people have left it."""

from __future__ import annotations

import ipaddress

from django.db import transaction

from machines.identities import allocate_address
from machines.models import Fleet, Machine, MachineModel, Operator, Site, User
from machines.vpn.base import AddressError, get_driver, has_vpn
from portal.demo.errors import DemoError
from portal.demo.plan import PlannedFleet, PlannedMachine, PlannedPerson
from sessions.models import ConnectionProfile


def seed_fleet(plan: PlannedFleet) -> Fleet:
    """The fleet with its machines, people and connection profile; people have no password yet (see `logins`).

    Raises DemoError where the VPN of the settings has no loopback machines.
    """
    with transaction.atomic():
        fleet, _ = Fleet.objects.get_or_create(slug=plan.slug, defaults={"name": plan.name})
        # The simulated machines' RDP servers do network level authentication and nothing else.
        ConnectionProfile.objects.get_or_create(
            fleet=fleet,
            machine_model=None,
            defaults={"name": f"{plan.name}: all machines", "security": ConnectionProfile.Security.NLA},
        )
        for machine in plan.machines:
            seed_machine(fleet, machine)
        for person in plan.people:
            seed_person(fleet, person)
    return fleet


def seed_machine(fleet: Fleet, plan: PlannedMachine) -> Machine:
    """The fleet's machine with this serial, made with its site and model if it is not there. Raises DemoError."""
    known = Machine.objects.filter(fleet=fleet, serial=plan.serial).first()
    if known is not None:
        return known
    site, _ = Site.objects.get_or_create(
        fleet=fleet,
        name=plan.site.name,
        defaults={
            "address": plan.site.address,
            "city": plan.site.city,
            "country": plan.site.country,
            "time_zone": plan.site.time_zone,
            "latitude": plan.site.latitude,
            "longitude": plan.site.longitude,
            "notes": plan.site.notes,
        },
    )
    model, _ = MachineModel.objects.get_or_create(
        name=plan.model.name, defaults={"manufacturer": plan.model.manufacturer, "notes": plan.model.notes}
    )
    return Machine.objects.create(
        fleet=fleet,
        site=site,
        model=model,
        serial=plan.serial,
        name=plan.name,
        vpn_address=allocate_address(fleet) if has_vpn() else _free_address(plan.address),
    )


def seed_person(fleet: Fleet, plan: PlannedPerson) -> User:
    """The person, made without a password if there is nobody of this name, and one of the fleet's operators."""
    user, made = User.objects.get_or_create(
        username=plan.username,
        defaults={
            "first_name": plan.first_name,
            "last_name": plan.last_name,
            "email": f"{plan.username}@example.com",
            "is_staff": plan.superuser,
            "is_superuser": plan.superuser,
        },
    )
    if made:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    operator, made = Operator.objects.get_or_create(
        user=user,
        defaults={
            "role": Operator.Role.SUPERVISOR if plan.supervisor else Operator.Role.OPERATOR,
            "time_zone": plan.time_zone,
        },
    )
    if made:
        operator.fleets.add(fleet)
    return user


def _free_address(wanted: str) -> str:
    """The wanted address, or the next one that no machine has; raises DemoError when no machine may have it."""
    address = ipaddress.ip_address(wanted)
    while Machine.objects.filter(vpn_address=str(address)).exists():
        address += 1
    try:
        get_driver().check_address(str(address))
    except AddressError as error:
        raise DemoError(
            f"The demo's machines live on this computer, at addresses like {wanted}. {error} "
            "Leave VPN and VPN_NETWORK at their defaults for the demo."
        ) from error
    return str(address)
