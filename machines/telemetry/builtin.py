"""The telemetry that needs nothing else: our own rota says who is responsible, heartbeats are a machine's last word,
and a profile is kept, encrypted, until a person downloads it, once.
"""

from __future__ import annotations

from datetime import datetime, timedelta, tzinfo

from django.db import transaction
from django.utils import timezone

from machines import identities, rota_rows, services
from machines.errors import AlreadyHandedOver, IdentityError
from machines.models import KeptProfile, Machine, User, VpnConnection, VpnIdentity
from machines.rota import duty
from machines.telemetry.base import Candidate, Duty, LastWord, Profile
from machines.vpn.base import has_vpn

# Time for a roll-out; what nobody fetched by then is erased, and what it admits is revoked.
KEPT_FOR = timedelta(days=30)


class BuiltinTelemetry:
    """Everything it knows is in the database: it never waits for anything else. For profiles see `download`."""

    def who_is_responsible(self, machine: Machine, *, now: datetime) -> Duty:
        """Those on a shift at this site by rank, then on the fleet's; then whoever else may be asked now.

        Equal ones: who speaks the site's language, then by name. At a closed site only those on a shift are asked, if
        there are any: nobody is woken for a machine that nobody stands at. In seven queries at most.
        """
        people, place = rota_rows.people_for(machine, now=now), rota_rows.place_of(machine.site)
        found = duty.in_order(people, place, now=now, is_open=lambda: rota_rows.is_open(machine.site, now=now))
        if not found:
            return Duty(candidates=(), source="builtin", next_at=duty.next_moment(people, place, now=now))
        return Duty(tuple(Candidate(one.name, _why(one, place.zone)) for one in found), source="builtin")

    def last_word(self, machine: Machine) -> LastWord | None:
        """What the last heartbeat said, and how the machine stands in our VPN; its profile's version is a serial."""
        newest = (
            VpnConnection.objects.filter(machine=machine)
            .order_by("-since", "-pk")
            .values_list("heard_at", "ended_at", "identity__serial")
            .first()
        )
        now = Machine.objects.filter(pk=machine.pk).values_list("last_seen_at", "software", "faults").first()
        if now is None or (now[0] is None and newest is None):
            return None
        seen_at, software, faults = now
        heard_at, ended_at, serial = newest or (None, None, "")
        return LastWord(
            at=max((at for at in (seen_at, heard_at) if at), default=None),
            is_connected=newest is not None and ended_at is None if has_vpn() else None,
            software=software,
            faults=tuple(str(fault) for fault in faults),
            profile_version=serial,
        )

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        now = timezone.now()
        with transaction.atomic():
            Machine.objects.select_for_update(of=("self",)).get(pk=machine.pk)
            if KeptProfile.objects.filter(identity_serial=profile.identity_serial).exists():
                return
            for older in KeptProfile.objects.filter(machine=machine, ended_at=None).defer("profile"):
                _end(KeptProfile.objects.filter(pk=older.pk), now)
                # It has never left this place: nobody will miss what it admits.
                if identity := _identity(older.identity_serial, now):
                    identities.revoke(identity, reason="replaced by a newer profile", now=now)
            KeptProfile.objects.create(
                machine=machine, identity_serial=profile.identity_serial, profile=profile.text, kept_at=now
            )


def kept_for(machine: Machine) -> KeptProfile | None:
    """The profile that waits for its download, if any; without its text."""
    waiting = KeptProfile.objects.filter(machine=machine, ended_at=None).defer("profile").first()
    if waiting is None or not _identity(waiting.identity_serial, timezone.now()):
        return None
    return waiting


def download(machine: Machine, *, user: User, address: str = "", now: datetime | None = None) -> Profile:
    """The machine's profile, for the first who asks; then it is here no more.

    Raises AlreadyHandedOver for the second, IdentityError when there is none or what it admits was revoked.
    """
    now = now or timezone.now()
    with transaction.atomic():
        identities.require_admissible(machine)
        newest = KeptProfile.objects.select_for_update(of=("self",)).filter(machine=machine).order_by("-pk").first()
        if newest is None:
            raise IdentityError(f"There is no profile of {machine.serial} here. Make one first.")
        if newest.profile is None:
            raise AlreadyHandedOver(_gone(newest))
        if not _identity(newest.identity_serial, now):
            raise IdentityError(f"This profile of {machine.serial} was revoked. Make a new one.")
        profile = Profile(identity_serial=newest.identity_serial, text=newest.profile)
        KeptProfile.objects.filter(pk=newest.pk).update(profile=None, ended_at=now, downloaded_by=user)
        services.record_security_event(
            "profile_downloaded",
            machine=machine,
            user=user,
            address=address,
            detail={"serial": newest.identity_serial},
        )
    return profile


def forget_stale(*, now: datetime | None = None) -> int:
    """Erases what nobody fetched within KEPT_FOR, or what admits nobody any more; how many profiles that were."""
    now = now or timezone.now()
    ended = 0
    for row in KeptProfile.objects.filter(ended_at=None).defer("profile").select_related("machine__fleet"):
        identity = _identity(row.identity_serial, now)
        if identity and row.kept_at > now - KEPT_FOR:
            continue
        with transaction.atomic():
            ended += _end(KeptProfile.objects.filter(pk=row.pk, ended_at=None), now)
            if identity:
                identities.revoke(identity, reason="its profile was never downloaded", now=now)
    return ended


def _why(one: duty.Found, zone: tzinfo) -> str:
    """As short as can be; times are those of the machine's site."""
    until = f" until {one.until.astimezone(zone):%H:%M}" if one.until else ""
    if one.rank is not None:
        return f"on the rota {'here' if one.is_here else 'for every site'}{until}"
    return f"at work{until} there" if until else "available"


def _identity(serial: str, now: datetime) -> VpnIdentity | None:
    good = VpnIdentity.objects.filter(serial=serial, revoked_at=None, expires_at__gt=now)
    return good.select_related("machine__fleet").defer("private_key", "tls_crypt_key").first()


def _end(rows: object, now: datetime) -> int:
    return int(rows.update(profile=None, ended_at=now))  # type: ignore[attr-defined]


def _gone(row: KeptProfile) -> str:
    if row.downloaded_by is None:
        return f"The profile of {row.machine.serial} was erased. Make a new one."
    return (
        f"The profile of {row.machine.serial} was downloaded at {row.ended_at:%H:%M} UTC by "
        f"{row.downloaded_by.display_name}, and is given out once. If it got lost, make a new one."
    )
