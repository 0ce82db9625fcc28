"""What all passes of the worker share: one thing that goes wrong does not keep the others from their turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from django.db import InterfaceError, OperationalError

from sessions import bell
from sessions.errors import SupportError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Where a driver is not answered each step takes seconds: so long a pass begins new ones, then all else has its turn.
STEPS_S = 3.0


def each(things: Iterable[T], do: Callable[[T], None], what: str) -> None:
    """Does it for each; a thing that somebody else has changed meanwhile is passed over.

    Without its database no pass can go on: OperationalError and InterfaceError go to the caller.
    """
    for thing in things:
        try:
            do(thing)
        except SupportError as error:
            logger.debug("Passed over (%s): %s", what, error)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("Could not %s (%r); the next pass tries again", what, getattr(thing, "pk", thing))


def for_a_while(things: Iterable[T], *, whom: str = bell.WORK) -> Iterator[T]:
    """Those that there is time for in this pass, one at least; the others are due longest, so first, in the next.

    `whom` is whose bell is rung for that next one.
    """
    until = time.monotonic() + STEPS_S
    for thing in things:
        yield thing
        if time.monotonic() > until:
            bell.ring(whom)
            return
