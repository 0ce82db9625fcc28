"""Does in the installation's database what people and time do there; one JSON request a line, one answer a line.

A process of its own, since the tests' own Django has another database. `python -m tests.vpn.clerk` with the server's
environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django


def seed(password: str, serials: list[str]) -> dict[str, str]:
    """Alice and Bob operate the machines; each machine's token by its serial."""
    from django.db import transaction

    from machines import identities
    from machines.models import Fleet, Machine, MachineModel, Operator, Site, User
    from machines.services import issue_token
    from sessions.models import ConnectionProfile

    fleet = Fleet.objects.create(name="North", slug="north")
    ConnectionProfile.objects.create(fleet=fleet, name="all", security=ConnectionProfile.Security.NLA)
    for name in ("Alice", "Bob"):
        user = User.objects.create_user(name.lower(), password=password, first_name=name, last_name="Test")
        Operator.objects.create(user=user, role="operator").fleets.add(fleet)
    site = Site.objects.create(
        fleet=fleet, name="Stazione Centrale", city="Milano", country="IT", time_zone="Europe/Rome"
    )
    model = MachineModel.objects.create(name="Aurora 9")
    tokens = {}
    for serial in serials:
        with transaction.atomic():
            machine = Machine.objects.create(
                fleet=fleet, site=site, model=model, serial=serial, name=f"Lobby {serial}",
                vpn_address=identities.allocate_address(fleet),
            )  # fmt: skip
        tokens[serial] = issue_token(machine)
    return tokens


def register(count: int, profiles: int) -> dict[str, Any]:
    """Registers so many machines more, each with an identity; the first ones' profiles, all names and fingerprints."""
    from django.db import transaction

    from machines import identities
    from machines.models import Fleet, Machine, MachineModel, Site

    fleet, site, model = Fleet.objects.get(slug="north"), Site.objects.get(), MachineModel.objects.get()
    texts, names = [], []
    with transaction.atomic():
        for one in range(count):
            machine = Machine.objects.create(
                fleet=fleet,
                site=site,
                model=model,
                serial=f"N-{one:05}",
                vpn_address=identities.allocate_address(fleet),
            )
            identity = identities.issue_identity(machine)
            names.append((identity.common_name, identity.sha256))
            if one < profiles:
                texts.append(identities.hand_over(identity))
    return {"profiles": texts, "names": names}


def profile(serial: str, *, days_ago: int = 0) -> str:
    """A new identity's whole .ovpn text; issued so many days ago."""
    from django.utils import timezone

    from machines import identities

    now = timezone.now() - timedelta(days=days_ago)
    identity = identities.issue_identity(_machine(serial), now=now)
    return identities.hand_over(identity, now=now)


def forged_profile(name: str, *, by_ours: bool) -> str:
    """A profile for a name that no machine has; by our authority, or by somebody else's of the same name."""
    from django.conf import settings
    from django.utils import timezone

    from machines import identities
    from machines.vpn import pki
    from machines.vpn.profile import ClientProfile, client_profile

    now, life = timezone.now(), timedelta(days=1)
    row = identities.ensure_authority()
    ours = pki.load_authority(row.certificate, row.key)
    key = pki.new_key()
    by = ours if by_ours else pki.make_authority(now=now, life=life)
    certificate = pki.issue(by, key.public_key(), name=name, now=now, life=life)
    return client_profile(
        ClientProfile(
            remote=settings.VPN_REMOTE,
            port=settings.VPN_PORT,
            protocol=settings.VPN_PROTOCOL,
            authority=row.certificate,
            certificate=pki.certificate_pem(certificate),
            # As somebody has it who has taken another machine's apart: without one nobody even gets to TLS.
            tls_crypt_key=pki.new_tls_crypt_client_key(row.tls_crypt_key, b"stolen"),
            key=pki.key_pem(key),
        )
    )


def revoke(serial: str) -> int:
    from machines import identities

    return identities.revoke_all(_machine(serial), reason="test")


def withdraw_gateway(attempt_id: str) -> bool:
    from machines import gateway_identities

    return gateway_identities.withdraw(attempt_id, reason="test")


def freeze(serial: str) -> None:
    from machines import identities

    identities.freeze(_machine(serial), "test")


def unfreeze(serial: str) -> None:
    from machines.models import Machine

    Machine.objects.filter(serial=serial).update(frozen_at=None, frozen_reason="")


def number(serial: str) -> int:
    """What the machine's certificates have behind `m-`."""
    return int(_machine(serial).pk)


def address(serial: str) -> str:
    return str(_machine(serial).vpn_address)


def new_token(serial: str) -> str:
    from machines.services import issue_token

    return issue_token(_machine(serial))


def open_connections(serial: str) -> list[dict[str, Any]]:
    """The machine's connections that have not ended, by what the agent wrote down."""
    from machines.models import VpnConnection

    rows = VpnConnection.objects.filter(machine__serial=serial, ended_at=None)
    return [{"id": one.pk, "remote": one.remote_address, "client_id": one.client_id} for one in rows]


def security_events(kind: str, serial: str) -> list[dict[str, Any]]:
    from machines.models import SecurityEvent

    rows = SecurityEvent.objects.filter(kind=kind, machine__serial=serial).order_by("pk")
    return [{"address": one.address, "detail": one.detail} for one in rows]


def all_security_events() -> list[dict[str, Any]]:
    from machines.models import SecurityEvent

    rows = SecurityEvent.objects.order_by("pk").select_related("machine")
    return [
        {"kind": one.kind, "machine": one.machine.serial if one.machine else "", "address": one.address,
         "detail": one.detail} for one in rows
    ]  # fmt: skip


def _machine(serial: str) -> Any:
    from machines.models import Machine

    return Machine.objects.select_related("fleet").get(serial=serial)


_COMMANDS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(seed, register, profile, forged_profile, revoke, withdraw_gateway, freeze, unfreeze, number, address),
        *(new_token, open_connections, security_events, all_security_events),
    )
}


def main() -> None:
    django.setup()
    for line in sys.stdin:
        name, arguments, options = json.loads(line)
        try:
            answer = {"answer": _COMMANDS[name](*arguments, **options)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
