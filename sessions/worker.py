"""The worker: brings about what the rows wish for, again and again, and whatever died half-way is taken up or undone.

Several may run, as threads here or as processes elsewhere: leases and guarded UPDATEs keep them apart. The bell wakes
it at once when something changed in this process; a look every second finds the rest. Who asks people for help, who
keeps gateways warm, who brings profiles to machines, and what sends messages, are threads of their own: none must
delay another.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial

from django.conf import settings
from django.db import close_old_connections, connections
from django.utils import timezone

from machines.profile_passes import ProfilePasses
from machines.telemetry import asking
from machines.telemetry.base import Duty
from machines.vpn import base as vpn_base
from notifications.sender import Sender
from sessions import bell, gateway_rows, leases, signs_of_life
from sessions.asking_passes import AskingPasses
from sessions.ending_passes import EndingPasses
from sessions.gateway_passes import GatewayPasses
from sessions.gateways import base as gateways_base
from sessions.pool_passes import PoolPasses

logger = logging.getLogger(__name__)

POLL_S = 1.0
# What another process has committed rings no bell here, and somebody at a machine waits for it.
ASKER_POLL_S = 0.3
# Of this process's workers one does it all, and the next one helps when that one's pass has lasted so long: a driver's
# call may take 15 s. At once both would want the same rows, and on SQLite everybody else waits for such writers.
_HELP_AFTER_S = 2.0
# Rings within this time are one pass: each asks a dozen questions, however little there is to do.
_GATHER_S = 0.03
# The database is back for whoever waits for it within seconds, also after a long time (F10).
_MAX_BACK_OFF_S = 5.0


class Worker:
    """One pair of hands; `name` stands in the leases it takes, so no two workers may share one."""

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], datetime] = timezone.now,
        driver_for: Callable[[str], gateways_base.GatewayDriver] = gateways_base.get_driver,
        vpn: Callable[[], vpn_base.VpnDriver] = vpn_base.get_driver,
        helps: Worker | None = None,
    ) -> None:
        self.name = name[:64]
        self._helps = helps
        self._busy_since: float | None = None
        self._gateways = GatewayPasses(self.name, now, driver_for)
        self._endings = EndingPasses(now, vpn)

    def run_pass(self) -> None:
        """Looks at everything once. Raises when the database is away; one thing's failure is only logged."""
        self._gateways.run()
        self._endings.run()

    def run_for_ever(self, stop: threading.Event) -> None:
        """Passes until `stop` is set; nothing that goes wrong ends it."""
        buried_at = -POLL_S

        def run_pass() -> None:
            nonlocal buried_at
            if self._helps and not self._helps.is_held_up():
                return
            self._busy_since = time.monotonic()
            try:
                if time.monotonic() - buried_at >= POLL_S:
                    signs_of_life.bury_dead(leases.forget_process)
                    buried_at = time.monotonic()
                self.run_pass()
            finally:
                self._busy_since = None

        _run_for_ever(self.name, run_pass, stop, whom=bell.WORK, poll_s=POLL_S)

    def is_held_up(self) -> bool:
        """Whether its pass has lasted so long that another worker should look, too."""
        since = self._busy_since
        return since is not None and time.monotonic() - since >= _HELP_AFTER_S


class Stoker:
    """Who keeps gateways warm for the next press; a thread of its own, so that no rescue waits for that."""

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], datetime] = timezone.now,
        driver_for: Callable[[str], gateways_base.GatewayDriver] = gateways_base.get_driver,
    ) -> None:
        self.name = name[:64]
        self._passes = PoolPasses(self.name, now, driver_for)

    def run_pass(self) -> None:
        """Looks at every pool once. Raises when the database is away; one gateway's failure is only logged."""
        self._passes.run()

    def run_for_ever(self, stop: threading.Event) -> None:
        """Passes until `stop` is set; nothing that goes wrong ends it."""
        _run_for_ever(self.name, self.run_pass, stop, whom=bell.POOL, poll_s=POLL_S)


class Asker:
    """Who finds somebody for each rescue; `name` is for the log, since its rows need no lease."""

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], datetime] = timezone.now,
        ask_all: Callable[..., dict[int, Duty]] = asking.ask_all,
    ) -> None:
        self.name = name
        self._passes = AskingPasses(now, ask_all)

    def run_pass(self) -> None:
        """Looks at every rescue once. Raises when the database is away; one rescue's failure is only logged."""
        self._passes.run()

    def run_for_ever(self, stop: threading.Event) -> None:
        """Passes until `stop` is set; nothing that goes wrong ends it."""
        asking.warm_up()
        _run_for_ever(self.name, self.run_pass, stop, whom=bell.ASKING, poll_s=ASKER_POLL_S)


