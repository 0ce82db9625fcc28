"""The program of the crash loop: it presses help, forks real worker processes, and plays everybody else's part.

Orders and answers are lines of JSON; what is forked has everything loaded already, so that a worker is at work within
milliseconds. Waits are shortened, and nothing else is changed: looks that are seconds apart are 50 ms apart, and the
sweep comes every _SWEEP_EVERY_S instead of every 30 s.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django

_SWEEP_EVERY_S = 0.5
_PATIENCE_S = 60.0


def main() -> None:
    """Lives of rescues, one an order: {"serial": …, "is_withdrawn": …}."""
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    _hurry()
    _load()
    _say(ready=True)
    while order := sys.stdin.readline():
        _live(**json.loads(order))


def _hurry() -> None:
    from sessions import gateway_passes, gateway_steps, worker
    from sessions.gateways import ecs, ecs_tasks

    often = timedelta(seconds=0.05)
    changes: list[tuple[Any, str, Any]] = [
        (worker, "POLL_S", 0.05),
        (gateway_steps, "LOOK_EVERY", often),
        (gateway_passes, "LOOK_EVERY", often),
        (gateway_passes, "_SWEEP_EVERY", timedelta(seconds=_SWEEP_EVERY_S)),
        (ecs_tasks, "STARTING_PACE", (0.15,)),
        (ecs_tasks, "AT_ONCE", (0.05,)),
        (ecs, "_STOP_LOOKS_S", (0.15, 0.15)),
    ]
    for module, name, value in changes:
        assert hasattr(module, name), f"{module.__name__} has no {name} any more"
        setattr(module, name, value)


def _load() -> None:
    """The driver with its client: what is forked has them, and has asked nobody anything yet."""
    from sessions.gateways.base import get_driver
    from sessions.gateways.ecs import EcsGateways

    driver = get_driver("ecs")
    assert isinstance(driver, EcsGateways)
    driver._aws._client("ecs")


def _live(serial: str, is_withdrawn: bool) -> None:
    """One rescue from press to closed; `is_withdrawn`: as soon as its worker has died, before another one comes.

    Says the session and its worker's pid and waits for a line before that begins; says it again when the session is
    closed; ends the worker when another line comes.
    """
    from tests.sessions.rescues import press

    session = press(serial)
    begin, gate = os.pipe()
    child = _fork(lambda: _work(begin))
    os.close(begin)
    _say(session=str(session.pk), pid=child)
    sys.stdin.readline()
    os.write(gate, b"!")
    os.close(gate)
    child, has_died = _see_to_its_end(session.pk, child, is_withdrawn)
    _say(**_found(session.pk), has_died=has_died)
    sys.stdin.readline()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def _see_to_its_end(session_id: Any, child: int, is_withdrawn: bool) -> tuple[int, bool]:
    """Who works now, and whether the first one has died."""
    from sessions.models import Gateway, SupportSession
    from sessions.states import GatewayState, State

    has_died = False
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG)[0]:
            assert not has_died, "a second worker ended by itself"
            has_died = True
            if is_withdrawn:
                _withdraw(session_id)
            child = _fork(lambda: _work(None))
        session = SupportSession.objects.get(pk=session_id)
        gateway = Gateway.objects.filter(session=session, state=GatewayState.READY).first()
        if gateway is not None and session.state == State.STARTING:
            _hold_desktop(session, gateway)
            _withdraw(session_id)
        if session.state == State.CLOSED:
            break
        time.sleep(0.02)
    return child, has_died


def _hold_desktop(session: Any, gateway: Any) -> None:
    from sessions import services
    from sessions.models import GuacamoleConnection

    GuacamoleConnection.objects.create(
        session=session, gateway=gateway, hostname="127.64.0.1", port=3390, connection_id="$1"
    )
    services.desktop_ready(session)


def _withdraw(session_id: Any) -> None:
    from sessions import services
    from sessions.models import SupportSession

    session = SupportSession.objects.get(pk=session_id)
    if session.is_open:
        services.cancel(session)
        services.machine_told(SupportSession.objects.get(pk=session_id))


def _found(session_id: Any) -> dict[str, Any]:
    """What the database holds of it."""
    from sessions.models import Gateway, GuacamoleConnection, RdpCredential, SessionEvent, SupportSession

    session = SupportSession.objects.get(pk=session_id)
    events = SessionEvent.objects.filter(session=session).order_by("pk")
    return {
        "state": session.state,
        "end_reason": session.end_reason,
        "gateways": list(Gateway.objects.filter(session=session).values_list("state", flat=True)),
        "credentials": RdpCredential.objects.filter(session=session).count(),
        "connections": GuacamoleConnection.objects.filter(session=session, closed_at=None).count(),
        "events": list(events.values_list("kind", flat=True)),
    }


def _work(begin: int | None) -> None:
    """A worker as `manage.py work` has it; nothing but a signal ends it."""
    from sessions.signs_of_life import SignOfLife
    from sessions.worker import Worker

    if begin is not None:
        os.read(begin, 1)
    with SignOfLife() as process:
        Worker(f"{process.name}:1").run_for_ever(threading.Event())


def _fork(work: Callable[[], None]) -> int:
    from django.db import connections

    connections.close_all()
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
