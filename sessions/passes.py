"""What all passes of the worker share: one thing that goes wrong does not keep the others from their turn."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeVar

from django.db import InterfaceError, OperationalError

from sessions.errors import SupportError

logger = logging.getLogger(__name__)

T = TypeVar("T")


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
