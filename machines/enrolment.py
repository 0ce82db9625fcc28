"""Enrolment: a code that an operator reads out at the machine becomes the machine's identity, token and profile.

A code has 100 random bits, lives for CODE_LIFE and counts once (T15). The same request again, for the same key, is a
replay by a machine whose answer got lost: it hears the same answer, which is kept encrypted until the code's time is
up. Another key with a used code means that two have the code: the machine is frozen until a supervisor has looked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives import serialization
from django.conf import settings
from django.db import transaction
from django.utils import timezone

from machines import identities, services
from machines.errors import EnrolmentRefused, IdentityError, NoVpn, RequestRefused
from machines.models import EnrolmentCode, Machine, MachineToken, User
from machines.vpn import pki
from machines.vpn.base import has_vpn

logger = logging.getLogger(__name__)

CODE_LIFE = timedelta(minutes=15)
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: 5 bits a character, none to be confused
_LENGTH, _GROUP = 20, 5
_AS_CROCKFORD_READS = str.maketrans("ILO", "110", "- ")


@dataclass(frozen=True, slots=True)
class IssuedCode:
    """A new code, in four groups; the only time that it can be read."""

    text: str = field(repr=False)
    expires_at: datetime

    @property
    def address(self) -> str:
        """What the QR picture holds; browsers and agents keep what stands after # to themselves."""
        return f"{portal_address()}#{self.text}"


def portal_address() -> str:
    """Where machines enrol."""
    return f"{settings.PUBLIC_ORIGINS[0]}/enrol/"


def require_vpn() -> None:
    """Raises NoVpn where there is none."""
    if not has_vpn():
        raise NoVpn(
            "This installation reaches its machines without a VPN, so there is nothing to enrol. "
            f"Found VPN={settings.VPN}, expected VPN=openvpn."
        )


def issue_code(machine: Machine, *, user: User | None, now: datetime | None = None) -> IssuedCode:
    """A new code for the machine; the ones before it that nobody has used end with it.

    Raises NoVpn, and IdentityError for a machine that is admitted nowhere.
    """
    require_vpn()
    now = now or timezone.now()
    code = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    with transaction.atomic():
        machine = Machine.objects.select_for_update(of=("self",)).select_related("fleet").get(pk=machine.pk)
        identities.require_admissible(machine)
        unused = EnrolmentCode.objects.filter(machine=machine, used_at=None, expires_at__gt=now, created_at__lt=now)
        unused.update(expires_at=now)
        row = EnrolmentCode.objects.create(
            machine=machine, code_sha256=_sha256(code), created_by=user, created_at=now, expires_at=now + CODE_LIFE
        )
        services.record_security_event("enrolment_code_made", machine=machine, user=user, detail={"code": row.pk})
    return IssuedCode("-".join(code[at : at + _GROUP] for at in range(0, _LENGTH, _GROUP)), row.expires_at)


def enrol(code: str, csr_pem: str, *, address: str, now: datetime | None = None) -> dict[str, Any]:
    """What the machine with this code needs to join: its serial, profile, API address, token and VPN address.

    Raises EnrolmentRefused, RequestRefused, IdentityError or NoVpn; none of them uses the code up.
    """
    require_vpn()
    now = now or timezone.now()
    used_for = _key_digest(csr_pem)
    with transaction.atomic():
        # The look-up is by a digest of 100 random bits: how long it takes tells nothing of the codes there are.
        row = (
            EnrolmentCode.objects.select_for_update(of=("self",))
            .select_related("machine__fleet", "created_by")
            .filter(code_sha256=_sha256(_normalised(code)))
            .first()
        )
        if row is None:
            raise EnrolmentRefused(
                "This is no code of ours. Look for a slip of the pen, or ask for a new code in the portal.",
                code="enrolment_code_unknown",
            )
        if row.used_at is None:
            return _use(row, csr_pem, used_for, address=address, now=now)
        if hmac.compare_digest(row.used_for, used_for):
            return _replay(row, now)
    _sound_alarm(row, address=address, now=now)
    raise EnrolmentRefused(
        f"This code was used before, for another key, so {row.machine.serial} is frozen. "
        "A supervisor of its fleet must look at it and unfreeze it.",
        code="enrolment_code_used",
    )


