"""How a machine stands in the VPN, for those who operate it: connected or not, its identities, what is on its way."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from machines.models import EnrolmentCode, KeptProfile, Machine, ProfileDelivery, VpnConnection, VpnIdentity
from machines.profile_passes import open_delivery
from machines.telemetry import builtin

# Twice the time in which a machine's OpenVPN says at least something.
SILENT_AFTER = timedelta(seconds=20)
_ENDED_SHOWN = 3


@dataclass(frozen=True, slots=True)
class IdentityStanding:
    """An identity, and in a word what has become of it: new, in_use, expired or revoked."""

    row: VpnIdentity
    state: str

    @property
    def is_live(self) -> bool:
        return self.state in {"new", "in_use"}


@dataclass(frozen=True, slots=True)
class Standing:
    """All that the machine's page shows of the VPN; nothing of it is secret."""

    connection: VpnConnection | None
    heard_ago_s: int
    is_silent: bool
    last_connection: VpnConnection | None
    identities: list[IdentityStanding]
    delivery: ProfileDelivery | None
    failed_delivery: ProfileDelivery | None
    kept: KeptProfile | None
    newest_code: EnrolmentCode | None

    @property
    def version(self) -> str:
        """Changes when something other than the figures of the line does."""
        parts: list[Any] = [
            *[(one.row.pk, one.state) for one in self.identities],
            *[row.pk if row else 0 for row in (self.delivery, self.failed_delivery, self.kept)],
            self.delivery_words,
        ]
        return ".".join(str(part) for part in parts)

    @property
    def delivery_words(self) -> str:
        """How far the profile on its way is, in a sentence; empty where there is none."""
        if self.delivery is None:
            return ""
        error = self.delivery.last_error
        if self.delivery.identity_id:
            if error:
                return f"The profile is made; delivering it is tried again. {error}"
            return "The profile is made and on its way."
        if error:
            return f"Telemetry could not be reached for it; it is tried again. {error}"
        if self.delivery.attempts:  # without an identity made here: the machine makes its own key
            return "The machine is invited to enrol, and does so as soon as telemetry reaches it."
        return "The profile is being made…"

    @property
    def is_kept_here(self) -> bool:
        """Whether a profile waits here for its download, rather than going to the machine by telemetry."""
        return bool(settings.TELEMETRY == "builtin")


def standing_of(machine: Machine, *, now: datetime | None = None) -> Standing:
    """How the machine stands now."""
    now = now or timezone.now()
    newest = VpnConnection.objects.filter(machine=machine).order_by("-since", "-pk").first()
    connection = newest if newest and newest.ended_at is None else None
    heard_ago = now - connection.heard_at if connection else timedelta()
    delivery = open_delivery(machine)
    last = ProfileDelivery.objects.filter(machine=machine).defer("profile").order_by("-pk").first()
    return Standing(
        connection=connection,
        heard_ago_s=max(0, round(heard_ago.total_seconds())),
        is_silent=heard_ago >= SILENT_AFTER,
        last_connection=newest if connection is None else None,
        identities=_identities(machine, now),
        delivery=delivery,
        failed_delivery=last if last and last.failed_at else None,
        kept=None if delivery else builtin.kept_for(machine),
        newest_code=EnrolmentCode.objects.filter(machine=machine).defer("answer").order_by("-pk").first(),
    )


def _identities(machine: Machine, now: datetime) -> list[IdentityStanding]:
    rows = machine.vpn_identities.defer("private_key", "tls_crypt_key", "certificate").order_by("-pk")
    found = [IdentityStanding(row, _state(row, now)) for row in rows[:50]]
    live = [one for one in found if one.is_live]
    return live + [one for one in found if not one.is_live][:_ENDED_SHOWN]


def _state(row: VpnIdentity, now: datetime) -> str:
    if row.revoked_at:
        return "revoked"
    if row.expires_at <= now:
        return "expired"
    return "in_use" if row.proven_at else "new"
