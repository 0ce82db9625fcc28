"""A few threads that ask telemetry, so that whoever waits for an answer can stop waiting.

They are daemons and never more than their number: a telemetry that hangs costs these threads and no other, and nothing
waits for them when the process ends, as it would with concurrent.futures' own pool.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from django.db import connections

logger = logging.getLogger(__name__)


class Hands:
    """So many threads at most, started when first needed."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count, self._name = count, name
        self._queue: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0

    def begin(self, work: Callable[[], None]) -> Future[None]:
        """Has the work done when a hand is free; the future is done then. One cancelled before is never begun."""
        future: Future[None] = Future()
        with self._lock:
            if self._started < self._count:
                self._started += 1
                name = f"{self._name} {self._started}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
        self._queue.put((future, work))
        return future

    def dismiss(self) -> None:
        """The threads end after what they are at; nothing is begun any more."""
        with self._lock:
            for _ in range(self._started):
                self._queue.put(None)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                work()
            except Exception:
                logger.exception("What a thread of %s was to do failed", self._name)
            finally:
                connections.close_all()
                future.set_result(None)