def forget_answers(*, now: datetime | None = None) -> int:
    """Erases the answers of codes whose time is up; how many those were."""
    return EnrolmentCode.objects.filter(answer__isnull=False, expires_at__lte=now or timezone.now()).update(answer=None)


def _use(row: EnrolmentCode, csr_pem: str, used_for: str, *, address: str, now: datetime) -> dict[str, Any]:
    if row.expires_at <= now:
        raise _out_of_time()
    machine = row.machine
    # What never connected and would only stand in the way: whoever enrols now is at the machine.
    for one in machine.vpn_identities.filter(revoked_at=None, proven_at=None).defer("private_key", "tls_crypt_key"):
        identities.revoke(one, reason="replaced by an enrolment", now=now)
    identity = identities.issue_identity(machine, csr_pem=csr_pem, user=row.created_by, now=now)
    profile = identities.hand_over(identity, now=now)
    _leave_one_token(machine, now)
    host, port = settings.MACHINE_API_BIND
    answer = {
        "serial": machine.serial,
        "profile": profile,
        "api": {"url": f"http://{host}:{port}", "token": services.issue_token(machine)},
        "vpn_address": machine.vpn_address,
    }
    row.used_at, row.used_from, row.used_for = now, address or None, used_for
    row.identity, row.answer = identity, json.dumps(answer)
    row.save(update_fields=["used_at", "used_from", "used_for", "identity", "answer"])
    services.record_security_event(
        "machine_enrolled", machine=machine, address=address, detail={"code": row.pk, "serial": identity.serial}
    )
    return answer


def _replay(row: EnrolmentCode, now: datetime) -> dict[str, Any]:
    if row.answer is None or row.expires_at <= now:
        raise _out_of_time()
    identities.require_admissible(row.machine)
    if row.identity is None or row.identity.revoked_at:
        raise IdentityError(f"What {row.machine.serial} got for this code was revoked since. Ask for a new code.")
    answer: dict[str, Any] = json.loads(row.answer)
    return answer


def _sound_alarm(row: EnrolmentCode, *, address: str, now: datetime) -> None:
    reason = f"Its enrolment code was used a second time, from {address or 'an unknown address'}, with another key."
    with transaction.atomic():
        services.record_security_event(
            "enrolment_reused",
            machine=row.machine,
            address=address,
            detail={"code": row.pk, "first_used_from": row.used_from or "", "words": reason},
        )
        identities.freeze(row.machine, reason, now=now)
        EnrolmentCode.objects.filter(pk=row.pk).update(answer=None)
    logger.warning("Machine %s is frozen. %s", row.machine.serial, reason)


def _leave_one_token(machine: Machine, now: datetime) -> None:
    """The newest token goes on working beside the new one, should the machine never get that; older ones end."""
    live = MachineToken.objects.filter(machine=machine, revoked_at=None).order_by("-created_at", "-pk")
    for token in list(live)[1:]:
        services.revoke_token(token, now=now)


def _out_of_time() -> EnrolmentRefused:
    minutes = int(CODE_LIFE.total_seconds() // 60)
    return EnrolmentRefused(
        f"This code's time is up: a code is good for {minutes} minutes, until a newer one is made. "
        "Ask for a new code in the portal.",
        code="enrolment_code_expired",
    )


def _key_digest(csr_pem: str) -> str:
    try:
        key = pki.key_of_request(csr_pem)
    except pki.PkiError as error:
        raise RequestRefused(str(error)) from error
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def _normalised(code: str) -> str:
    return code.upper().translate(_AS_CROCKFORD_READS)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
