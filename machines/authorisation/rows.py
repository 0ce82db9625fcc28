"""The agent's view of the database: what is wished is read, what happened is written.

Nothing here is called by the thread that answers OpenVPN. Every write may be repeated after a failure.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Max
from django.utils import timezone

from machines import gateway_identities, identities, passages, services
from machines.authorisation.allow_list import Allowed, AllowList
from machines.authorisation.outcomes import Alarm, Ending, Heard, Joined, Known, Left, TunnelEnded
from machines.authorisation.ways import Way
from machines.models import Machine
from machines.passages import Passage
from machines.vpn import networks
from machines.vpn.pki import is_gateway
from machines.vpn_models import GatewayIdentity, TunnelEnding, VpnAuthority, VpnConnection, VpnIdentity

logger = logging.getLogger(__name__)

Fact = Joined | Left | TunnelEnded | Alarm

# A revoked one stays in the list of revocations for a day beyond its own end (identities.crl_pem).
_LISTED = timedelta(days=1)
# Rows of gateways as keys of tunnels: beyond all numbers of machines' connections.
_GATEWAYS = 1 << 64


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the database wants to be so; `revocations` changes whenever an identity was revoked."""

    allow_list: AllowList
    endings: tuple[Ending, ...] = ()
    passages: frozenset[Passage] = frozenset()
    revocations: tuple[int, datetime | None] = (0, None)


def read_wishes(now: datetime | None = None) -> Wishes:
    """Everything the agent acts upon. Raises Django's database errors.

    A machine whose address is none of this VPN's (it was registered before there was one, or in another network) is
    not admitted, and keeps no other machine from being admitted or revoked.
    """
    now = now or timezone.now()
    # Before the allow list: whoever was seen out has been off it, and is not let in by what is read now.
    leaving = [Ending(number, name, None) for number, name in gateway_identities.leaving()]
    listed = identities.allow_list(now).machines
    machines = {name: one for name, one in listed.items() if networks.has_machine(one.address, settings.VPN_NETWORK)}
    _say_strays({name: one.address for name, one in listed.items() if name not in machines})
    gateways = {
        name: one
        for name, one in gateway_identities.allow_list(now).items()
        if networks.has_gateway(one.address, settings.VPN_NETWORK)
    }
    endings = TunnelEnding.objects.filter(done_at=None).values_list("pk", "machine_id", "requested_at")
    return Wishes(
        AllowList(_allowed(machines), _allowed(gateways)),
        (*leaving, *(Ending(pk, f"m-{machine}", requested_at) for pk, machine, requested_at in endings)),
        passages.wanted(),
        _revocations(now),
    )


def _allowed(listed: Mapping[str, identities.Admitted]) -> dict[str, Allowed]:
    return {name: Allowed(one.address, one.fingerprints) for name, one in listed.items()}


def _revocations(now: datetime) -> tuple[int, datetime | None]:
    revoked = (
        VpnIdentity.objects.exclude(revoked_at=None).order_by().aggregate(count=Count("pk"), last=Max("revoked_at"))
    )
    # Of gateways there are many more, and they soon drop out of the list.
    gateways = (
        GatewayIdentity.objects.filter(revoked_at__isnull=False, expires_at__gt=now - _LISTED)
        .order_by()
        .aggregate(count=Count("pk"), last=Max("revoked_at"))
    )
    last = [one for one in (revoked["last"], gateways["last"]) if one]
    return revoked["count"] + gateways["count"], max(last, default=None)


def read_known() -> list[Known]:
    """The tunnels that are written down as being there."""
    rows = VpnConnection.objects.filter(ended_at=None).select_related("identity")
    gateways = GatewayIdentity.objects.filter(connected_at__isnull=False, left_at=None)
    return [*map(_known_gateway, gateways), *map(_known_machine, rows)]


def _known_machine(row: VpnConnection) -> Known:
    return Known(
        key=_key(row.pk),
        common_name=f"m-{row.machine_id}",
        fingerprint=row.identity.sha256,
        client_id=row.client_id,
        remote_address=row.remote_address,
        remote_port=row.remote_port,
        since=row.since,
    )


def _known_gateway(row: GatewayIdentity) -> Known:
    return Known(
        key=_key(_GATEWAYS + row.pk),
        common_name=row.common_name,
        fingerprint=row.sha256,
        client_id=row.client_id or 0,
        remote_address=row.remote_address or "",
        remote_port=row.remote_port or 0,
        since=row.connected_at or row.issued_at,
    )


