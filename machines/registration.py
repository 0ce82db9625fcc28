"""Registering machines: what an operator types on a phone beside one, and what a manager imports, go through here."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import IntegrityError, transaction

from machines import services
from machines.addresses import allocate_address
from machines.errors import NotAllowed, RegistrationRefused
from machines.models import Machine, MachineModel, Site, User
from machines.profile_passes import request_profile
from machines.selectors import fleets_of, operator_of
from machines.vpn.base import has_vpn

NAME_EXPECTED = (
    "A name has up to 80 letters, digits, blanks and the marks , . ' ( ) & # : + / ° _ -, and begins with a letter or "
    "digit; never two dots in a row."
)
# It goes into pages, CSV files and the records: no control characters, no quotes, no markup, no formula, no `../`.
name_validator = RegexValidator(re.compile(r"\A(?!.*\.\.)[^\W_](?:[^\W_]|[ ,.'’()&#:+/°_-]){0,79}\Z"), NAME_EXPECTED)


def may_register(user: User) -> bool:
    """Operators register machines in their fleets."""
    return operator_of(user) is not None


def register(*, site: Site, model: MachineModel, serial: str, name: str, user: User) -> Machine:
    """The new machine, with the next free address, in its site's fleet; its VPN profile goes to telemetry.

    Whoever enrols it by code instead ends that profile's identity by it. Raises NotAllowed for another fleet's site,
    RegistrationRefused for a field that is not what it may be, and NoAddressLeft.
    """
    if not fleets_of(user).filter(pk=site.fleet_id).exists():
        raise NotAllowed("You can register machines in your own fleets only.")
    with transaction.atomic():
        machine = add(site=site, model=model, serial=serial, name=name, user=user)
        if has_vpn():
            request_profile(machine, user=user)
    return machine


def add(
    *, site: Site, model: MachineModel, serial: str, name: str, user: User, vpn_address: str | None = None
) -> Machine:
    """As `register`, for a caller who has seen to what the person may do, and may have allocated the address."""
    errors: dict[str, list[str]] = {}
    if name:
        _check(name_validator, "name", name, errors)
    machine = Machine(fleet=site.fleet, site=site, model=model, serial=serial, name=name)
    try:
        machine.clean_fields(exclude=["vpn_address", "fleet", "site", "model"])
    except ValidationError as error:
        for field, words in error.message_dict.items():
            errors.setdefault(field, words)
    if not errors and (known := _namesake(machine)):
        errors["serial"] = [known]
    if errors:
        raise RegistrationRefused(errors)
    try:
        with transaction.atomic():
            machine.vpn_address = vpn_address or allocate_address(site.fleet)
            machine.save()
            services.record_security_event(
                "machine_registered", machine=machine, user=user, detail={"vpn_address": machine.vpn_address}
            )
    except IntegrityError:
        if known := _namesake(machine):  # somebody else was faster
            raise RegistrationRefused({"serial": [known]}) from None
        raise
    return machine


def _namesake(machine: Machine) -> str:
    if Machine.objects.filter(fleet=machine.fleet, serial=machine.serial).exists():
        return f"{machine.fleet.name} has a machine with this serial already."
    return ""


def _check(validator: Any, field: str, value: str, errors: dict[str, list[str]]) -> None:
    try:
        validator(value)
    except ValidationError as error:
        errors[field] = list(error.messages)
