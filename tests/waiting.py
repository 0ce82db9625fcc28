"""Waiting for the thing itself, up to a deadline, instead of for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(told: Callable[[], T], what: str | Callable[[], str] = "", *, timeout_s: float = 10) -> T:
    """What `told()` gives as soon as it is true; AssertionError that says what is missing when it is not in time.

    `what` may be something that looks at the end how far it came.
    """
    deadline = time.monotonic() + timeout_s
    while not (result := told()):
        if time.monotonic() >= deadline:
            missing = what() if callable(what) else what
            raise AssertionError(f"not within {timeout_s:g} s: {missing or told}")
        time.sleep(0.01)
    return result