@dataclass(slots=True)
class Record:
    """Writes what happened; remembers which row is which tunnel: a machine's connection, or a gateway's identity."""

    _rows: dict[uuid.UUID, int] = field(default_factory=dict)
    _gateways: dict[uuid.UUID, int] = field(default_factory=dict)
    _told: dict[uuid.UUID, Heard] = field(default_factory=dict)

    def write(self, fact: Fact) -> None:
        """One fact. Raises Django's database errors, and nothing is written then."""
        match fact:
            case Joined() if is_gateway(fact.common_name):
                self._write_gateway_joined(fact)
            case Joined():
                self._write_joined(fact)
            case Left() if fact.key in self._gateways:
                self._write_gateway_left(fact)
            case Left():
                self._write_left(fact)
            case TunnelEnded() if is_gateway(fact.common_name):
                gateway_identities.released(fact.wish)
            case TunnelEnded():
                wish = TunnelEnding.objects.filter(pk=fact.wish, done_at=None).first()
                if wish is not None:
                    identities.tunnel_ended(wish)
            case Alarm():
                self._write_alarm(fact)

    def write_heard(self, heard: Mapping[uuid.UUID, Heard]) -> None:
        """Traffic and signs of life, of those alone where anything changed."""
        changed = {key: one for key, one in heard.items() if key in self._rows and self._told.get(key) != one}
        rows = [
            VpnConnection(
                pk=self._rows[key], heard_at=one.at, bytes_received=one.bytes_received, bytes_sent=one.bytes_sent
            )
            for key, one in changed.items()
        ]
        if rows:
            VpnConnection.objects.bulk_update(rows, ["heard_at", "bytes_received", "bytes_sent"], batch_size=200)
        self._told = {key: one for key, one in heard.items() if key in self._rows}

    def write_answering(self, ways: Mapping[Way, datetime | None], now: datetime | None = None) -> None:
        """The agent is at OpenVPN's side: whose machine is not heard now is silent indeed.

        With each way comes until when the certificate is good that its OpenVPN runs with; None: nobody knows.
        """
        columns = {Way.FIRST: ("answering_at", "loaded_until"), Way.TCP: ("tcp_answering_at", "tcp_loaded_until")}
        now, values = now or timezone.now(), dict[str, datetime | None]()
        for way, loaded_until in ways.items():
            answering, loaded = columns[way]
            values |= {answering: now, loaded: loaded_until}
        VpnAuthority.objects.filter(pk=1).update(**values)

    def adopt(self, known: list[Known]) -> None:
        """Goes on with rows of an earlier run."""
        for one in known:
            if is_gateway(one.common_name):
                self._gateways[one.key] = one.key.int - _GATEWAYS
            else:
                self._rows[one.key] = one.key.int

    def end_others(self, now: datetime | None = None) -> int:
        """Ends the rows of tunnels that nobody knows of any more: the database was away when they ended."""
        now, words = now or timezone.now(), "It ended while the database was away."
        gateways = GatewayIdentity.objects.filter(connected_at__isnull=False, left_at=None)
        connections = VpnConnection.objects.filter(ended_at=None)
        return gateways.exclude(pk__in=list(self._gateways.values())).update(
            left_at=now, left_detail=words
        ) + connections.exclude(pk__in=list(self._rows.values())).update(ended_at=now, end_detail=words)

    def _write_joined(self, fact: Joined) -> None:
        identity = VpnIdentity.objects.select_related("machine").filter(sha256=fact.fingerprint).first()
        if identity is None or identity.common_name != fact.common_name:
            logger.error("%s joined by a certificate that is not in the database", fact.common_name)
            return
        with transaction.atomic():
            VpnConnection.objects.filter(machine=identity.machine, ended_at=None).update(
                ended_at=fact.at, end_detail="A newer connection took its place."
            )
            row = VpnConnection.objects.create(
                identity=identity, machine=identity.machine, client_id=fact.client_id, since=fact.at,
                remote_address=fact.remote_address, remote_port=fact.remote_port, heard_at=fact.at,
            )  # fmt: skip
            identities.prove(identity, now=fact.at)
        self._rows[fact.key] = row.pk

    def _write_left(self, fact: Left) -> None:
        pk = self._rows.get(fact.key)
        if pk is None:
            return
        rows = VpnConnection.objects.filter(pk=pk)
        rows.filter(ended_at=None).update(ended_at=fact.at, end_detail=fact.detail[:200])
        if fact.bytes_received or fact.bytes_sent:
            rows.update(bytes_received=fact.bytes_received, bytes_sent=fact.bytes_sent)
        del self._rows[fact.key]

    def _write_gateway_joined(self, fact: Joined) -> None:
        row = GatewayIdentity.objects.filter(sha256=fact.fingerprint).only("attempt_id").first()
        if row is None or row.common_name != fact.common_name:
            logger.error("%s joined by a certificate that is not in the database", fact.common_name)
            return
        GatewayIdentity.objects.filter(pk=row.pk).update(
            client_id=fact.client_id, remote_address=fact.remote_address, remote_port=fact.remote_port,
            connected_at=fact.at, left_at=None, left_detail="",
        )  # fmt: skip
        # The tunnel before has no row any more: its end is no news.
        self._gateways = {key: pk for key, pk in self._gateways.items() if pk != row.pk}
        self._gateways[fact.key] = row.pk

    def _write_gateway_left(self, fact: Left) -> None:
        rows = GatewayIdentity.objects.filter(pk=self._gateways[fact.key])
        rows.update(left_at=fact.at, left_detail=fact.detail[:200])
        del self._gateways[fact.key]

    def _write_alarm(self, fact: Alarm) -> None:
        detail: dict[str, object] = dict(fact.detail)
        machine = None
        if is_gateway(fact.common_name):
            detail["gateway"] = fact.common_name[2:]
        else:
            machine = Machine.objects.select_related("fleet").filter(pk=int(fact.common_name[2:] or 0)).first()
        services.record_security_event(fact.kind, machine=machine, address=fact.address, detail=detail)


_strays_said: dict[str, str] = {}


def _say_strays(strays: dict[str, str]) -> None:
    """Once, not at every look."""
    for name, address in strays.items():
        if _strays_said.get(name) != address:
            logger.error(
                "%s is not admitted: found the address %s, expected one of machines in %s. Change it in the admin.",
                name, address, settings.VPN_NETWORK,
            )  # fmt: skip
    _strays_said.clear()
    _strays_said.update(strays)


def _key(pk: int) -> uuid.UUID:
    return uuid.UUID(int=pk)
