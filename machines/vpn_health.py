"""What will end soon in the VPN, in sentences: certificates, and the list of revocations."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from machines.models import VpnAuthority, VpnIdentity
from machines.vpn.base import has_vpn
from machines.vpn.profile import (
    CERTIFICATE_FILE,
    CRL_FILE,
    LOADED_CONFIGURATIONS,
    SERVER_FILE,
    TCP_SERVER_FILE,
    loaded_certificate,
)

# The server's certificate is renewed this long before its end, so a warning of it means that this did not happen.
SERVER_RENEWED_BEFORE = timedelta(days=120)
# Machines' certificates end with the authority's at the latest, so this is early.
_AUTHORITY_WARNED_BEFORE = timedelta(days=3 * 365)
_WARNED_BEFORE_DAYS = (7, 30, 90)
# The list is made for 30 days and written daily: with less than half of that left its writer is not at work.
_CRL_WARNED_BEFORE = timedelta(days=15)
# It says so every two seconds; a restart of it or of OpenVPN takes less than this.
_AGENT_WARNED_AFTER = timedelta(seconds=30)
_NAMED = 5


def health(now: datetime | None = None) -> list[str]:
    """One sentence for each thing that needs somebody, the most urgent first; empty when all is well."""
    now = now or timezone.now()
    return [*server_health(now), *_of_machines(now), *_of_configurations()]


def server_health(now: datetime | None = None) -> list[str]:
    """The same of what would lock every machine out; few rows are read, so it may be asked often."""
    now = now or timezone.now()
    authority = VpnAuthority.objects.defer("key", "tls_crypt_key", "server_key").filter(pk=1).first()
    if authority is not None:
        return [*_of_agent(authority, now), *_of_revocations(authority, now), *_of_authority(authority, now)]
    if has_vpn():
        return ["There is no VPN authority yet: no machine can join. Make it: manage.py make_vpn_authority"]
    return []


def loaded_until(folder: Path, *, over_tcp: bool = False) -> datetime | None:
    """When the certificate ends that an OpenVPN runs with; None where it cannot be read, as on another computer."""
    return _end_of_certificate_file(loaded_certificate(folder, over_tcp=over_tcp))


def _of_agent(authority: VpnAuthority, now: datetime) -> list[str]:
    is_away = authority.answering_at is not None and now - authority.answering_at >= _AGENT_WARNED_AFTER
    if not has_vpn():
        return []
    if settings.VPN_TCP_PORT is not None:
        return _of_two_ways(authority, now, is_away=is_away)
    if not is_away:
        return []
    return [
        f"The authorisation agent was last at OpenVPN's side at {authority.answering_at:%Y-%m-%d %H:%M:%S} UTC: "
        "no machine can join. Look at OpenVPN and at manage.py authorise."
    ]


def _of_two_ways(authority: VpnAuthority, now: datetime, *, is_away: bool) -> list[str]:
    """Where there is an OpenVPN over TCP beside that over UDP: which of them is away, and who comes in meanwhile."""
    over_tcp = authority.tcp_answering_at
    is_tcp_away = over_tcp is not None and now - over_tcp >= _AGENT_WARNED_AFTER
    if is_away and (is_tcp_away or over_tcp is None):
        return [
            f"The authorisation agent was last at OpenVPN's side at {authority.answering_at:%Y-%m-%d %H:%M:%S} UTC: "
            "no machine can join. Look at OpenVPN, both over UDP and over TCP, and at manage.py authorise."
        ]
    if is_away:
        return [
            f"OpenVPN over UDP is away since {authority.answering_at:%Y-%m-%d %H:%M:%S} UTC: machines come in over TCP "
            f"port {settings.VPN_TCP_PORT} alone. Look at the OpenVPN with server.conf."
        ]
    if is_tcp_away or (over_tcp is None and authority.answering_at is not None):
        since = f"is away since {over_tcp:%Y-%m-%d %H:%M:%S} UTC" if over_tcp else "was never there"
        return [
            f"OpenVPN over TCP {since}: machines whose network lets no UDP out cannot join. Look at the OpenVPN with "
            "server-tcp.conf."
        ]
    return []


def _of_revocations(authority: VpnAuthority, now: datetime) -> list[str]:
    ends = [end for end in (authority.crl_next_update, _end_of_file(settings.VPN_DIR / CRL_FILE)) if end]
    if not ends or min(ends) - now >= _CRL_WARNED_BEFORE:
        return []
    end = min(ends)
    remedy = "Look at the authorisation agent (manage.py authorise), which writes it daily."
    if end <= now:
        return [f"The list of revocations ended on {_day(end)}: no machine is admitted any more. {remedy}"]
    return [f"The list of revocations ends on {_day(end)}; from then on no machine is admitted. {remedy}"]


def _end_of_file(path: Path) -> datetime | None:
    """Until when the list that OpenVPN reads is good; None where there is none, as on another computer than its."""
    try:
        return x509.load_pem_x509_crl(path.read_bytes()).next_update_utc
    except (OSError, ValueError):
        return None


def _end_of_certificate_file(path: Path) -> datetime | None:
    """Until when a certificate in OpenVPN's folder is good; None as with the list."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return None


