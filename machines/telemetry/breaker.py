"""A circuit breaker: after a few failures in a row nobody waits for what is down, until a trial has gone well.

Not pybreaker: that holds its lock while the call runs, so callers would queue behind the very thing that is slow, makes
one of them wait for the trial, and goes by the wall clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

FAILURES = 3
REST_S = 10.0


class Breaker:
    """Closed: call. Open: don't, but for one trial every `rest_s` seconds, which no caller should wait for."""

    def __init__(
        self, *, failures: int = FAILURES, rest_s: float = REST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit, self._rest_s, self._clock = failures, rest_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._next_trial_at: float | None = None

    @property
    def is_open(self) -> bool:
        return self._next_trial_at is not None

    def take_trial(self) -> bool:
        """Whether the caller may try now what is open; true for one caller only, then not for `rest_s` seconds."""
        with self._lock:
            if self._next_trial_at is None or self._clock() < self._next_trial_at:
                return False
            self._next_trial_at = self._clock() + self._rest_s
            return True

    def succeeded(self) -> bool:
        """A call went well, in time; whether that closed it."""
        with self._lock:
            closed, self._next_trial_at, self._failures = self._next_trial_at is not None, None, 0
            return closed

    def failed(self) -> bool:
        """A call went wrong or took too long; whether that opened it."""
        with self._lock:
            self._failures += 1
            if self._failures < self._limit or self._next_trial_at is not None:
                return False
            self._next_trial_at = self._clock() + self._rest_s
            return True
