"""Gateways in memory: they start well, slowly, not at all, or start and then say that they did not; and they die.

`NeverReady` and `ReadyAtOnce` are for servers of which only what goes before and beside a desktop is looked at.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus, Handle


class Start(StrEnum):
    """What becomes of one start."""

    GOOD = "good"
    SLOW = "slow"  # `starting`, ready at the second look
    THROTTLED = "throttled"  # an error that is worth another try, nothing runs
    REFUSED = "refused"  # an error for good
    NO_ROOM = "no_room"  # the same, and one that is gone would help
    WAITING = "waiting"  # `starting`, and waits for room for ever
    FAILED = "failed"  # the answer is `failed`, as an ECS that answers 200 without a task
    LOST_ANSWER = "lost_answer"  # it runs, but the answer is a time-out
    BROKEN = "broken"  # the driver itself has a bug


class FakeGateways:
    """A driver whose gateways are entries of `alive`; any thread may call it."""

    def __init__(self) -> None:
        self.alive: dict[str, GatewayStatus] = {}
        self.starts: deque[Start] = deque()  # what becomes of the next ones; then all are good
        self.requests: list[GatewayRequest] = []
        self.started: list[str] = []  # each time that something really came to run
        self.stops_refused = 0  # so many stops fail before one works
        self.looks_refused = 0  # so many descriptions fail
        self.at_step: Callable[[str], None] = lambda step: None  # called before and after each call, with its name
        self.ordered_with: dict[str, str | int] = {}  # what a handle says of settings
        self._looks: dict[str, int] = {}
        self._lock = threading.Lock()

    def start(self, request: GatewayRequest) -> GatewayStatus:
        self.at_step("before start")
        with self._lock:
            self.requests.append(request)
            status = self._start(request.attempt_id)
        self.at_step("after start")
        return status

    def _start(self, attempt_id: str) -> GatewayStatus:
        if attempt_id in self.alive:
            return self.alive[attempt_id]
        plan = self.starts.popleft() if self.starts else Start.GOOD
        if plan == Start.THROTTLED:
            raise GatewayError("Rate exceeded.")
        if plan == Start.REFUSED:
            raise GatewayError("No such image.", permanent=True)
        if plan == Start.BROKEN:
            raise KeyError("tasks")
        if plan == Start.FAILED:
            return GatewayStatus("failed", detail="No capacity.")
        if plan == Start.NO_ROOM:
            return GatewayStatus("failed", detail="No room.", no_room=True)
        handle: dict[str, str | int] = {"number": len(self.started), **self.ordered_with}
        ready = GatewayStatus("ready", "127.0.0.1", 40000 + len(self.started), handle)
        self.started.append(attempt_id)
        self.alive[attempt_id] = GatewayStatus("starting", handle=handle) if plan == Start.SLOW else ready
        if plan == Start.WAITING:
            self._looks[attempt_id] = -10_000
            self.alive[attempt_id] = GatewayStatus("starting", handle=handle, no_room=True)
        if plan == Start.LOST_ANSWER:
            raise GatewayError("The call timed out.")
        return self.alive[attempt_id]

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        with self._lock:
            if self.looks_refused:
                self.looks_refused -= 1
                raise GatewayError("Nobody knows.")
            status = self.alive.get(attempt_id)
            if status is None:
                return GatewayStatus("stopped", detail="It is gone.")
            if status.state == "starting":
                self._looks[attempt_id] = self._looks.get(attempt_id, 0) + 1
                if self._looks[attempt_id] >= 2:
                    status = GatewayStatus("ready", "127.0.0.1", 41000, status.handle)
                    self.alive[attempt_id] = status
            return status

    def stop(self, attempt_id: str, handle: Handle) -> None:
        self.at_step("before stop")
        with self._lock:
            if self.stops_refused:
                self.stops_refused -= 1
                raise GatewayError("It does not stop.")
            self.alive.pop(attempt_id, None)
        self.at_step("after stop")

    def mark(self) -> dict[str, str | int]:
        return self.ordered_with

    def running(self) -> list[str]:
        with self._lock:
            return sorted(self.alive)

    def die(self) -> None:
        """All that runs is gone, as after a crash of its host."""
        with self._lock:
            self.alive.clear()


class NeverReady:
    """Gateways that never come, and need no guacd: GATEWAY=tests.fakes.gateway_driver.NeverReady."""

    def start(self, request: GatewayRequest) -> GatewayStatus:
        return GatewayStatus("starting")

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        return GatewayStatus("starting")

    def stop(self, attempt_id: str, handle: Handle) -> None:
        return

    def running(self) -> list[str]:
        return []


class ReadyAtOnce(NeverReady):
    """Gateways that are there and answer nobody; for servers with no keeper, that would want to join them."""

    def start(self, request: GatewayRequest) -> GatewayStatus:
        return GatewayStatus("ready", "127.0.0.1", 9)

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        return GatewayStatus("ready", "127.0.0.1", 9)
