"""The far side of Web Push in a process of its own: a push service that decrypts, and what it must not reach.

The service is that of the tests (tests/fakes/push_service.py). Beside it listens what a redirect of the service points
to, as something inside a network would, and counts who comes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from tests.fakes.push_service import Answer, Browser, PushService

# What becomes of what is sent to a device; none but the first is of use to anybody.
KINDS = ("good", "404", "410", "429", "500", "stall", "redirect")
STALL_S = 20.0


@dataclass(frozen=True)
class Arrival:
    """A message as its browser reads it; `device` counts the subscriptions in the order of their making."""

    device: int
    wall_at: float
    payload: dict[str, Any]


class FarSide:
    """Speaks to the process; one question at a time."""

    def __init__(self, pipe: Connection, origin: str) -> None:
        self._pipe, self.origin = pipe, origin

    def subscribe(self, kinds: Sequence[str]) -> list[dict[str, str]]:
        """A new subscription for each kind: endpoint and keys, as a browser hands them over."""
        return list(self._ask("subscribe", kinds))

    def count(self) -> int:
        """How many messages have come to good devices."""
        return int(self._ask("count"))

    def arrivals(self) -> list[Arrival]:
        """All messages to good devices, decrypted here."""
        return list(self._ask("arrivals"))

    def problems(self) -> list[str]:
        """What the service refused, as a real one would."""
        return list(self._ask("problems"))

    def came_inside(self) -> int:
        """How many connections came to where redirects lead."""
        return int(self._ask("came_inside"))

    def _ask(self, what: str, *values: Any) -> Any:
        self._pipe.send((what, values))
        return self._pipe.recv()


@contextlib.contextmanager
def far_side() -> Iterator[FarSide]:
    """The process, until the end of the block."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    try:
        yield FarSide(pipe, str(pipe.recv()))
    finally:
        pipe.close()
        process.join(5)
        process.kill()


def _serve(pipe: Connection) -> None:
    with _Inside() as inside, PushService(decrypts_at_once=False) as service:
        browsers: list[Browser] = []
        good: set[Browser] = set()
        pipe.send(service.origin)
        while True:
            try:
                what, values = pipe.recv()
            except (EOFError, ConnectionError):
                return
            arrived = [push for push in service.pushes if push.browser in good]
            match what:
                case "subscribe":
                    made = [service.browser(always=_answer(kind, inside.port)) for kind in values[0]]
                    browsers += made
                    good.update(one for one, kind in zip(made, values[0], strict=True) if kind == "good")
                    pipe.send([one.subscription for one in made])
                case "count":
                    pipe.send(len(arrived))
                case "arrivals":
                    numbers = {browser: number for number, browser in enumerate(browsers)}
                    pipe.send([Arrival(numbers[one.browser], one.wall_at, one.payload) for one in arrived])
                case "problems":
                    pipe.send(service.problems)
                case "came_inside":
                    pipe.send(inside.count)


def _answer(kind: str, inside: int) -> Answer:
    match kind:
        case "good":
            return Answer()
        case "stall":
            return Answer(stall_s=STALL_S)
        case "redirect":
            return Answer(307, {"Location": f"http://127.0.0.1:{inside}/latest/meta-data/"})
        case "429":
            return Answer(429, {"Retry-After": "2"})
        case status:
            return Answer(int(status))


class _Inside:
    """Counts connections; answers none."""

    def __enter__(self) -> _Inside:
        self.count = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.count += 1
                connection.close()
