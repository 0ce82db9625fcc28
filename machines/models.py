"""The fleet's rows: fleets, sites, machine models, machines, their tokens, the people, and the security record."""

from __future__ import annotations

import zoneinfo
from typing import Any

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models, transaction
from django.utils import timezone

from machines.languages import LanguagesField
from machines.rota import public_holidays
from machines.rota_models import phone_validator
from machines.vpn.networks import check_part

# What things may be called: letters, digits and a few marks; never markup, separators or newlines (T6, T20).
serial_validator = RegexValidator(
    r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z",
    "A serial has 1 to 64 letters, digits, dots, dashes or underscores and begins with a letter or digit.",
)
country_validator = RegexValidator(r"\A[A-Z]{2}\Z", "A country is its two capital letters of ISO 3166, as in IT.")
# A step of the ladder may wait a day at most.
_STEP = MaxValueValidator(86_400)


def validate_time_zone(name: str) -> None:
    """Raises ValidationError for what is no IANA time zone."""
    if name not in zoneinfo.available_timezones():
        raise ValidationError(f"{name!r} is no IANA time zone; expected a name as in Europe/Rome.")


class User(AbstractUser):
    """A person who signs in."""

    class Meta:
        db_table = "machines_user"

    @property
    def display_name(self) -> str:
        """The name that colleagues and the person at the machine read."""
        return self.get_full_name() or self.get_username()


class Fleet(models.Model):
    """A tenant: what belongs to one fleet does not exist for people of another."""

    name = models.CharField(max_length=80, unique=True)
    slug = models.SlugField(unique=True)
    max_open_sessions = models.PositiveIntegerField(
        "open rescues at most",
        default=50,
        help_text="How many may be open at once; a press beyond that waits for a gateway.",
    )
    warm_gateways = models.PositiveSmallIntegerField(
        "gateways kept ready",
        null=True,
        blank=True,
        validators=[MaxValueValidator(20)],
        help_text="So many are started before help is pressed, 0 to 20; empty: the installation's default.",
    )
    answer_deadline_s = models.PositiveIntegerField(
        "seconds until an unclaimed request ends", null=True, blank=True, help_text="Empty: the installation's default."
    )
    vpn_network = models.CharField(
        "VPN network",
        max_length=43,
        blank=True,
        help_text="Where its machines get their addresses, as in 10.77.4.0/22; empty: anywhere in VPN_NETWORK.",
    )
    ask_next_after_s = models.PositiveIntegerField(
        "seconds until the next is asked",
        null=True,
        blank=True,
        validators=[_STEP],
        help_text="After the one before, without a claim; empty: the installation's default.",
    )
    ask_supervisors_after_s = models.PositiveIntegerField(
        "seconds until the supervisors are asked",
        null=True,
        blank=True,
        validators=[_STEP],
        help_text="After the last of those on duty; empty: the installation's default.",
    )
    ask_last_resort_after_s = models.PositiveIntegerField(
        "seconds until the last resort is told",
        null=True,
        blank=True,
        validators=[_STEP],
        help_text="After the supervisors; empty: the installation's default.",
    )
    last_resort_email = models.EmailField(
        "e-mail address of last resort", blank=True, help_text="Told when nobody else has answered."
    )
    last_resort_phone = models.CharField(
        "phone number of last resort",
        max_length=16,
        blank=True,
        validators=[phone_validator],
        help_text="Gets an SMS then, as in +390212345678.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        self._check_ladder()
        if self.vpn_network:
            others = Fleet.objects.exclude(pk=self.pk).exclude(vpn_network="").values_list("name", "vpn_network")
            try:
                self.vpn_network = str(check_part(self.vpn_network, of=settings.VPN_NETWORK, others=others))
            except ValueError as error:
                raise ValidationError({"vpn_network": str(error)}) from error

    def _check_ladder(self) -> None:
        """Raises ValidationError where a request ends before the ladder can: then the last resort is never told."""
        own = (self.ask_next_after_s, self.ask_supervisors_after_s, self.ask_last_resort_after_s)
        if self.answer_deadline_s is None and own == (None, None, None):
            return  # the installation's own, which nobody can mend here
        usual = (settings.ASK_NEXT_AFTER_S, settings.ASK_SUPERVISORS_AFTER_S, settings.ASK_LAST_RESORT_AFTER_S)
        needed = sum(default if value is None else value for value, default in zip(own, usual, strict=True))
        deadline = self.answer_deadline_s or settings.ANSWER_DEADLINE_S
        if deadline < needed:
            raise ValidationError(
                {
                    "answer_deadline_s": f"A request would end after {deadline} s, before everybody was asked: asking "
                    f"takes {needed} s, which is the three times below together. Give it {needed} s or more, or "
                    "shorten those."
                }
            )


class Site(models.Model):
    """A place with machines; its time zone gives the local time there."""

    fleet = models.ForeignKey(Fleet, on_delete=models.PROTECT, related_name="sites")
    name = models.CharField(max_length=80)
    address = models.CharField(max_length=200, blank=True)
    city = models.CharField(max_length=80)
    country = models.CharField(max_length=2, validators=[country_validator])
    time_zone = models.CharField(max_length=64, validators=[validate_time_zone])
    latitude = models.FloatField(null=True, blank=True, validators=[MinValueValidator(-90), MaxValueValidator(90)])
    longitude = models.FloatField(null=True, blank=True, validators=[MinValueValidator(-180), MaxValueValidator(180)])
    languages = LanguagesField(help_text="Spoken there, as in it, en: who speaks one is asked first. Empty: any.")
    closed_on_public_holidays = models.BooleanField(
        default=False, help_text="Those of its whole country; add what is a region's own as closures."
    )
    notes = models.TextField(blank=True, help_text="How to get in, whom to ask there.")

    class Meta:
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["fleet", "name"], name="one_site_name_a_fleet")]

    def __str__(self) -> str:
        return f"{self.name}, {self.city}"

    def clean(self) -> None:
        super().clean()
        if self.closed_on_public_holidays and self.country and not public_holidays.is_known(self.country):
            raise ValidationError(
                {
                    "closed_on_public_holidays": f"There is no calendar of public holidays for {self.country}; "
                    "leave this off and add the days as closures."
                }
            )