def _of_authority(authority: VpnAuthority, now: datetime) -> list[str]:
    found = []
    # A renewed one is in the rows long before it is in the file that OpenVPN starts with.
    written_end = _end_of_certificate_file(settings.VPN_DIR / CERTIFICATE_FILE)
    server_end = min(end for end in (_end_of(authority.server_certificate), written_end) if end)
    # A month's grace: the renewal comes with the next start of the authorisation agent.
    is_late = server_end - now < SERVER_RENEWED_BEFORE - timedelta(days=30)
    if is_late:
        found.append(
            f"The VPN server's certificate {_ends(server_end, now)}. Renew it (manage.py make_vpn_authority), "
            "then start the authorisation agent and OpenVPN again."
        )
    else:
        found += _of_loaded(authority, now)
    authority_end = _end_of(authority.certificate)
    if authority_end - now < _AUTHORITY_WARNED_BEFORE:
        found.append(
            f"The VPN authority {_ends(authority_end, now)}: by then every machine needs an identity of a new one."
        )
    return found


def _of_loaded(authority: VpnAuthority, now: datetime) -> list[str]:
    """A renewed certificate is there, and an OpenVPN still runs with the one from before.

    Its own file tells first; on other computers than its, what the agent saw there.
    """
    ends = [(SERVER_FILE, loaded_until(settings.VPN_DIR) or authority.loaded_until)]
    if settings.VPN_TCP_PORT is not None:
        ends.append((TCP_SERVER_FILE, loaded_until(settings.VPN_DIR, over_tcp=True) or authority.tcp_loaded_until))
    found = []
    for config, end in ends:
        if end is None or end - now >= SERVER_RENEWED_BEFORE - timedelta(days=30):
            continue
        then = "no machine joins it any more" if end <= now else "from then on no machine joins it"
        found.append(
            f"The OpenVPN with {config} still runs with its old certificate, which {_ends(end, now)}: {then}. "
            "A renewed one is there; start that OpenVPN again, at best while no rescue is open."
        )
    return found


def _of_configurations() -> list[str]:
    """What an OpenVPN was not told of since it started; only where its folder is, for those who may look into it."""
    found = []
    for config, loaded in LOADED_CONFIGURATIONS.items():
        try:
            is_old = (settings.VPN_DIR / config).read_bytes() != (settings.VPN_DIR / loaded).read_bytes()
        except OSError:
            continue
        if is_old:
            found.append(
                f"{config} has changed since OpenVPN started with it. Start that OpenVPN again, at best while no "
                "rescue is open."
            )
    return found


def _of_machines(now: datetime) -> list[str]:
    """Machines whose last identity ends soon, in groups; one with a newer identity that is proven counts by that."""
    live = Q(revoked_at=None, machine__is_active=True) & (Q(proven_at__isnull=False) | Q(handed_over_at__isnull=False))
    rows = VpnIdentity.objects.filter(live).order_by().values_list("machine_id", "machine__serial", "expires_at")
    last: dict[int, tuple[datetime, str]] = {}
    for machine_id, serial, expires_at in rows:
        last[machine_id] = max(last.get(machine_id, (expires_at, serial)), (expires_at, serial))
    sentences, seen = [], set()
    if ended := sorted(serial for end, serial in last.values() if end <= now):
        seen.update(ended)
        sentences.append(f"{_machines(ended)} shut out: the VPN certificate has expired. Enrol anew.")
    for days in _WARNED_BEFORE_DAYS:
        soon = sorted({serial for end, serial in last.values() if end - now < timedelta(days=days)} - seen)
        seen.update(soon)
        if soon:
            sentences.append(f"The VPN certificate of {_named(soon)} ends within {days} days. Renew it.")
    return sentences


def _machines(serials: list[str]) -> str:
    return f"{_named(serials)} {'is' if len(serials) == 1 else 'are'}"


def _named(serials: list[str]) -> str:
    more = len(serials) - _NAMED
    return ", ".join(serials[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _end_of(certificate: str) -> datetime:
    return x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc


def _ends(end: datetime, now: datetime) -> str:
    return f"ended on {_day(end)}" if end <= now else f"ends on {_day(end)}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