class Porter:
    """Who brings profiles to their machines: by telemetry, which may be slow, and no rescue waits for that."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._passes = ProfilePasses()

    def run_for_ever(self, stop: threading.Event) -> None:
        """Passes until `stop` is set; nothing that goes wrong ends it."""
        _run_for_ever(self.name, self._passes.run, stop, whom=bell.PROFILES, poll_s=POLL_S)


_registered: dict[str, Callable[[str], Callable[[], None]]] = {}


def register_hands(name: str, make: Callable[[str], Callable[[], None]]) -> None:
    """Has the worker's process do something more, which is none of the rescues' matter, in a thread of its own.

    `make` is called in that process with the name for its leases, and answers with one pass: called every POLL_S, it
    looks at everything once and may raise, which is logged. `portal` registers; a name once more replaces what it was.
    """
    _registered[name] = make


def start_threads(count: int, *, process: str, stop: threading.Event) -> list[threading.Thread]:
    """Starts `count` workers of this process, its stoker, asker, porter and sender; join them after setting `stop`.

    Ringing the bell then spares a moment. `process` is the name of the process's SignOfLife: its leases are free as
    soon as it is dead.
    """
    threads = []
    workers: list[Worker] = []
    for number in range(1, count + 1):
        workers.append(Worker(f"{process}:{number}", helps=workers[-1] if workers else None))
    hands: list[tuple[str, Callable[[threading.Event], None]]] = [
        *((f"worker {number}", worker.run_for_ever) for number, worker in enumerate(workers, 1)),
        ("stoker", Stoker(f"{process}:stoker").run_for_ever),
        ("asker", Asker(f"{process}:asker").run_for_ever),
        ("porter", Porter(f"{process}:porter").run_for_ever),
        ("sender", Sender(f"{process}:sender").run_for_ever),
        *((name, partial(_run_registered, f"{process}:{name}", make)) for name, make in _registered.items()),
        *((("gateway watch", watch),) if (watch := _gateway_watch()) else ()),
    ]
    for name, run_for_ever in hands:
        thread = threading.Thread(target=run_for_ever, args=(stop,), name=name, daemon=True)
        thread.start()
        threads.append(thread)
    return threads


def _gateway_watch() -> Callable[[threading.Event], None] | None:
    """What listens for the driver's news, where it hears any."""
    try:
        driver = gateways_base.get_driver(settings.GATEWAY)
    except Exception:
        return None  # the first gateway that is wanted says so, in a rescue's record
    if not isinstance(driver, gateways_base.Watching):
        return None

    def watch(stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                driver.watch(stop, gateway_rows.hurry)
                return  # there is nothing to listen to, or it is over
            except Exception:
                logger.exception("What gateways do is not heard; listening again in %.0f s", _MAX_BACK_OFF_S)
                stop.wait(_MAX_BACK_OFF_S)
            finally:
                connections.close_all()

    return watch


def _run_registered(name: str, make: Callable[[str], Callable[[], None]], stop: threading.Event) -> None:
    # Nobody rings for them: the bell is heard only when it tells to stop.
    _run_for_ever(name, make(name), stop, whom=name, poll_s=POLL_S)


def _run_for_ever(
    name: str,
    run_pass: Callable[[], None],
    stop: threading.Event,
    *,
    whom: str,
    poll_s: float,
) -> None:
    failures = 0
    try:
        while not stop.is_set():
            began_at, seen = time.monotonic(), bell.count(whom)
            close_old_connections()
            try:
                run_pass()
                failures = 0
            except Exception:
                failures += 1
                delay_s = min(2.0 ** (failures - 1), _MAX_BACK_OFF_S)
                logger.exception("Worker %s: a pass failed; the next one is in %.0f s", name, delay_s)
                stop.wait(delay_s)
                continue
            bell.wait(seen=seen, timeout_s=poll_s, whom=whom, unless=stop.is_set)
            stop.wait(max(began_at + _GATHER_S - time.monotonic(), 0))
    finally:
        connections.close_all()
