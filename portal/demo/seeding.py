"""Puts planned fleets in the database: what is missing is made, what is there stays as people have left it."""

from __future__ import annotations

import ipaddress

from django.db import transaction

from machines.identities import allocate_address
from machines.models import (
    Fleet,
    Machine,
    MachineModel,
    OpeningHours,
    Operator,
    Shift,
    Site,
    User,
    WorkingHours,
)
from machines.rota_models import Weekday
from machines.vpn.base import AddressError, get_driver, has_vpn
from portal.demo.errors import DemoError
from portal.demo.plan import (
    ASK_NEXT_AFTER_S,
    EVERY_DAY,
    PlannedFleet,
    PlannedMachine,
    PlannedModel,
    PlannedPerson,
    PlannedShift,
)
from sessions.models import ConnectionProfile


def seed_fleet(plan: PlannedFleet) -> Fleet:
    """The fleet with its machines, people, rota and connection profile; people have no password yet (see `logins`).

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
        if not fleet.shifts.exists():
            _seed_ladder(fleet, plan)
        for shift in plan.shifts:
            _seed_shift(fleet, shift)
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
    return Machine.objects.create(
        fleet=fleet,
        site=site,
        model=_seed_model(plan.model),
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
        _seed_abilities(operator, plan)
    return user


def _seed_model(plan: PlannedModel) -> MachineModel:
    model, _ = MachineModel.objects.get_or_create(
        name=plan.name, defaults={"manufacturer": plan.manufacturer, "notes": plan.notes}
    )
    return model


def _seed_abilities(operator: Operator, plan: PlannedPerson) -> None:
    operator.languages = list(plan.languages)
    operator.save(update_fields=["languages"])
    operator.skills.set([_seed_model(model) for model in plan.skills])
    if plan.working_hours is not None:
        starts, ends = plan.working_hours
        for weekday in Weekday:
            WorkingHours.objects.create(operator=operator, weekday=weekday, starts=starts, ends=ends)


def _seed_ladder(fleet: Fleet, plan: PlannedFleet) -> None:
    """What goes with a fleet's first rota, also where a demo from before there was one has made the rest."""
    fleet.ask_next_after_s = fleet.ask_next_after_s or ASK_NEXT_AFTER_S
    fleet.ask_supervisors_after_s = fleet.ask_supervisors_after_s or ASK_NEXT_AFTER_S
    fleet.ask_last_resort_after_s = fleet.ask_last_resort_after_s or ASK_NEXT_AFTER_S
    fleet.last_resort_email = fleet.last_resort_email or plan.last_resort_email
    fleet.save()
    for planned in {machine.site for machine in plan.machines}:
        site = Site.objects.filter(fleet=fleet, name=planned.name).first()
        if site is None:
            continue
        if not site.languages:
            site.languages = list(planned.languages)
            site.save(update_fields=["languages"])
        if planned.opening_hours is not None and not site.opening_hours.exists():
            opens, closes = planned.opening_hours
            for weekday in Weekday:
                OpeningHours.objects.create(site=site, weekday=weekday, opens=opens, closes=closes)
    for person in plan.people:
        operator = Operator.objects.get(user__username=person.username)
        if not operator.languages:
            _seed_abilities(operator, person)


def _seed_shift(fleet: Fleet, plan: PlannedShift) -> None:
    operator = Operator.objects.filter(user__username=plan.username, fleets=fleet).first()
    site = Site.objects.filter(fleet=fleet, name=plan.site.name).first() if plan.site else None
    if operator is None or (plan.site is not None and site is None):
        return  # somebody has sent the person elsewhere, or given the place another name
    duty = {"fleet": fleet, "site": site, "operator": operator}
    if not Shift.objects.filter(**duty).exists():
        Shift.objects.create(**duty, weekdays=EVERY_DAY, starts=plan.starts, ends=plan.ends, rank=plan.rank)


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
