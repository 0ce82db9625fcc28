"""What one process knows of attempts beside their rows; whatever it knows, another one comes to know by itself.

With several workers the one that begins an attempt is seldom the one that ends it, so what nobody has asked about for
an hour is forgotten.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

_FORGET_S = 3600.0


@dataclass
class Attempt:
    """Times are by the monotonic clock."""

    touched_at: float
    unanswered_at: float | None = None  # when it was ordered, as long as there is no answer
    searched_at: float = -math.inf  # when its task was last searched for, without a handle
    found: str = ""  # and which it is
    last_words: str = ""  # what was last found at a starting one
    line_looked_at: float = -math.inf  # when it was last asked whether it has lost the VPN
    has_lost_line: bool = False


class Attempts:
    """Those that somebody asks about, for any number of threads."""

    def __init__(self) -> None:
        self._known: dict[str, Attempt] = {}
        self._lock = threading.Lock()

    def of(self, attempt_id: str) -> Attempt:
        """What is known of one; do not keep it, as it may be forgotten meanwhile."""
        now = time.monotonic()
        with self._lock:
            if attempt_id not in self._known:
                kept = {name: one for name, one in self._known.items() if now - one.touched_at < _FORGET_S}
                self._known = {**kept, attempt_id: Attempt(now)}
            found = self._known[attempt_id]
            found.touched_at = now
            return found

    def forget(self, attempt_id: str) -> None:
        """It is over."""
        with self._lock:
            self._known.pop(attempt_id, None)

    def __len__(self) -> int:
        return len(self._known)
