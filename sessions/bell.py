"""A bell that says "there is work": wakes the worker's threads and the loop's listeners of this process.

A lost ring costs at most one polling interval; nothing depends on it but speed. Who asks people for help has a bell
of its own: it is to be quick, and has nothing to do with the many rings about gateways.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable

_condition = threading.Condition()
_rings: Counter[str] = Counter()
_listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

WORK = "work"
ASKING = "asking"
POOL = "pool"  # warm gateways: none of the rescues' matter until one is claimed
PROFILES = "profiles"  # nobody rings it yet: who waits for it hears the ring that tells to stop


def ring(whom: str = WORK) -> None:
    """Wakes all who wait for this; callable from any thread."""
    with _condition:
        _rings[whom] += 1
        _condition.notify_all()
        listeners = list(_listeners) if whom == WORK else []
    for loop, event in listeners:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            continue  # that loop has ended, perhaps since the list was made: no matter of whoever rings


def count(whom: str = WORK) -> int:
    """How often the bell has rung: take it before looking for work, give it to `wait` afterwards."""
    with _condition:
        return _rings[whom]


def wait(*, seen: int, timeout_s: float, whom: str = WORK, unless: Callable[[], bool] = lambda: False) -> None:
    """Blocks until the bell has rung since `seen` was taken, or the time is over.

    `unless` is asked at every ring, whomever it is for: whoever is to stop hears the ring that tells of it.
    """
    with _condition:
        _condition.wait_for(lambda: _rings[whom] != seen or unless(), timeout=timeout_s)


class Listener:
    """The bell for one event loop: `async with Listener() as bell: await bell.wait(timeout_s=1)`."""

    async def __aenter__(self) -> Listener:
        self._event = asyncio.Event()
        self._entry = (asyncio.get_running_loop(), self._event)
        with _condition:
            _listeners.add(self._entry)
        return self

    async def __aexit__(self, *_: object) -> None:
        with _condition:
            _listeners.discard(self._entry)

    async def wait(self, *, timeout_s: float) -> None:
        """Returns when the bell has rung since the last call, or the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()
