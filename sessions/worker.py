"""The worker: brings about what the rows wish for, again and again, and whatever died half-way is taken up or undone.

Several may run, as threads here or as processes elsewhere: leases and guarded UPDATEs keep them apart. The bell wakes
it at once when something changed in this process; a look every second finds the rest.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime

from django.db import close_old_connections, connections
from django.utils import timezone

from machines.profile_passes import ProfilePasses
from machines.vpn import base as vpn_base
from sessions import bell, gateway_rows, signs_of_life
from sessions.ending_passes import EndingPasses
from sessions.gateway_passes import GatewayPasses
from sessions.gateways import base as gateways_base

logger = logging.getLogger(__name__)

POLL_S = 1.0
_MAX_BACK_OFF_S = 30.0


class Worker:
    """One pair of hands; `name` stands in the leases it takes, so no two workers may share one."""

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], datetime] = timezone.now,
        driver_for: Callable[[str], gateways_base.GatewayDriver] = gateways_base.get_driver,
        vpn: Callable[[], vpn_base.VpnDriver] = vpn_base.get_driver,
    ) -> None:
        self.name = name[:64]
        self._gateways = GatewayPasses(self.name, now, driver_for)
        self._endings = EndingPasses(now, vpn)
        self._profiles = ProfilePasses(now)

    def run_pass(self) -> None:
        """Looks at everything once. Raises when the database is away; one thing's failure is only logged."""
        self._gateways.run()
        self._endings.run()
        self._profiles.run()

    def run_for_ever(self, stop: threading.Event) -> None:
        """Passes until `stop` is set; nothing that goes wrong ends it."""
        failures = 0
        buried_at = -POLL_S
        try:
            while not stop.is_set():
                seen = bell.count()
                close_old_connections()
                try:
                    if time.monotonic() - buried_at >= POLL_S:
                        signs_of_life.bury_dead(gateway_rows.forget_process)
                        buried_at = time.monotonic()
                    self.run_pass()
                    failures = 0
                except Exception:
                    failures += 1
                    delay_s = min(2.0 ** (failures - 1), _MAX_BACK_OFF_S)
                    logger.exception("Worker %s: a pass failed; the next one is in %.0f s", self.name, delay_s)
                    stop.wait(delay_s)
                    continue
                bell.wait(seen=seen, timeout_s=POLL_S)
        finally:
            connections.close_all()


def start_threads(count: int, *, process: str, stop: threading.Event) -> list[threading.Thread]:
    """Starts `count` workers of this process; join them after setting `stop` (ringing the bell spares a second).

    `process` is the name of the process's SignOfLife: its leases are free as soon as it is dead.
    """
    threads = []
    for number in range(1, count + 1):
        worker = Worker(f"{process}:{number}")
        thread = threading.Thread(target=worker.run_for_ever, args=(stop,), name=f"worker {number}", daemon=True)
        thread.start()
        threads.append(thread)
    return threads
