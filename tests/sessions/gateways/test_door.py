"""The worker at a gateway's door: join.py itself at the other end, and what somebody in its place might answer."""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_django.fixtures import Settings

from machines import gateway_identities
from machines.models import GatewayIdentity, SecurityEvent
from sessions.gateways import door
from sessions.gateways.base import GatewayError
from tests.machines.requests import request
from tests.waiting import LONG_S

pytestmark = [pytest.mark.django_db, pytest.mark.real]

ROOT = Path(__file__).resolve().parents[3]
ATTEMPT = "7f3e5a0c-0000-4000-8000-00000000000a"
HOST = "127.0.0.1"


def load_join() -> Any:
    """join.py, which is a program in an image and in no package."""
    spec = importlib.util.spec_from_file_location("join", ROOT / "backbone/images/gateway/join.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def join(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program, whose VPN comes up when it has a profile."""
    module = load_join()
    monkeypatch.setattr(module, "is_inside", lambda folder, device: (Path(folder) / "address").exists())
    return module


@pytest.fixture(autouse=True)
def live(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    settings.VPN_NETWORK = ipaddress.ip_network("10.77.0.0/20")
    attempts = {ATTEMPT}
    monkeypatch.setattr(gateway_identities, "_sources", [lambda: attempts])
    return attempts


@contextmanager
def opened(join: Any) -> Iterator[tuple[Any, int]]:
    """A gateway whose door is open, and its port."""
    folder = tempfile.mkdtemp(prefix="pf-join-", dir="/dev/shm")
    gateway = join.Gateway(folder, "tun0")
    served = join._Door(HOST, 0, gateway)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield gateway, served.server_address[1]
    finally:
        served.shutdown()
        thread.join()
        served.server_close()
        shutil.rmtree(folder)


@contextmanager
def in_its_place(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """Somebody who answers in the gateway's place, and their port."""

    def serve(at: socket.socket) -> None:
        while True:
            try:
                line, _ = at.accept()
                with line:
                    line.recv(4096)
                    answer(line)
            except OSError:
                if at.fileno() < 0:
                    return

    with socket.create_server((HOST, 0)) as at:
        thread = threading.Thread(target=serve, args=(at,), daemon=True)
        thread.start()
        yield at.getsockname()[1]
        at.shutdown(socket.SHUT_RDWR)
    thread.join(LONG_S)


def enter(port: int, *, timeout_s: float = LONG_S) -> str:
    return door.join(HOST, port, ATTEMPT, timeout_s=timeout_s)


def kinds() -> list[str]:
    return list(SecurityEvent.objects.order_by("pk").values_list("kind", flat=True))


def test_gateway_joins_by_a_key_that_was_born_there_and_stays(join: Any) -> None:
    with opened(join) as (gateway, port):
        assert enter(port) == "10.77.0.2" == gateway.address
        key = Path(gateway.path("key.pem")).read_text()
        profile = Path(gateway.path("profile.ovpn")).read_text()
        assert "PRIVATE KEY" in key and "PRIVATE KEY" not in profile
        assert gateway.certificate == GatewayIdentity.objects.get().sha256
        assert {path.stat().st_mode & 0o777 for path in Path(gateway.folder).iterdir()} <= {0o600, 0o644}
        assert enter(port) == "10.77.0.2"  # again, as after a crash of the worker
    assert kinds().count("gateway_identity_issued") == 1


def test_worker_that_crashed_before_it_brought_the_profile_is_followed_by_another(join: Any) -> None:
    with opened(join) as (gateway, port):
        gateway_identities.admit(ATTEMPT, gateway.request)
        assert enter(port) == "10.77.0.2"


def test_answer_to_the_profile_that_was_lost_is_no_harm(join: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange = door._exchange

    def lose(host: str, port: int, deadline: float, what: str, body: bytes = b"") -> tuple[int, bytes]:
        answer = exchange(host, port, deadline, what, body)
        if body:
            raise GatewayError("lost")
        return answer

    with opened(join) as (_, port):
        with monkeypatch.context() as patch, pytest.raises(GatewayError, match="lost"):
            patch.setattr(door, "_exchange", lose)
            enter(port)
        assert enter(port) == "10.77.0.2"


def test_gateway_that_is_not_in_the_vpn_yet_is_asked_again(join: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    later, ask = SimpleNamespace(s=0.0), door._ask

    def ask_until_it_has_its_profile(host: str, port: int, deadline: float) -> Any:
        gateway = ask(host, port, deadline)
        later.s += 2 * LONG_S if gateway.certificate else 0
        return gateway

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + later.s, sleep=time.sleep)
    with opened(join) as (_, port):
        with monkeypatch.context() as patch, pytest.raises(GatewayError, match="not in the VPN yet") as raised:
            patch.setattr(join, "is_inside", lambda folder, device: False)
            patch.setattr(door, "_ask", ask_until_it_has_its_profile)
            patch.setattr(door, "time", clock)
            enter(port)
        assert not raised.value.permanent
        assert enter(port) == "10.77.0.2"


def test_second_key_at_the_attempts_address_is_an_alarm_and_the_end_of_it(join: Any) -> None:
    with opened(join) as (_, port):
        enter(port)
    with opened(join) as (second, port):  # who has the address now has another key
        with pytest.raises(GatewayError, match="another key") as raised:
            enter(port)
        assert raised.value.permanent
        assert not second.taken.is_set()
    assert "gateway_refused" in kinds()
    assert gateway_identities.allow_list() == {}


def test_profile_that_somebody_else_has_brought_before_is_an_alarm(join: Any, settings: Settings) -> None:
    with opened(join) as (gateway, port):
        other = gateway_identities.admit(ATTEMPT, request())
        GatewayIdentity.objects.all().delete()
        assert gateway.take({"profile": other.text, "address": "10.77.0.9"})
        with pytest.raises(GatewayError, match="not ours") as raised:
            enter(port)
        assert raised.value.permanent
    event = SecurityEvent.objects.get(kind="gateway_refused")
    assert (event.address, event.detail["gateway"]) == (HOST, ATTEMPT)
    assert gateway_identities.allow_list() == {}


def test_attempt_that_is_over_gets_nothing(join: Any, live: set[str]) -> None:
    live.clear()
    with opened(join) as (gateway, port):
        with pytest.raises(GatewayError) as raised:
            enter(port)
        assert raised.value.permanent and not gateway.taken.is_set()


def test_nobody_at_the_door_is_no_end(join: Any) -> None:
    with socket.socket() as closed:
        closed.bind((HOST, 0))  # held, so that it is nobody else's meanwhile, and not listening
        with pytest.raises(GatewayError, match="does not answer") as raised:
            enter(closed.getsockname()[1])
    assert not raised.value.permanent


def _dribble(line: socket.socket) -> None:
    """Never ends by itself, and never keeps silent for long."""
    line.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    while True:
        line.sendall(b" ")
        time.sleep(0.02)


ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "drop by drop": _dribble,
    "without end": lambda line: line.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1_000_000),
    "not HTTP": lambda line: line.sendall(b"5.error,0.;\r\n\r\n"),
    "a redirect": lambda line: line.sendall(b"HTTP/1.0 302 Found\r\nLocation: http://169.254.169.254/\r\n\r\n"),
    "no JSON": lambda line: line.sendall(b"HTTP/1.0 200 OK\r\n\r\n<html>"),
    "another shape": lambda line: _say(line, {"request": ["x"], "certificate": "", "inside": False}),
    "no fingerprint": lambda line: _say(line, {"request": "x", "certificate": "'; DROP", "inside": True}),
}


def _say(line: socket.socket, document: object) -> None:
    line.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(document).encode())


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_whoever_answers_in_its_place_gets_no_identity_and_holds_nobody_up(
    answer: Callable[[socket.socket], None],
) -> None:
    with in_its_place(answer) as port, pytest.raises(GatewayError):
        enter(port, timeout_s=0.5)  # the time is for all of it: what is sent drop by drop has no end
    assert not GatewayIdentity.objects.exists()


def test_those_who_only_hold_lines_open_do_not_keep_the_worker_out(join: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_EACH_S", 0.3)
    with opened(join) as (_, port):
        idle = [socket.create_connection((HOST, port)) for _ in range(join._AT_ONCE + 4)]
        deadline = time.monotonic() + LONG_S
        while True:
            try:
                assert enter(port, timeout_s=5) == "10.77.0.2"
                break
            except GatewayError as error:
                assert not error.permanent and time.monotonic() < deadline, error
        for line in idle:
            line.close()


def test_address_that_swallows_everything_does_not_hold_the_worker_up() -> None:
    """So is a gateway's for seconds, between the coming of its network and of its program."""
    with socket.socket() as full:
        full.bind((HOST, 0))
        full.listen(0)
        with ExitStack() as waiting:
            for _ in range(3):  # as many as are not accepted; what comes then is dropped
                line = waiting.enter_context(socket.socket())
                line.setblocking(False)
                line.connect_ex(full.getsockname())
            began = time.monotonic()
            with pytest.raises(GatewayError, match="does not answer"):
                door.join(HOST, full.getsockname()[1], ATTEMPT, timeout_s=100)
            assert time.monotonic() - began < LONG_S
