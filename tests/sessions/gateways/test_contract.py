"""What every gateway driver promises, tried with a real guacd."""

from __future__ import annotations

import socket
import uuid
from dataclasses import replace

import pytest

from sessions.gateways.base import GatewayError, GatewayStatus
from tests.sessions.gateways.conftest import Case, new_request, place, until

pytestmark = pytest.mark.real


def _arguments_offered(status: GatewayStatus) -> str:
    """What guacd at a gateway answers to `select,rdp`."""
    with socket.create_connection((status.host, status.port), timeout=5) as sock:
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


def test_dead_guacd_is_told_from_a_living_one_within_two_seconds(case: Case) -> None:
    request = new_request()
    started = case.start(request)
    case.kill(started)

    def is_seen() -> bool:
        try:
            return case.driver.describe(request.attempt_id, started.handle).state == "stopped"
        except GatewayError:
            return False  # while it dies nobody can tell

    until(is_seen, timeout_s=2, what="the driver sees that guacd is gone")


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
