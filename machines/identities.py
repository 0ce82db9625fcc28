"""Identities in the VPN: the authority, and what becomes of each machine's certificate.

An identity is issued, handed over once, proven by its first connection (which ends the older ones), and revoked or
expired in the end. Whoever opens the door at the VPN server asks `allow_list`. Each step that a security review wants
to know leaves a row in the security record; no step ever leaves a secret there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from machines import services
from machines.addresses import allocate_address
from machines.errors import AlreadyHandedOver, IdentityError, NotAllowed, RequestRefused
from machines.models import GatewayIdentity, Machine, TunnelEnding, User, VpnAuthority, VpnIdentity
from machines.selectors import fleets_of, operator_of
from machines.vpn import networks, pki
from machines.vpn.base import has_vpn
from machines.vpn.profile import ClientProfile, ProfileError, client_profile
from machines.vpn_health import SERVER_RENEWED_BEFORE, health, server_health

__all__ = [
    "Admitted",
    "AllowList",
    "allocate_address",
    "allow_list",
    "crl_pem",
    "end_tunnel_wish",
    "ensure_authority",
    "freeze",
    "hand_over",
    "health",
    "issue_identity",
    "prove",
    "renew",
    "require_admissible",
    "revoke",
    "revoke_all",
    "server_health",
    "tunnel_ended",
    "unfreeze",
]

AUTHORITY_LIFE = timedelta(days=20 * 365)
# 825 days is what the strictest TLS libraries accept of a certificate.
CERTIFICATE_LIFE = timedelta(days=825)
# An expired list of revocations locks everybody out: it is written daily, and lasts for a month without.
CRL_LIFE = timedelta(days=30)
# So many identities of one machine may be waiting for their first connection.
_UNPROVEN_LIMIT = 5


class Admitted(NamedTuple):
    """A machine that may join: at which address, by which certificates (SHA-256, lower-case hexadecimal)."""

    address: str
    fingerprints: frozenset[str]


@dataclass(frozen=True, slots=True)
class AllowList:
    """Who may join the VPN, by the common name in the certificate."""

    machines: dict[str, Admitted] = field(default_factory=dict)


# --- the authority ----------------------------------------------------------------------------------------------------


def ensure_authority(*, now: datetime | None = None) -> VpnAuthority:
    """The installation's authority, made when there is none; its server certificate is renewed in good time.

    A renewed server certificate counts once it is written out and OpenVPN has started again.
    """
    now = now or timezone.now()
    authority = VpnAuthority.objects.filter(pk=1).first()
    if authority is None:
        try:
            with transaction.atomic():
                authority = _make_authority(now)
                services.record_security_event("vpn_authority_made")
        except IntegrityError:
            authority = VpnAuthority.objects.get(pk=1)  # somebody else was faster
    server = x509.load_pem_x509_certificate(authority.server_certificate.encode())
    if server.not_valid_after_utc - now < SERVER_RENEWED_BEFORE:
        authority = _renew_server_certificate(authority.server_certificate, now)
    return authority


def _make_authority(now: datetime) -> VpnAuthority:
    authority, server_key = pki.make_authority(now=now, life=AUTHORITY_LIFE), pki.new_key()
    server = pki.issue(authority, server_key.public_key(), name=pki.SERVER_NAME, now=now, life=CERTIFICATE_LIFE)
    return VpnAuthority.objects.create(
        pk=1,
        certificate=pki.certificate_pem(authority.certificate),
        key=pki.key_pem(authority.key),
        tls_crypt_key=pki.new_tls_crypt_server_key(),
        server_certificate=pki.certificate_pem(server),
        server_key=pki.key_pem(server_key),
        created_at=now,
    )


def _renew_server_certificate(old: str, now: datetime) -> VpnAuthority:
    with transaction.atomic():
        row = VpnAuthority.objects.select_for_update().get(pk=1)
        if row.server_certificate == old:
            key = pki.new_key()
            server = pki.issue(_loaded(row), key.public_key(), name=pki.SERVER_NAME, now=now, life=CERTIFICATE_LIFE)
            row.server_certificate, row.server_key = pki.certificate_pem(server), pki.key_pem(key)
            row.save(update_fields=["server_certificate", "server_key"])
            services.record_security_event("vpn_server_certificate_renewed", detail={"serial": pki.serial_of(server)})
    return row


def _loaded(row: VpnAuthority) -> pki.Authority:
    return pki.load_authority(row.certificate, row.key)


def crl_pem(*, now: datetime | None = None) -> bytes:
    """A fresh list of revocations, valid for CRL_LIFE from now; each has the next number, so call it to write it.

    Write it after every revocation, and at least daily: see `health`.
    """
    now = now or timezone.now()
    ensure_authority(now=now)
    with transaction.atomic():
        VpnAuthority.objects.filter(pk=1).update(crl_number=F("crl_number") + 1, crl_next_update=now + CRL_LIFE)
        row = VpnAuthority.objects.get(pk=1)
        # A revoked one stays in the list for a day beyond its own end, whatever the clocks say.
        revoked = VpnIdentity.objects.filter(revoked_at__isnull=False, expires_at__gt=now - timedelta(days=1))
        gateways = GatewayIdentity.objects.filter(revoked_at__isnull=False, expires_at__gt=now - timedelta(days=1))
        serials = [
            *revoked.order_by("pk").values_list("serial", "revoked_at"),
            *gateways.order_by("pk").values_list("serial", "revoked_at"),
        ]
    known = [(serial, since) for serial, since in serials if since is not None]
    return pki.make_crl(_loaded(row), known, number=row.crl_number, now=now, life=CRL_LIFE).encode("ascii")


# --- an identity's life -----------------------------------------------------------------------------------------------


def issue_identity(
    machine: Machine, *, csr_pem: str | None = None, user: User | None = None, now: datetime | None = None
) -> VpnIdentity:
    """A new identity beside those that the machine has: for the key of its request, else for a key made here.

    Raises RequestRefused for a request that cannot be signed, IdentityError for a machine that is not admitted anyway.
    """
    now = now or timezone.now()
    key = pki.new_key() if csr_pem is None else None
    try:
        public_key = key.public_key() if key else pki.key_of_request(csr_pem or "")
    except pki.PkiError as error:
        raise RequestRefused(str(error)) from error
    authority = ensure_authority(now=now)
    with transaction.atomic():
        machine = Machine.objects.select_for_update(of=("self",)).select_related("fleet").get(pk=machine.pk)
        require_admissible(machine)
        unproven = machine.vpn_identities.filter(revoked_at=None, proven_at=None, expires_at__gt=now)
        if unproven.count() >= _UNPROVEN_LIMIT:
            raise IdentityError(
                f"{machine.serial} has {_UNPROVEN_LIMIT} identities that never connected. Revoke those, then try again."
            )
        identity = VpnIdentity(machine=machine, issued_at=now)
        certificate = pki.issue(
            _loaded(authority), public_key, name=identity.common_name, now=now, life=CERTIFICATE_LIFE
        )
        identity.serial, identity.sha256 = pki.serial_of(certificate), pki.sha256_of(certificate)
        identity.certificate = pki.certificate_pem(certificate)
        identity.expires_at = certificate.not_valid_after_utc
        identity.private_key = pki.key_pem(key) if key else None
        identity.tls_crypt_key = pki.new_tls_crypt_client_key(authority.tls_crypt_key, identity.common_name.encode())
        identity.save()
        how = "made here" if key else "request"
        _record("identity_issued", identity, user=user, detail={"key": how})
    return identity


def renew(
    machine: Machine, *, csr_pem: str | None = None, user: User | None = None, now: datetime | None = None
) -> VpnIdentity:
    """A new identity; the old ones stay good until the new one has proven itself by a connection (`prove`)."""
    return issue_identity(machine, csr_pem=csr_pem, user=user, now=now)


def hand_over(identity: VpnIdentity, *, user: User | None = None, now: datetime | None = None) -> str:
    """The machine's whole .ovpn text, once: afterwards nothing secret of it is here any more.

    For an identity by request it holds no key. Raises AlreadyHandedOver the second time, IdentityError for a revoked
    identity or for settings that no profile can be made of (then nothing is lost).
    """
    now = now or timezone.now()
    authority = ensure_authority(now=now)
    with transaction.atomic():
        row = VpnIdentity.objects.select_for_update(of=("self",)).select_related("machine__fleet").get(pk=identity.pk)
        serial = row.machine.serial
        if row.revoked_at or row.expires_at <= now:
            raise IdentityError(f"This identity of {serial} was revoked or has expired. Issue a new one.")
        if row.handed_over_at or row.tls_crypt_key is None:
            raise AlreadyHandedOver(f"The profile of {serial} was handed over already. Issue a new identity.")
        try:
            text = client_profile(
                ClientProfile(
                    remote=settings.VPN_REMOTE,
                    port=settings.VPN_PORT,
                    protocol=settings.VPN_PROTOCOL,
                    tcp_port=settings.VPN_TCP_PORT,
                    authority=authority.certificate,
                    certificate=row.certificate,
                    tls_crypt_key=row.tls_crypt_key,
                    key=row.private_key,
                )
            )
        except ProfileError as error:
            raise IdentityError(f"No profile can be made for {serial}. {error}") from error
        VpnIdentity.objects.filter(pk=row.pk).update(private_key=None, tls_crypt_key=None, handed_over_at=now)
        _record("identity_handed_over", row, user=user)
    identity.private_key, identity.tls_crypt_key, identity.handed_over_at = None, None, now
    return text


def prove(identity: VpnIdentity, now: datetime | None = None) -> list[VpnIdentity]:
    """The identity has connected: the older ones of its machine end with its first time; which those were.

    Connections of those are the caller's to end: they are no longer in `allow_list`.
    """
    now = now or timezone.now()
    with transaction.atomic():
        if not VpnIdentity.objects.filter(pk=identity.pk, proven_at=None, revoked_at=None).update(proven_at=now):
            return []
        identity.proven_at = now
        older = VpnIdentity.objects.select_for_update().filter(
            machine_id=identity.machine_id, pk__lt=identity.pk, revoked_at=None
        )
        ended = list(older.defer("private_key", "tls_crypt_key").order_by("pk"))
        for one in ended:
            revoke(one, reason="superseded", now=now)
    return ended


def revoke(identity: VpnIdentity, *, reason: str, user: User | None = None, now: datetime | None = None) -> None:
    """Ends an identity for good, and erases what secret of it is still here; revoking it again changes nothing."""
    now = now or timezone.now()
    with transaction.atomic():
        revoked = VpnIdentity.objects.filter(pk=identity.pk, revoked_at=None).update(
            revoked_at=now, revoke_reason=reason[:80], private_key=None, tls_crypt_key=None
        )
        if revoked:
            identity.revoked_at, identity.revoke_reason = now, reason[:80]
            _record("identity_revoked", identity, user=user, detail={"reason": reason[:80]})


def revoke_all(machine: Machine, *, reason: str, user: User | None = None, now: datetime | None = None) -> int:
    """Ends every identity of the machine; how many those were."""
    with transaction.atomic():
        live = VpnIdentity.objects.select_for_update().filter(machine=machine, revoked_at=None)
        identities = list(live.defer("private_key", "tls_crypt_key"))
        for identity in identities:
            revoke(identity, reason=reason, user=user, now=now)
    return len(identities)


# --- a machine's standing ---------------------------------------------------------------------------------------------


def freeze(machine: Machine, reason: str, *, user: User | None = None, now: datetime | None = None) -> None:
    """The machine is admitted nowhere, not to the VPN nor to the API, until somebody has looked and unfreezes it."""
    now, reason = now or timezone.now(), reason[:200]
    with transaction.atomic():
        if Machine.objects.filter(pk=machine.pk, frozen_at=None).update(frozen_at=now, frozen_reason=reason):
            machine.frozen_at, machine.frozen_reason = now, reason
            services.record_security_event("machine_frozen", machine=machine, user=user, detail={"reason": reason})


def unfreeze(machine: Machine, user: User) -> None:
    """Admits the machine again. Raises NotAllowed for who is neither supervisor nor manager of its fleet."""
    if not may_unfreeze(machine, user):
        raise NotAllowed("Only a supervisor or a manager of the machine's fleet can unfreeze it.")
    with transaction.atomic():
        if Machine.objects.filter(pk=machine.pk).exclude(frozen_at=None).update(frozen_at=None, frozen_reason=""):
            services.record_security_event(
                "machine_unfrozen", machine=machine, user=user, detail={"was": machine.frozen_reason}
            )
            machine.frozen_at, machine.frozen_reason = None, ""


def may_unfreeze(machine: Machine, user: User) -> bool:
    """A superuser; or in the machine's fleet a supervisor, or who may change machines in the admin."""
    if not user.is_active:
        return False
    if user.is_superuser:
        return True
    if not fleets_of(user).filter(pk=machine.fleet_id).exists():
        return False
    operator = operator_of(user)
    return bool(operator and operator.is_supervisor) or (user.is_staff and user.has_perm("machines.change_machine"))