class MachineModel(models.Model):
    """A make of machine."""

    name = models.CharField(max_length=80, unique=True)
    manufacturer = models.CharField(max_length=80, blank=True)
    notes = models.TextField(blank=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Machine(models.Model):
    """A coffee vending machine and the one VPN address it may speak from and be reached at."""

    fleet = models.ForeignKey(Fleet, on_delete=models.PROTECT, related_name="machines")
    site = models.ForeignKey(Site, on_delete=models.PROTECT, related_name="machines")
    model = models.ForeignKey(MachineModel, on_delete=models.PROTECT, related_name="machines")
    serial = models.CharField(max_length=64, validators=[serial_validator])
    name = models.CharField(max_length=80, blank=True, help_text="Where it stands at its site, as in: lobby, left.")
    vpn_address = models.GenericIPAddressField(unique=True)
    is_active = models.BooleanField(default=True, help_text="Off: its calls are refused and open tunnels are cut.")
    frozen_at = models.DateTimeField(
        null=True, blank=True, editable=False, help_text="Since when it is admitted nowhere, until somebody has looked."
    )
    frozen_reason = models.CharField(max_length=200, blank=True, editable=False)
    last_seen_at = models.DateTimeField(null=True, blank=True, editable=False)
    software = models.CharField(max_length=80, blank=True, editable=False)
    faults = models.JSONField(default=list, blank=True, editable=False)
    rtt_ms = models.PositiveIntegerField(null=True, blank=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["serial"]
        constraints = [models.UniqueConstraint(fields=["fleet", "serial"], name="one_serial_a_fleet")]

    def __str__(self) -> str:
        return f"{self.serial} {self.name}".strip()

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves, and remembers the address for ever; raises IntegrityError when it is, or was, another machine's."""
        with transaction.atomic():
            super().save(*args, **kwargs)
            if not VpnAddress.objects.filter(address=self.vpn_address, machine=self).exists():
                VpnAddress.objects.create(address=self.vpn_address, machine=self)

    def clean(self) -> None:
        super().clean()
        if self.site_id and self.fleet_id and self.site.fleet_id != self.fleet_id:
            raise ValidationError({"site": f"{self.site} belongs to {self.site.fleet}, the machine to {self.fleet}."})
        if self.vpn_address:
            from machines.vpn.base import AddressError, get_driver

            try:
                get_driver().check_address(self.vpn_address)
            except AddressError as error:
                raise ValidationError({"vpn_address": str(error)}) from error
            if VpnAddress.objects.filter(address=self.vpn_address).exclude(machine=self.pk).exists():
                raise ValidationError(
                    {"vpn_address": f"{self.vpn_address} was another machine's; take one never used."}
                )


class MachineToken(models.Model):
    """A machine's bearer token, `prefix.secret`; only the secret's SHA-256 is kept, two live ones allow rotation."""

    machine = models.ForeignKey(Machine, on_delete=models.CASCADE, related_name="tokens")
    prefix = models.CharField(max_length=16, unique=True, editable=False)
    secret_sha256 = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.prefix}… of {self.machine.serial}"


class Operator(models.Model):
    """What a person may do, and in which fleets."""

    class Role(models.TextChoices):
        OPERATOR = "operator", "Operator"
        SUPERVISOR = "supervisor", "Supervisor"

    user = models.OneToOneField(User, on_delete=models.CASCADE, related_name="operator")
    fleets = models.ManyToManyField(Fleet, related_name="operators")
    role = models.CharField(max_length=16, choices=Role, default=Role.OPERATOR)
    time_zone = models.CharField(max_length=64, default="UTC", validators=[validate_time_zone])
    phone = models.CharField(
        max_length=32, blank=True, validators=[phone_validator], help_text="For SMS, as in +390212345678."
    )
    languages = LanguagesField(help_text="As in it, en.")
    skills = models.ManyToManyField(
        MachineModel, blank=True, related_name="operators", help_text="The models they can repair; none chosen: all."
    )
    wants_email = models.BooleanField("wants e-mail", default=True, help_text="Messages also come by e-mail.")
    wants_sms = models.BooleanField(
        "wants text messages (SMS)", default=False, help_text="Messages also come by SMS, to the phone number below."
    )
    is_available = models.BooleanField("available", default=True, help_text="Off: not asked, until switched on again.")
    away_until = models.DateTimeField(
        null=True, blank=True, help_text="When that switch comes on again by itself; empty: by hand."
    )

    class Meta:
        ordering = ["user__username"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(is_available=False) | models.Q(away_until=None),
                name="only_who_is_away_comes_back",
                violation_error_message="Who is available is not away: switch it off, or leave the time empty.",
            )
        ]

    def __str__(self) -> str:
        return self.user.display_name

    def clean(self) -> None:
        super().clean()
        if self.wants_sms and not self.phone:
            raise ValidationError({"phone": "For messages by SMS there must be a phone number."})

    @property
    def is_supervisor(self) -> bool:
        return self.role == self.Role.SUPERVISOR


