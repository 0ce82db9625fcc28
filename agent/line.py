"""The way to support, as a rescue sees it: a tunnel that stands so or so, or none that is needed."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

# How the tunnel stands
OFF = "off"
CONNECTING = "connecting"
UP = "up"
LOST = "lost"  # it was up, the line is gone, OpenVPN tries again
HALTED = "halted"  # ended by the server; it stays so until the tunnel is up again
REFUSED = "refused"  # the server does not admit this machine; it stays so until it does
FAILED = "failed"  # the program ended for a reason of its own


@dataclass(frozen=True)
class LineState:
    """How the tunnel stands.

    What is hopeless needs a technician. `ended_at` (monotonic) is when the server first ended or refused the tunnel
    without a connection since; None when it did not.
    """

    name: str = OFF
    address: str = ""
    detail: str = ""
    ended_at: float | None = None
    is_hopeless: bool = False

    @property
    def is_up(self) -> bool:
        return self.name == UP

    @property
    def ended_for_s(self) -> float:
        """For how long now the server wants this machine out."""
        return time.monotonic() - self.ended_at if self.ended_at is not None else 0.0

    @property
    def is_ended_by_server(self) -> bool:
        return self.name in (HALTED, REFUSED)


class Line(Protocol):
    """What a rescue needs to know of the way to support."""

    @property
    def state(self) -> LineState: ...

    def hold(self) -> None:
        """Wants the way open, until as many calls of `release`."""

    def wait_until_up(self, stop: threading.Event, timeout_s: float) -> bool:
        """True as soon as it is open; False at `stop` or when the time is over."""

    def expect_end(self) -> None:
        """The server is about to end it, and then it need not come back for this holder."""

    def release(self) -> None:
        """No longer wants it; the last holder ends it."""


class NoTunnel:
    """A line that needs no tunnel of ours: the server is reached as things are."""

    state = LineState(UP)

    def hold(self) -> None:
        pass

    def wait_until_up(self, stop: threading.Event, timeout_s: float) -> bool:
        return True

    def expect_end(self) -> None:
        pass

    def release(self) -> None:
        pass
