"""Makes and reads rows in the measured server's database; run with its environment: JSON on stdin and on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

import django


def login() -> dict[str, str]:
    """A signed-in browser session of Alice's."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from machines.models import User

    alice = User.objects.get(username="alice")
    store = SessionStore()
    store[SESSION_KEY] = str(alice.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = alice.get_session_auth_hash()
    store.create()
    return {"session_key": str(store.session_key)}


def desktops(ports: list[int]) -> list[str]:
    """Rescues that Alice has claimed, whose desktops a keeper holds (as the rows say) at guacd on these ports."""
    from django.db import transaction
    from django.utils import timezone

    from machines.models import Machine, User
    from sessions import presses, services
    from sessions.models import Gateway, GuacamoleConnection
    from sessions.services import RdpLogin
    from sessions.states import GatewayState

    alice = User.objects.get(username="alice")
    now = timezone.now()
    made = []
    for machine, port in zip(Machine.objects.order_by("pk"), ports, strict=False):
        login = RdpLogin(username="once", password="once", port=3389)
        session, _ = presses.request_support(machine, login=login, idempotency_key=f"bench-{machine.serial}")
        with transaction.atomic():
            session = services.begin_starting(session, now=now)
            gateway = Gateway.objects.create(
                session=session, driver="fixed", state=GatewayState.READY, host="127.0.0.1", port=port, ready_at=now
            )
            GuacamoleConnection.objects.create(
                session=session, gateway=gateway, hostname=machine.vpn_address, port=3389,
                connection_id=f"${session.pk}",
            )  # fmt: skip
            session = services.desktop_ready(session, now=now)
        services.claim(session, user=alice)
        made.append(str(session.pk))
    return made


def desktop(session: str) -> dict[str, Any]:
    """How the desktop of a rescue is joined at its guacd, and how its machine is logged in to."""
    from sessions.models import GuacamoleConnection, RdpCredential

    held = GuacamoleConnection.objects.select_related("gateway").get(session_id=UUID(session), closed_at=None)
    once = RdpCredential.objects.get(session_id=UUID(session))
    return {
        "port": held.gateway.port, "connection_id": held.connection_id, "hostname": held.hostname,
        "rdp_port": once.port, "username": once.username, "password": once.password,
    }  # fmt: skip


if __name__ == "__main__":
    django.setup()
    work: Callable[..., object] = {"login": login, "desktops": desktops, "desktop": desktop}[sys.argv[1]]
    print(json.dumps(work(**json.load(sys.stdin))))
