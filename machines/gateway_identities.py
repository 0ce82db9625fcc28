"""Identities of gateways in the VPN: one an attempt, for a key that was born with the gateway and never leaves it.

They are issued by the worker, who knows from the driver at which address the gateway is, last for hours, and are
revoked with the end of the attempt. Who is admitted is asked of the apps above: an identity counts while its attempt
lives, whatever became of the one who should have revoked it. An address is another's only once the authorisation agent
has seen its last holder out, and no attempt lives that had it.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from machines import identities, services
from machines.errors import GatewayRefused, IdentityError, NoAddressLeft, RequestRefused
from machines.models import GatewayIdentity, VpnAuthority
from machines.vpn import networks, pki
from machines.vpn.profile import ClientProfile, ProfileError, client_profile

logger = logging.getLogger(__name__)

# Beyond what a gateway waits for its rescue and one screen is open: rescues have no fixed end. One that lasts longer
# loses its gateway, as the agent cuts off whose certificate has ended, and gets another.
_MARGIN = timedelta(hours=24)
# So many of the newest identities tell which addresses were used lately; there are 256 addresses at most.
_LATELY = 1024
_OVER = "its attempt is over"


@dataclass(frozen=True, slots=True)
class GatewayProfile:
    """What a gateway needs to join: `text` is its .ovpn without a key, `fingerprint` its certificate's SHA-256."""

    address: str
    fingerprint: str
    text: str = field(repr=False)


def certificate_life() -> timedelta:
    """How long a gateway's certificate lasts from its issue."""
    return timedelta(hours=settings.GATEWAY_WARM_HOURS, seconds=settings.TUNNEL_MAX_S) + _MARGIN


# --- which attempts live: told by the apps above ----------------------------------------------------------------------

_sources: list[Callable[[], Collection[str]]] = []


def register(live_attempts: Callable[[], Collection[str]]) -> None:
    """Adds one who knows of attempts; it is asked several times a second while there are identities."""
    if live_attempts not in _sources:
        _sources.append(live_attempts)


def _live_attempts() -> set[str]:
    return {attempt for source in _sources for attempt in source()}


# --- an identity's life -----------------------------------------------------------------------------------------------


def admit(attempt_id: str, csr_pem: str, *, now: datetime | None = None) -> GatewayProfile:
    """The attempt's identity for the key of this request: made the first time, the same one ever after.

    Another key than the first one's means that somebody else answers in the gateway's place: the identity is revoked,
    and the security record says so. Raises GatewayRefused then, and for an attempt that is over; RequestRefused for
    a request that cannot be signed; NoAddressLeft; IdentityError for settings that no profile can be made of.
    """
    now = now or timezone.now()
    try:
        key = pki.key_of_request(csr_pem)
    except pki.PkiError as error:
        raise RequestRefused(str(error)) from error
    authority = identities.ensure_authority(now=now)
    digest = pki.sha256_of_key(key)
    with transaction.atomic():
        # One at a time: two that are admitted at once must not get the same address.
        VpnAuthority.objects.select_for_update().only("pk").get(pk=1)
        row = GatewayIdentity.objects.filter(attempt_id=attempt_id).first()
        if (row is None or row.revoked_at is None) and attempt_id not in _live_attempts():
            raise GatewayRefused(f"Gateway {attempt_id} gets no identity: found no live attempt of that name.")
        if row is None:
            row = _issue(authority, attempt_id, key, digest, now)
    if row.key_sha256 != digest:
        words = f"Gateway {attempt_id} asked for an identity for another key than before."
        refuse(attempt_id, words, now=now)
        raise GatewayRefused(f"{words} It was given up: somebody else may have answered in its place.")
    if row.revoked_at or row.expires_at <= now:
        raise GatewayRefused(f"The identity of gateway {attempt_id} has ended: {row.revoke_reason or 'it expired'}.")
    return GatewayProfile(row.address, row.sha256, _profile(authority, row))


def withdraw(attempt_id: str, *, now: datetime | None = None, reason: str = _OVER) -> bool:
    """Ends the attempt's identity for good; whether it had one that lived. Doing it again changes nothing.

    The authorisation agent cuts the gateway off within two seconds.
    """
    now = now or timezone.now()
    with transaction.atomic():
        ended = GatewayIdentity.objects.filter(attempt_id=attempt_id, revoked_at=None).update(
            revoked_at=now, revoke_reason=reason[:80]
        )
        if ended:
            _record("gateway_identity_revoked", attempt_id, {"reason": reason[:80]})
    return bool(ended)


def has_been_away_since(attempt_id: str, moment: datetime) -> bool:
    """Whether the attempt's gateway was in the VPN, left it before that moment, and has not come back."""
    return GatewayIdentity.objects.filter(attempt_id=attempt_id, left_at__lte=moment).exists()


def refuse(attempt_id: str, words: str, *, address: str = "", now: datetime | None = None) -> None:
    """Something is wrong with who answers in a gateway's place: an alarm, and no identity for it any more."""
    with transaction.atomic():
        _record("gateway_refused", attempt_id, {"words": words[:300]}, address=address)
        withdraw(attempt_id, now=now, reason="somebody else answered in its place")
    logger.error("Gateway %s is refused: %s", attempt_id, words)


