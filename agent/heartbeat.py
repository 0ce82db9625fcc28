"""The sign of life: what a healthy machine tells the server every half minute, and what it hears back."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from agent.api import ApiError, Client
from agent.config import AgentConfig
from agent.rescue import Rescue

log = logging.getLogger("agent.heartbeat")


class Heartbeat:
    """Beats until told to stop; a line that is down costs a log line, never the beat after it."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        api: Client,
        rescue: Rescue,
        faults: Callable[[], list[str]] | None = None,
        is_due: Callable[[], bool] = lambda: True,
    ) -> None:
        self._config = config
        self._api = api
        self._rescue = rescue
        self._faults = faults
        self._is_due = is_due  # False while there is no line on which to beat
        self._rtt_ms: int | None = None  # of the beat before
        self._is_down = False

    def beat(self) -> None:
        """Says once what there is to say. Raises ApiError."""
        started = time.monotonic()
        faults = self._faults() if self._faults is not None else None
        request = self._api.heartbeat(software=self._config.software, faults=faults, rtt_ms=self._rtt_ms)
        self._rtt_ms = round((time.monotonic() - started) * 1000)
        self._rescue.drop_orphan(request)

    def beat_until(self, stop: threading.Event) -> None:
        """Beats every `heartbeat_s` seconds, a little early or late so that a fleet does not beat in step."""
        while not stop.is_set():
            if not self._is_due():
                stop.wait(min(1.0, self._config.heartbeat_s))
                continue
            try:
                self.beat()
                if self._is_down:
                    log.info("heartbeat: support answers again")
                self._is_down = False
            except ApiError as error:
                if not self._is_down:  # one line for an outage, not one for each beat of it
                    log.warning("heartbeat: %s", error)
                self._is_down = True
            stop.wait(self._config.heartbeat_s * random.uniform(0.9, 1.1))
