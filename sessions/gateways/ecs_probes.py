"""Whether the guacds at many addresses answer: those that are due are asked at once, so one that hangs delays no other.

A dead computer takes all its gateways with it, and each of them would hang until the time is over.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sessions.gateways import probe

_TIMEOUT_S = 1.0
# All workers of a process share one answer for so long; a dead guacd is known within two seconds (F4).
_FRESH_S = 1.2
_STALE_S = 5.0
_FORGET_S = 30.0
_AT_ONCE = 16


@dataclass
class _Place:
    """What one guacd was like when it was last asked; times by the monotonic clock."""

    asked_for_at: float
    known_at: float | None = None
    error: OSError | probe.NotGuacd | None = None


class Probes:
    """The guacds that somebody asks about, for any number of threads."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, int], _Place] = {}
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="guacd probe")

    def look(self, host: str, port: int) -> OSError | probe.NotGuacd | None:
        """What was wrong when guacd was last asked, a moment ago; None: it answers."""
        with self._lock:
            place = self._places.setdefault((host, port), _Place(time.monotonic()))
            place.asked_for_at = time.monotonic()
            if _is_fresh(place):
                return place.error
            # What was known long ago may have been another gateway's that had this address.
            is_new = place.known_at is None or time.monotonic() - place.known_at > _STALE_S
        if not self._asking.acquire(blocking=is_new):
            return place.error
        try:
            if not _is_fresh(place):
                self._ask_all()
        finally:
            self._asking.release()
        return place.error

    def _ask_all(self) -> None:
        with self._lock:
            now = time.monotonic()
            self._places = {key: one for key, one in self._places.items() if now - one.asked_for_at < _FORGET_S}
            due = [(key, place) for key, place in self._places.items() if not _is_fresh(place)]
        if len(due) == 1:
            _ask(*due[0])
        else:
            list(self._pool.map(lambda one: _ask(*one), due))


def _ask(key: tuple[str, int], place: _Place) -> None:
    error: OSError | probe.NotGuacd | None = None
    try:
        probe.answers(*key, timeout_s=_TIMEOUT_S)
    except (OSError, probe.NotGuacd) as caught:
        error = caught
    place.error, place.known_at = error, time.monotonic()


def _is_fresh(place: _Place) -> bool:
    return place.known_at is not None and time.monotonic() - place.known_at < _FRESH_S