def withdraw_dead(now: datetime | None = None) -> int:
    """Ends the identities of attempts that no longer live, and those that expired; how many those were."""
    now = now or timezone.now()
    # Who was seen out has been revoked: to say so, too, has the database look at those alone, of all there ever were.
    rows = GatewayIdentity.objects.filter(revoked_at=None, released_at=None).order_by()
    held = dict(rows.values_list("attempt_id", "expires_at"))
    if not held:
        return 0
    live = _live_attempts()
    dead = [attempt for attempt, end in held.items() if attempt not in live or end <= now]
    return sum(withdraw(attempt, now=now) for attempt in dead)


# --- what the authorisation agent asks --------------------------------------------------------------------------------


def allow_list(now: datetime | None = None) -> dict[str, identities.Admitted]:
    """The gateways that may be in the VPN, by the common name in the certificate."""
    rows = GatewayIdentity.objects.filter(revoked_at=None, expires_at__gt=now or timezone.now()).order_by()
    found = {one.attempt_id: one for one in rows.defer("certificate")}
    if not found:
        return {}
    return {
        found[attempt].common_name: identities.Admitted(found[attempt].address, frozenset({found[attempt].sha256}))
        for attempt in sorted(found.keys() & _live_attempts())
    }


def leaving() -> list[tuple[int, str]]:
    """Number and common name of revoked identities whose gateways were not seen out yet."""
    rows = GatewayIdentity.objects.filter(released_at=None, revoked_at__isnull=False).order_by()
    return sorted((one.pk, one.common_name) for one in rows.only("attempt_id"))


def released(number: int, *, now: datetime | None = None) -> None:
    """The gateway of this revoked identity is out: its address may be another's."""
    GatewayIdentity.objects.filter(pk=number, released_at=None, revoked_at__isnull=False).update(
        released_at=now or timezone.now()
    )


# ----------------------------------------------------------------------------------------------------------------------


def _issue(authority: VpnAuthority, attempt_id: str, key: pki.PublicKey, digest: str, now: datetime) -> GatewayIdentity:
    row = GatewayIdentity(attempt_id=attempt_id, key_sha256=digest, issued_at=now, address=_free_address())
    signer = pki.load_authority(authority.certificate, authority.key)
    try:
        certificate = pki.issue(signer, key, name=row.common_name, now=now, life=certificate_life())
    except pki.PkiError as error:
        raise GatewayRefused(str(error)) from error
    row.serial, row.sha256 = pki.serial_of(certificate), pki.sha256_of(certificate)
    row.certificate, row.expires_at = pki.certificate_pem(certificate), certificate.not_valid_after_utc
    try:
        row.save()
    except IntegrityError as error:
        # The lock above sees to it that this does not happen; should it, the next look finds another address.
        raise NoAddressLeft(f"The address {row.address} was just taken by another gateway. Try again.") from error
    _record("gateway_identity_issued", attempt_id, {"serial": row.serial, "vpn_address": row.address})
    return row


def _free_address() -> str:
    """One that nobody has: not used lately, else issued longest ago. Raises NoAddressLeft."""
    # A rescue may outlive its gateway's certificate. Its row has that address still: what is sent there must not reach
    # another's gateway.
    holders = Q(released_at=None) | Q(attempt_id__in=_live_attempts())
    taken = set(GatewayIdentity.objects.filter(holders).values_list("address", flat=True))
    newest = GatewayIdentity.objects.order_by("-pk").values_list("address", "issued_at")[:_LATELY]
    last = dict(reversed(newest))
    numbers = networks.gateway_numbers(settings.VPN_NETWORK)
    free = [text for text in map(str, map(ipaddress.IPv4Address, numbers)) if text not in taken]
    if not free:
        raise NoAddressLeft(
            f"All {len(numbers)} addresses for gateways in {networks.gateways(settings.VPN_NETWORK)} are taken. One is "
            "free again when the authorisation agent (manage.py authorise) has seen its gateway out: is it at work?"
        )
    never = [text for text in free if text not in last]
    return never[0] if never else min(free, key=lambda text: last[text])


def _profile(authority: VpnAuthority, row: GatewayIdentity) -> str:
    try:
        return client_profile(
            ClientProfile(
                remote=settings.GATEWAY_VPN_REMOTE,
                port=settings.VPN_PORT,
                protocol=settings.VPN_PROTOCOL,
                authority=authority.certificate,
                certificate=row.certificate,
                tls_crypt_key=pki.new_tls_crypt_client_key(authority.tls_crypt_key, row.common_name.encode()),
            )
        )
    except ProfileError as error:
        raise IdentityError(f"No profile can be made for gateways. {error}") from error


def _record(kind: str, attempt_id: str, detail: dict[str, object], *, address: str = "") -> None:
    services.record_security_event(kind, address=address, detail={"gateway": attempt_id, **detail})
