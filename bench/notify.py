"""Help pressed on 20 machines a second → push requests at the push service, beside devices that are gone or hang."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from bench.figures import Row, percentile, spread
from bench.push import KINDS, Arrival, FarSide, far_side
from bench.server import Server, processor_s, server
from portal.management.commands.make_secrets import make_vapid_key
from tests.e2e.installation import wait_until

PER_S = 20
PRESSES = 600
# With telemetry away the circuit opens after some presses; from then on there is nothing to wait for.
PRESSES_WITHOUT_TELEMETRY = 300
OPERATORS = 30
NAIVE_PRESSES = 300
_REACHED_WITHIN_S = 30.0
_LOGIN = {"username": "once", "password": "once", "port": 3389}


@dataclass(frozen=True)
class Pressed:
    """One press: what the server called it, whom it is for, when it was sent and when the answer was there."""

    subject: str
    operator: int
    at: float
    answered_at: float


def measure() -> list[Row]:
    with far_side() as far, _server(far) as one:
        devices = _devices(far)
        machines = one.rows_tool("duty", devices=devices, machines=PRESSES)
        before = processor_s(one.pid)
        pressed = _press_all(one, machines)
        _wait_for_all(far, len(pressed) * 2)
        used = processor_s(one.pid) - before
        ours = _figures(pressed, far)
        naive, naive_inside = _naive(one, far, already_inside=ours.came_inside)
    with far_side() as far, _silent() as port, _server(far, **_telemetry(port)) as one:
        machines = one.rows_tool("duty", devices=_devices(far), machines=PRESSES_WITHOUT_TELEMETRY)
        pressed = _press_all(one, machines)
        _wait_for_all(far, len(pressed) * 2)
        without = _figures(pressed, far)
    answers = [(one.answered_at - one.at) * 1000 for one in ours.pressed]
    return [
        Row(
            f"help pressed, {PER_S} a second → push request at the service, p95", percentile(ours.took, 0.95), 1, "s",
            peer=f"django-webpush's own loop: {percentile(naive.took, 0.95):.1f} s p95 of those that came",
            detail={
                **spread(ours.took), **spread(answers, "press answered ms"), **spread(naive.took, "naive"),
                "server CPU s": round(used, 1), "refused by the service": ours.problems,
            },
        ),
        Row(
            "good devices reached", ours.share * 100, 100, "%", at_least=True,
            peer=f"django-webpush's own loop: {naive.share * 100:.0f} %",
            detail={"expected": ours.expected, "came twice": ours.twice},
        ),
        Row(
            "connections to where a redirect leads inward", ours.came_inside, 0, "",
            peer=f"django-webpush's own loop: {naive_inside}",
        ),
        Row(
            "the same with a telemetry that says nothing, p95", percentile(without.took, 0.95), 1, "s",
            peer=f"good devices reached: {without.share * 100:.0f} %",
            detail={**spread(without.took), "expected": without.expected},
        ),
    ]  # fmt: skip


@dataclass(frozen=True)
class _Found:
    pressed: list[Pressed]
    took: list[float]
    share: float
    expected: int
    twice: int
    came_inside: int
    problems: int


def _server(far: FarSide, **environment: str) -> contextlib.AbstractContextManager[Server]:
    return server(
        "--no-keeper",
        GATEWAY="tests.fakes.gateway_driver.ReadyAtOnce", VAPID_PRIVATE_KEY=make_vapid_key(), PUSH_SERVICES=far.origin,
        # Only the first step of the ladder is looked at.
        ASK_NEXT_AFTER_S="600", **environment,
    )  # fmt: skip


def _devices(far: FarSide) -> list[list[dict[str, str]]]:
    """Each operator's: a good one, one of each bad kind in turn, and one more good one."""
    bad = KINDS[1:]
    kinds = [kind for number in range(OPERATORS) for kind in ("good", bad[number % len(bad)], "good")]
    subscribed = far.subscribe(kinds)
    return [subscribed[number : number + 3] for number in range(0, len(subscribed), 3)]


def _press_all(one: Server, machines: Sequence[dict[str, Any]]) -> list[Pressed]:
    face = urlsplit(one.machine_api)
    with ThreadPoolExecutor(64) as hands:
        began, waiting = time.monotonic(), []
        for number, machine in enumerate(machines):
            time.sleep(max(0.0, began + number / PER_S - time.monotonic()))
            waiting.append(hands.submit(_press, str(face.hostname), int(face.port or 0), machine))
        return [one.result() for one in waiting]


def _press(host: str, port: int, machine: dict[str, Any]) -> Pressed:
    body = json.dumps({"rdp": _LOGIN, "problem": {"code": "E17", "text": "Grinder jammed"}})
    headers = {
        "Authorization": f"Bearer {machine['token']}",
        "Idempotency-Key": str(uuid.uuid4()),
        "Content-Type": "application/json",
    }
    connection = http.client.HTTPConnection(host, port, timeout=30, source_address=(machine["address"], 0))
    at = time.time()
    connection.request("POST", "/api/v1/support-requests/", body, headers)
    answer = connection.getresponse()
    document = json.load(answer)
    answered_at = time.time()
    connection.close()
    if answer.status != 201:
        raise SystemExit(f"A press was answered with {answer.status}: {document}")
    return Pressed(str(document["id"]), int(machine["operator"]), at, answered_at)


def _wait_for_all(far: FarSide, count: int) -> None:
    """Until all have come, or it is too late for the rest: that is then a figure."""
    with contextlib.suppress(AssertionError):
        wait_until(lambda: far.count() >= count, what="all good devices were reached", within_s=_REACHED_WITHIN_S)


def _figures(pressed: list[Pressed], far: FarSide, *, first_device: int = 0) -> _Found:
    """What came to the good devices of those whom the presses are for."""
    first: dict[tuple[str, int], float] = {}
    twice = 0
    for one in far.arrivals():
        key = (_subject(one), one.device)
        twice += key in first
        first.setdefault(key, one.wall_at)
    took, expected = [], 0
    for press in pressed:
        for device in (first_device + press.operator * 3, first_device + press.operator * 3 + 2):
            expected += 1
            if at := first.get((press.subject, device)):
                took.append(at - press.at)
    return _Found(pressed, took, len(took) / expected, expected, twice, far.came_inside(), len(far.problems()))


def _subject(arrival: Arrival) -> str:
    return str(uuid.UUID(str(arrival.payload["subject"])))


def _naive(one: Server, far: FarSide, *, already_inside: int) -> tuple[_Found, int]:
    """The same devices over again, and the same presses, for django-webpush's `send_user_notification`."""
    devices = _devices(far)
    called = one.rows_tool("naive", devices=devices, presses=NAIVE_PRESSES, per_s=PER_S, within_s=25)
    pressed = [Pressed(call["subject"], call["operator"], call["at"], call["at"]) for call in called]
    found = _figures(pressed, far, first_device=OPERATORS * 3)
    return found, found.came_inside - already_inside


@contextlib.contextmanager
def _silent() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        yield int(listener.getsockname()[1])


def _telemetry(port: int) -> dict[str, str]:
    return {
        "TELEMETRY": "http",
        "TELEMETRY_URL": f"http://127.0.0.1:{port}",
        "TELEMETRY_KEY": secrets.token_urlsafe(32),
    }
