"""What every gateway driver promises, tried with a real guacd."""

from __future__ import annotations

import socket
import time
import uuid
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sessions.gateways import ecs_probes, ecs_tasks, fixed, processes
from sessions.gateways.base import GatewayStatus
from tests.sessions.gateways.conftest import Case, new_request, place
from tests.waiting import LONG_S, until

pytestmark = pytest.mark.real


def _arguments_offered(status: GatewayStatus) -> str:
    """What guacd at a gateway answers to `select,rdp`."""
    with socket.create_connection((status.host, status.port), timeout=LONG_S) as sock:
        sock.sendall(b"6.select,3.rdp;")
        text = ""
        while ";" not in text:
            data = sock.recv(65536)
            assert data, "guacd hung up"
            text += data.decode()
        return text


def test_started_gateway_speaks_guacamole(case: Case) -> None:
    status = case.start(new_request())
    assert status.state == "ready"
    assert _arguments_offered(status).startswith("4.args,13.VERSION_1_")


def test_starting_again_finds_the_same_gateway(case: Case) -> None:
    request = new_request()
    first = case.start(request)
    assert place(case.start(request)) == place(first)


def test_running_gateway_is_described_as_ready(case: Case) -> None:
    request = new_request()
    started = case.start(request)
    assert case.driver.describe(request.attempt_id, started.handle) == started


def test_another_process_finds_it_by_its_handle(case: Case) -> None:
    request = new_request()
    started = case.start(request)
    other = replace(case, driver=type(case.driver)())
    assert other.driver.describe(request.attempt_id, started.handle) == started
    assert place(other.start(request)) == place(started)
    other.stop(request, started)


def test_what_never_ran_is_stopped(case: Case) -> None:
    attempt_id = str(uuid.uuid4())
    assert case.driver.describe(attempt_id, {}).state == "stopped"
    case.driver.stop(attempt_id, {})


def _is_dead(status: GatewayStatus) -> bool:
    """Whether guacd is gone for the kernel, too."""
    if "pid" in status.handle:
        return not processes.is_alive(int(status.handle["pid"]), int(status.handle["started"]))
    try:
        socket.create_connection((status.host, status.port), timeout=LONG_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_dead_guacd_is_told_from_a_living_one_within_two_seconds(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    request = new_request()
    started = case.start(request)
    assert case.driver.describe(request.attempt_id, started.handle) == started
    killed_at = time.monotonic()
    case.kill(started)
    until(lambda: _is_dead(started), "guacd is gone")
    two_seconds_later = SimpleNamespace(monotonic=lambda: max(killed_at + 2, time.monotonic()))
    for module in (fixed, ecs_probes, ecs_tasks):
        monkeypatch.setattr(module, "time", two_seconds_later)
    assert case.driver.describe(request.attempt_id, started.handle).state == "stopped"


def test_stopping_twice_is_fine_and_leaves_nothing(case: Case) -> None:
    request = new_request()
    started = case.start(request)
    case.stop(request, started)
    case.stop(request, started)
    assert request.attempt_id not in case.driver.running()


def test_sweep_sees_what_runs(case: Case) -> None:
    requests = [new_request(), new_request()]
    for request in requests:
        case.start(request)
    expected = sorted(request.attempt_id for request in requests) if case.owns_processes else []
    assert case.driver.running() == expected