def allow_list(now: datetime | None = None) -> AllowList:
    """Machines that are active and not frozen, with their identities that are neither revoked nor expired."""
    rows = (
        VpnIdentity.objects.filter(revoked_at=None, expires_at__gt=now or timezone.now())
        .filter(machine__is_active=True, machine__frozen_at=None)
        .order_by()
        .values_list("machine_id", "machine__vpn_address", "sha256")
    )
    found: dict[str, tuple[str, set[str]]] = {}
    for machine_id, address, sha256 in rows:
        found.setdefault(f"m-{machine_id}", (address, set()))[1].add(sha256)
    return AllowList({name: Admitted(address, frozenset(prints)) for name, (address, prints) in found.items()})


# --- ending tunnels ---------------------------------------------------------------------------------------------------


def end_tunnel_wish(machine: Machine, reason: str, *, now: datetime | None = None) -> TunnelEnding:
    """The wish that the machine's tunnel ends, which the authorisation agent fulfils; one at a time is enough."""
    with transaction.atomic():
        wish, _ = TunnelEnding.objects.get_or_create(
            machine=machine, done_at=None, defaults={"reason": reason[:80], "requested_at": now or timezone.now()}
        )
    return wish


def tunnel_ended(wish: TunnelEnding, *, now: datetime | None = None) -> None:
    """The wish is fulfilled: the machine is not connected (any more). Saying so twice changes nothing."""
    now = now or timezone.now()
    if TunnelEnding.objects.filter(pk=wish.pk, done_at=None).update(done_at=now):
        wish.done_at = now


def require_admissible(machine: Machine) -> None:
    """Raises IdentityError for a machine that is switched off or frozen, or whose address is none of the VPN's."""
    if not machine.is_active:
        raise IdentityError(f"{machine.serial} is switched off. Switch it on before it gets an identity.")
    if machine.frozen_at:
        raise IdentityError(f"{machine.serial} is frozen ({machine.frozen_reason}). Unfreeze it first.")
    if has_vpn() and not networks.has_machine(machine.vpn_address, settings.VPN_NETWORK):
        raise IdentityError(
            f"{machine.serial} has the address {machine.vpn_address}, expected one of machines in "
            f"{settings.VPN_NETWORK}. A manager changes it in the admin."
        )


def _record(
    kind: str, identity: VpnIdentity, *, user: User | None = None, detail: dict[str, object] | None = None
) -> None:
    services.record_security_event(
        kind, machine=identity.machine, user=user, detail={"serial": identity.serial, **(detail or {})}
    )
