"""What changes the fleet's rows: tokens, heartbeats, the security record."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta

from django.db.models import Q
from django.utils import timezone

from machines.errors import AddressRefused, TokenRefused
from machines.models import Fleet, Machine, MachineToken, SecurityEvent, User

# "Last used" moves at most this often: a row write for each call would be the costliest part of it.
_SEEN_RESOLUTION = timedelta(seconds=10)


def issue_token(machine: Machine, *, user: User | None = None) -> str:
    """A new bearer token `prefix.secret` for a machine; the only time that its secret can be read."""
    prefix = secrets.token_hex(8)
    secret = secrets.token_urlsafe(32)
    MachineToken.objects.create(machine=machine, prefix=prefix, secret_sha256=_sha256(secret))
    record_security_event("token_issued", machine=machine, user=user, detail={"prefix": prefix})
    return f"{prefix}.{secret}"


def revoke_token(token: MachineToken, *, user: User | None = None, now: datetime | None = None) -> None:
    """Ends a token at once; revoking it again changes nothing."""
    revoked = MachineToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=now or timezone.now())
    if revoked:
        record_security_event("token_revoked", machine=token.machine, user=user, detail={"prefix": token.prefix})


def authenticate_machine(token: str, *, peer_address: str) -> Machine:
    """The machine that holds this token and speaks from its own VPN address.

    Both must agree (T13). Raises TokenRefused or AddressRefused; the latter leaves a row in the security record.
    """
    prefix, dot, secret = token.partition(".")
    row = (
        MachineToken.objects.select_related("machine__site", "machine__fleet")
        .filter(prefix=prefix, revoked_at=None)
        .first()
        if dot and len(token) <= 256
        else None
    )
    # The comparison runs also for unknown prefixes, so that time does not tell which exist.
    stored = row.secret_sha256 if row else _sha256("")
    if not hmac.compare_digest(stored, _sha256(secret)) or row is None:
        raise TokenRefused("The machine token is not valid. Expected `Authorization: Bearer <prefix>.<secret>`.")
    machine = row.machine
    if not machine.is_active:
        raise TokenRefused(f"Machine {machine.serial} is switched off in the fleet. Ask its fleet manager.")
    if machine.frozen_at:
        raise TokenRefused(f"Machine {machine.serial} is frozen until a supervisor has looked at it.")
    if peer_address != machine.vpn_address:
        record_security_event(
            "address_refused", machine=machine, address=peer_address, detail={"expected": machine.vpn_address}
        )
        raise AddressRefused(f"This token belongs to another address than {peer_address}. The call was recorded.")
    now = timezone.now()
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now - _SEEN_RESOLUTION)
    if MachineToken.objects.filter(stale, pk=row.pk).update(last_used_at=now):
        Machine.objects.filter(pk=machine.pk).update(last_seen_at=now)
    return machine


def record_heartbeat(
    machine: Machine, *, software: str | None, faults: list[str] | None, rtt_ms: int | None, now: datetime | None = None
) -> None:
    """Keeps what the machine says of itself; what it leaves out stays as it was."""
    values: dict[str, object] = {"last_seen_at": now or timezone.now()}
    if software is not None:
        values["software"] = software
    if faults is not None:
        values["faults"] = faults
    if rtt_ms is not None:
        values["rtt_ms"] = rtt_ms
    Machine.objects.filter(pk=machine.pk).update(**values)


def record_security_event(
    kind: str,
    *,
    fleet: Fleet | None = None,
    machine: Machine | None = None,
    user: User | None = None,
    address: str = "",
    detail: dict[str, object] | None = None,
) -> None:
    """Adds a row to the security record; `detail` never holds a secret."""
    SecurityEvent.objects.create(
        kind=kind,
        fleet=fleet or (machine.fleet if machine else None),
        machine=machine,
        user=user,
        address=address,
        detail=detail or {},
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
