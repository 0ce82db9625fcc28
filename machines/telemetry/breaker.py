"""A circuit breaker: after a few failures in a row nobody waits for what is down, until a trial has gone well.

Not pybreaker: that holds its lock while the call runs, so callers would queue behind the very thing that is slow, makes
one of them wait for the trial, and goes by the wall clock.
"""

from __future__ import annotations

import threading

FAILURES = 3


class Breaker:
    """Closed: call. Open: don't; whoever owns it makes trials, which no caller waits for."""

    def __init__(self, *, failures: int = FAILURES) -> None:
        self._limit = failures
        self._lock = threading.Lock()
        self._failures = 0
        self._is_open = False

    @property
    def is_open(self) -> bool:
        return self._is_open

    def succeeded(self) -> bool:
        """A call went well, in time; whether that closed it."""
        with self._lock:
            closed, self._is_open, self._failures = self._is_open, False, 0
            return closed

    def failed(self) -> bool:
        """A call went wrong or took too long; whether that opened it."""
        with self._lock:
            self._failures += 1
            if self._failures < self._limit or self._is_open:
                return False
            self._is_open = True
            return True
