"""Waiting for the thing itself, up to a deadline, instead of for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# A wait that is over early costs nothing; a computer that is busy with other tests may take many times as long.
LONG_S = 30.0


def until(told: Callable[[], T], what: str | Callable[[], str] = "", *, timeout_s: float = LONG_S) -> T:
    """What `told()` gives as soon as it is true; AssertionError that says what is missing when it is not in time.

    `what` may be something that looks at the end how far it came.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        is_last = time.monotonic() >= deadline  # looked at before: held up in between, it would be given up too early
        if result := told():
            return result
        if is_last:
            missing = what() if callable(what) else what
            raise AssertionError(f"not within {timeout_s:g} s: {missing or told}")
        time.sleep(0.01)
