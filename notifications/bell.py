"""A bell that says "there is something to send": wakes this process's senders, threads and loops alike.

A lost ring costs at most one polling interval; nothing depends on it but speed.
"""

from __future__ import annotations

import asyncio
import threading

_condition = threading.Condition()
_rings = 0
_listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()


def ring() -> None:
    """Wakes all who wait; callable from any thread."""
    global _rings
    with _condition:
        _rings += 1
        _condition.notify_all()
        listeners = list(_listeners)
    for loop, event in listeners:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            continue  # that loop has ended


def count() -> int:
    """How often the bell has rung: take it before looking for work, give it to `wait` afterwards."""
    with _condition:
        return _rings


def wait(*, seen: int, timeout_s: float) -> None:
    """Blocks until the bell has rung since `seen` was taken, or the time is over."""
    with _condition:
        _condition.wait_for(lambda: _rings != seen, timeout=timeout_s)


class Listener:
    """The bell for one event loop: `event` is set by each ring, and cleared by whoever listens."""

    async def __aenter__(self) -> Listener:
        self.event = asyncio.Event()
        self._entry = (asyncio.get_running_loop(), self.event)
        with _condition:
            _listeners.add(self._entry)
        return self

    async def __aexit__(self, *_: object) -> None:
        with _condition:
            _listeners.discard(self._entry)
