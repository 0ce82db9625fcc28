"""Sessions whose gateway is ready, and a supervisor of keepers in a thread and loop of its own."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

from django.db import transaction
from django.utils import timezone

from sessions import gateway_rows, services
from sessions.gateways.base import GatewayStatus
from sessions.guacamole import Handshake
from sessions.keeper import Desktop, Limits
from sessions.keepers import KeeperSupervisor
from sessions.models import Gateway, SessionEvent, SupportSession
from tests.sessions.rescues import press
from tests.waiting import LONG_S, until

_numbers = itertools.count(1)

# Quick to speak and to come again, and patient: what the test does not mean to be late never is, however long the
# computer holds it up.
FAST = Limits(
    connect_s=60, first_word_s=60, handshake_s=60, first_frame_s=60, nop_every_s=0.2, silence_s=60, first_delay_s=0.05,
    longest_delay_s=0.2,
)  # fmt: skip
# For attempts that are to fail by waiting, and for nothing else.
IMPATIENT = replace(FAST, first_word_s=0.3, handshake_s=0.3, first_frame_s=0.3)
# The same for a desktop that is held, and draws ten times a second until it is frozen.
SOON_SILENT = replace(FAST, silence_s=4)


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
def keeping(name: str = "", *, limits: Limits = FAST, first: Sequence[Limits] = ()) -> Iterator[KeeperSupervisor]:
    """A process's keepers, told to stop at the end as by SIGTERM. The `first` attempts have limits of their own."""
    with _first_attempts(first), _running(name, limits) as supervisor:
        yield supervisor


@contextmanager
def _first_attempts(first: Sequence[Limits]) -> Iterator[None]:
    open_, left = Desktop.open, deque(first)

    async def open_next(host: str, port: int, handshake: Handshake, limits: Limits) -> Desktop:
        return await open_(host, port, handshake, left.popleft() if left else limits)

    with patch.object(Desktop, "open", open_next):
        yield


@contextmanager
def _running(name: str, limits: Limits) -> Iterator[KeeperSupervisor]:
    supervisor = KeeperSupervisor(name or f"keepers {next(_numbers)}", limits=limits)
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(supervisor.run(stop)), name="keepers", daemon=True)
    thread.start()
    try:
        yield supervisor
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(LONG_S)
        assert not thread.is_alive(), "the keepers do not stop"
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def until_state(session: SupportSession, state: str, *, timeout_s: float = LONG_S) -> SupportSession:
    """Waits for a state that stays: `starting` may be over before anybody looks, see `until_lost`."""
    until(
        lambda: SupportSession.objects.filter(pk=session.pk, state=state).exists(),
        lambda: f"the session is {state}; it is {again(session).state}",
        timeout_s=timeout_s,
    )
    return again(session)


def until_lost(session: SupportSession, *, times: int = 1, timeout_s: float = LONG_S) -> None:
    """Waits until the desktop was lost so often, by the trail: it may be back at once."""
    lost = SessionEvent.objects.filter(session=session, kind="desktop_lost")
    until(lambda: lost.count() >= times, "the desktop is lost", timeout_s=timeout_s)
