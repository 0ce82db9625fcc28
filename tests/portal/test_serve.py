"""`manage.py serve` as a person starts and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from portal.management.commands.serve import Command
from sessions.gateways import processes
from sessions.gateways.base import GatewayStatus, Handle, StillStopping
from tests.fakes.gateway_driver import FakeGateways
from tests.portal.server_process import ServerProcess


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path) as process:
        yield process


def _status(port: int, path: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": "127.0.0.1"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_faces_are_up_and_end_within_seconds(serve: ServerProcess, number: signal.Signals) -> None:
    process = serve.start()
    public, machines = serve.until_ready()
    assert _status(public, "/accounts/login/")[0] == 200
    status, body = _status(machines, "/healthz")
    assert status == 200 and json.loads(body)["status"] == "ok"
    # The two never share a listener (T21).
    assert _status(public, "/api/v1/support-requests/")[0] == 404
    assert _status(machines, "/accounts/login/")[0] == 404
    assert _status(machines, "/api/v1/sessions/")[0] == 404
    process.send_signal(number)
    assert process.wait(serve.patience_s(10)) == 0, serve.log.read_text()
    assert not serve.ready_file.exists()
    assert "Traceback" not in serve.log.read_text()


def test_parts_can_run_elsewhere(serve: ServerProcess) -> None:
    through_sns = {"NOTIFY_VIA": "sns", "NOTIFY_SNS_TOPIC": "arn:aws:sns:eu-west-1:123456789012:portafilter"}
    process = serve.start("--no-worker", "--no-keeper", "--no-machine-api", **through_sns)
    (public,) = serve.until_ready()
    assert _status(public, "/accounts/login/")[0] == 200
    assert _status(public, "/hooks/sns/")[0] == 405
    process.terminate()
    assert process.wait(serve.patience_s(10)) == 0, serve.log.read_text()
    told = len(serve.log.read_text())
    # And the machines' face by itself, with the portal's port left to others; nobody pushes there either.
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = serve.start("--machine-api-only", PUBLIC_BIND=f"127.0.0.1:{port}", **through_sns)
        (machines,) = serve.until_ready()
    assert _status(machines, "/healthz")[0] == 200
    assert _status(machines, "/accounts/login/")[0] == 404
    # A worker, a keeper or a pusher would hold its sign of life here.
    assert not [*(serve.folder / "processes").iterdir()]
    assert "Portafilter is at" not in serve.log.read_text()[told:]
    process.terminate()
    assert process.wait(serve.patience_s(10)) == 0, serve.log.read_text()


def test_serving_no_face_at_all_is_refused() -> None:
    with pytest.raises(CommandError, match="not allowed with"):
        call_command("serve", "--machine-api-only", "--no-machine-api")


def test_portal_is_up_while_openvpn_and_its_address_are_not(serve: ServerProcess) -> None:
    values = {"VPN": "openvpn", "VPN_NETWORK": "10.231.0.0/20", "VPN_REMOTE": "vpn.example.com"}
    process = serve.start("--no-worker", "--no-keeper", MACHINE_API_BIND="10.231.0.1:0", **values)
    public, _ = serve.until_ready()
    assert _status(public, "/accounts/login/")[0] == 200
    assert "http://10.231.0.1:" in serve.log.read_text()
    process.terminate()
    assert process.wait(serve.patience_s(10)) == 0


@pytest.mark.parametrize("setting", ["PUBLIC_BIND", "MACHINE_API_BIND"])
def test_taken_port_is_one_sentence_and_a_failure(serve: ServerProcess, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = serve.start(**{setting: f"127.0.0.1:{port}"})
        assert process.wait(60) == 1
    assert serve.log.read_text().strip() == (
        f"CommandError: Cannot listen on 127.0.0.1:{port}: Address already in use. "
        f"Set {setting} to an address that is free here."
    )
    assert not serve.ready_file.exists()


def test_open_page_does_not_hold_up_the_end(serve: ServerProcess) -> None:
    process = serve.start()
    public, machines = serve.until_ready()
    with (
        socket.create_connection(("127.0.0.1", public)) as idle,
        socket.create_connection(("127.0.0.1", machines)) as half,
    ):
        idle.sendall(b"GET /accounts/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        idle.recv(100)
        half.sendall(b"POST /api/v1/heartbeat/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        process.terminate()
        assert process.wait(serve.patience_s(15)) == 0, serve.log.read_text()


@pytest.mark.parametrize("stop", [True, False])
def test_gateways_are_stopped_at_the_end_only_when_asked(serve: ServerProcess, stop: bool) -> None:
    marks = {"PORTAFILTER_INSTALLATION": str(serve.folder), "PORTAFILTER_GATEWAY": "an-attempt"}
    foreign = {**marks, "PORTAFILTER_INSTALLATION": "another"}
    with (
        subprocess.Popen(["sleep", "300"], env={**os.environ, **marks, "PORTAFILTER_PORT": "1"}) as ours,
        subprocess.Popen(["sleep", "300"], env={**os.environ, **foreign, "PORTAFILTER_PORT": "1"}) as others,
    ):
        try:
            process = serve.start("--no-worker", *(["--stop-gateways"] if stop else []))
            serve.until_ready()
            process.terminate()
            assert process.wait(60) == 0, serve.log.read_text()
            assert (ours.poll() is not None) == stop
            assert others.poll() is None
        finally:
            ours.kill()
            others.kill()


def test_warm_gateways_end_with_the_server_when_asked(serve: ServerProcess) -> None:
    serve.seed({"A1": "127.64.0.1"})
    process = serve.start("--stop-gateways", GATEWAY_WARM="1")

    def states() -> list[str]:
        with contextlib.closing(sqlite3.connect(serve.folder / "db.sqlite3", timeout=60)) as database:
            return [state for (state,) in database.execute("SELECT state FROM support_gateway")]

    serve.until(lambda: states() == ["ready"])
    assert processes.find(PORTAFILTER_INSTALLATION=str(serve.folder))
    process.terminate()
    assert process.wait(60) == 0, serve.log.read_text()
    assert processes.find(PORTAFILTER_INSTALLATION=str(serve.folder)) == []
    assert states() == ["stopping"], "the next start confirms it, and takes none that is gone for ready"


@pytest.mark.django_db
def test_gateways_that_end_slowly_are_all_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Slow(FakeGateways):
        def stop(self, attempt_id: str, handle: Handle) -> None:
            told.append(attempt_id)
            raise StillStopping("It is still stopping.")

    driver = Slow()
    driver.alive = dict.fromkeys(["one", "two"], GatewayStatus("ready"))
    monkeypatch.setattr("portal.management.commands.serve.get_driver", lambda choice: driver)
    Command()._stop_gateways()
    assert told == ["one", "two"]
