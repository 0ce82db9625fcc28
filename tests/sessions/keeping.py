"""Sessions whose gateway is ready, and a supervisor of keepers in a thread and loop of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from django.db import transaction
from django.utils import timezone

from sessions import gateway_rows, services
from sessions.gateways.base import GatewayStatus
from sessions.keeper import Limits
from sessions.keepers import KeeperSupervisor
from sessions.models import Gateway, SupportSession
from tests.sessions.rescues import press
from tests.waiting import until

_numbers = itertools.count(1)

# All that a keeper waits for, fast.
FAST = Limits(
    connect_s=2, first_word_s=0.5, handshake_s=1, first_frame_s=1, nop_every_s=0.2, silence_s=1.5, first_delay_s=0.05,
    longest_delay_s=0.2,
)  # fmt: skip


def give_gateway(session: SupportSession, port: int, *, host: str = "127.0.0.1") -> Gateway:
    """What the worker does, in short: the session is `starting` and has a guacd at this port."""
    now = timezone.now()
    with transaction.atomic():
        if session.state == "requested":
            session = services.begin_starting(session, now=now)
        gateway = gateway_rows.want(session, driver="fake", attempt=session.attempts + 1, due_at=now, now=now)
        assert gateway is not None
        services.count_attempt(session)
    assert gateway_rows.lease(gateway, owner="test", now=now)
    assert gateway_rows.set_ready(gateway, owner="test", status=GatewayStatus("ready", host, port, {}), now=now)
    return gateway


def rescue(port: int, serial: str = "A1") -> SupportSession:
    """Help was pressed on a machine, and its gateway is ready."""
    session = press(serial)
    give_gateway(session, port)
    return again(session)


def again(session: SupportSession) -> SupportSession:
    """The session as it is now."""
    return SupportSession.objects.select_related("machine", "fleet").get(pk=session.pk)


@contextmanager
def keeping(name: str = "", *, limits: Limits = FAST) -> Iterator[KeeperSupervisor]:
    """A process's keepers, told to stop at the end as by SIGTERM."""
    supervisor = KeeperSupervisor(name or f"keepers {next(_numbers)}", limits=limits)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(supervisor.run(stop)), name="keepers", daemon=True)
    thread.start()
    try:
        yield supervisor
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive(), "the keepers do not stop"
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def until_state(session: SupportSession, state: str, *, timeout_s: float = 10) -> SupportSession:
    until(
        lambda: SupportSession.objects.filter(pk=session.pk, state=state).exists(),
        f"the session is {state}; it is {again(session).state}",
        timeout_s=timeout_s,
    )
    return again(session)