class SecurityEvent(models.Model):
    """What happened that a security review wants to know; rows are only ever added (triggers see to it)."""

    at = models.DateTimeField(default=timezone.now, db_index=True)
    kind = models.CharField(max_length=64, db_index=True)
    fleet = models.ForeignKey(Fleet, null=True, on_delete=models.PROTECT, related_name="+")
    machine = models.ForeignKey(Machine, null=True, on_delete=models.PROTECT, related_name="+")
    user = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    address = models.CharField(max_length=64, blank=True, help_text="The peer's address as the socket has it.")
    detail: Any = models.JSONField(default=dict)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M:%S} {self.kind}"


# At the end, since these rows refer to those above.
from machines.rota_models import Absence, Closure, KeptAnswer, OpeningHours, Shift, WorkingHours  # noqa: E402
from machines.vpn_models import (  # noqa: E402
    EnrolmentCode,
    GatewayIdentity,
    KeptProfile,
    ProfileDelivery,
    TunnelEnding,
    VpnAddress,
    VpnAuthority,
    VpnConnection,
    VpnIdentity,
)

__all__ = [
    "Absence",
    "Closure",
    "EnrolmentCode",
    "Fleet",
    "GatewayIdentity",
    "KeptAnswer",
    "KeptProfile",
    "Machine",
    "MachineModel",
    "MachineToken",
    "OpeningHours",
    "Operator",
    "ProfileDelivery",
    "SecurityEvent",
    "Shift",
    "Site",
    "TunnelEnding",
    "User",
    "VpnAddress",
    "VpnAuthority",
    "VpnConnection",
    "VpnIdentity",
    "WorkingHours",
    "country_validator",
    "phone_validator",
    "serial_validator",
    "validate_time_zone",
]
