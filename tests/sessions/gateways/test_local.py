"""One guacd process a session: nothing of it is left, it is nobody special, and clashes heal."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from sessions.gateways import local as local_module
from sessions.gateways import processes
from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus
from sessions.gateways.local import LocalGateways
from tests.sessions.gateways.conftest import new_request
from tests.waiting import LONG_S, until

pytestmark = pytest.mark.real


def _all_of(request: GatewayRequest) -> list[processes.Process]:
    return processes.find(PORTAFILTER_GATEWAY=request.attempt_id)


def _alone(request: GatewayRequest) -> processes.Process:
    """The gateway's one process, when the child that served the start's look has gone."""
    until(lambda: len(_all_of(request)) == 1, what="one process is left")
    return _all_of(request)[0]


def _open_connection(status: GatewayStatus) -> socket.socket:
    sock = socket.create_connection((status.host, status.port), timeout=LONG_S)
    sock.sendall(b"6.select,3.rdp;")
    assert sock.recv(65536).startswith(b"4.args,")
    return sock


def test_children_of_a_killed_guacd_are_found_and_ended(local: LocalGateways) -> None:
    request = new_request()
    status = local.start(request)
    leader = _alone(request)
    # As a child in the middle of an RDP connection, which outlives its parent by 17 s and ignores a request to end.
    stubborn = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], env=leader.environment,
        process_group=0, stdout=subprocess.PIPE,
    )  # fmt: skip
    with stubborn.stdout as words:  # type: ignore[union-attr]
        assert words.readline() == b"deaf\n"
    with _open_connection(status), _open_connection(status):
        until(lambda: len(_all_of(request)) >= 4, what="two children run")
        os.kill(leader.pid, signal.SIGKILL)
        until(lambda: local.describe(request.attempt_id, status.handle).state == "stopped")
        assert stubborn.poll() is None
        local.stop(request.attempt_id, status.handle)
    assert stubborn.wait(LONG_S) == -signal.SIGKILL
    assert _all_of(request) == []


def test_process_that_ignores_a_request_to_end_is_killed(local: LocalGateways) -> None:
    request = new_request()
    status = local.start(request)
    os.kill(int(status.handle["pid"]), signal.SIGSTOP)
    local.stop(request.attempt_id, status.handle)
    assert _all_of(request) == []


def test_stop_takes_its_folder_away(local: LocalGateways) -> None:
    request = new_request()
    status = local.start(request)
    home = Path(_alone(request).environment["HOME"])
    assert home.is_dir()
    local.stop(request.attempt_id, status.handle)
    assert not home.exists()


def test_folder_that_a_crash_left_behind_is_swept(local: LocalGateways) -> None:
    request = new_request()
    local.start(request)
    leftover = Path(_all_of(request)[0].environment["HOME"]).parent / "0b0e3c5e-left-behind"
    leftover.mkdir()
    assert "0b0e3c5e-left-behind" in local.running()
    local.stop("0b0e3c5e-left-behind", {})
    assert not leftover.exists()


def test_guacd_of_root_runs_as_nobody_special_and_leaves_no_core(local: LocalGateways) -> None:
    request = new_request()
    status = local.start(request)
    pid = int(status.handle["pid"])
    if os.getuid() == 0:
        assert Path(f"/proc/{pid}").stat().st_uid != 0
        assert "CapEff:\t0000000000000000" in Path(f"/proc/{pid}/status").read_text()
    (core,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max core")]
    assert core.split()[4:6] == ["0", "0"]


def test_guacd_gets_no_settings_of_ours(local: LocalGateways, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIAL_KEYS_CANARY", "canary")
    request = new_request()
    local.start(request)
    process = _alone(request)
    marks = {"PORTAFILTER_GATEWAY", "PORTAFILTER_INSTALLATION", "PORTAFILTER_PORT", "PORTAFILTER_BEGUN"}
    assert set(process.environment) <= marks | {"PATH", "HOME", "LANG", "PWD"}


def test_taken_port_costs_another_try(local: LocalGateways, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((local_module.HOST, 0))
        taken.listen()
        real = local_module._free_port
        ports = iter([taken.getsockname()[1]] * 2)
        monkeypatch.setattr(local_module, "_free_port", lambda: next(ports, None) or real())
        status = local.start(new_request())
        assert status.state == "ready"
        assert status.port != taken.getsockname()[1]


def test_program_that_ends_at_once_is_told_with_its_last_words(
    local: LocalGateways, settings: Settings, tmp_path: Path
) -> None:
    broken = tmp_path / "guacd"
    broken.write_text("#!/bin/sh\necho 'libguac.so.19: not found' >&2\nexit 127\n")
    broken.chmod(0o755)
    for folder in [tmp_path, *tmp_path.parents[:-1]]:
        if folder.stat().st_uid == os.getuid() and folder != Path("/tmp"):
            folder.chmod(0o755)
    settings.GUACD_PATH = str(broken)
    with pytest.raises(GatewayError, match=r"ended at once.*libguac\.so\.19: not found") as caught:
        local.start(new_request())
    assert not caught.value.permanent


def test_missing_program_is_named_and_not_tried_again(local: LocalGateways, settings: Settings) -> None:
    settings.GUACD_PATH = "/nowhere/guacd"
    with pytest.raises(GatewayError, match="found no program at /nowhere/guacd") as caught:
        local.start(new_request())
    assert caught.value.permanent


@pytest.mark.parametrize("attempt_id", ["", "../../etc", "a/b", "a b", "a\nb", "-x", "x" * 65])
def test_attempt_id_that_is_no_plain_name_is_refused(local: LocalGateways, attempt_id: str) -> None:
    with pytest.raises(GatewayError, match="expected an attempt id"):
        local.start(GatewayRequest(attempt_id, "s", "127.64.0.1", 3389))
    with pytest.raises(GatewayError, match="expected an attempt id"):
        local.stop(attempt_id, {})


def test_two_workers_that_start_one_attempt_get_one_guacd(local: LocalGateways) -> None:
    request = new_request()
    drivers = [local, LocalGateways()]
    barrier = threading.Barrier(2)

    def start(driver: LocalGateways) -> GatewayStatus:
        barrier.wait()
        return driver.start(request)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, drivers)
    assert first == second
    leaders = [process for process in _all_of(request) if process.pid == process.session]
    assert len(leaders) == 1


def test_guacd_that_proc_does_not_show_yet_is_not_started_twice(
    local: LocalGateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one program becomes another, /proc/PID/environ is empty."""
    real, hidden = processes.find, list(range(8))

    def find(**marks: str) -> list[processes.Process]:
        found = real(**marks)
        return [] if found and hidden and hidden.pop() else found

    monkeypatch.setattr(processes, "find", find)
    request = new_request()
    assert local.start(request).state == "ready"
    assert not hidden
    monkeypatch.undo()
    _alone(request)


def test_nobody_else_comes_to_it_before_the_shell_has_become_guacd(
    local: LocalGateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell, option, script = local_module._WITHOUT_CORE_DUMP
    monkeypatch.setattr(
        local_module, "_WITHOUT_CORE_DUMP", (shell, option, script.replace("ulimit", "sleep 0.2; ulimit"))
    )
    request = new_request()
    leader, is_new = local._find_or_spawn(request.attempt_id, time.monotonic() + 10)
    assert leader is not None and is_new
    assert "guacd" in os.readlink(f"/proc/{leader.pid}/exe")
    local.stop(request.attempt_id, {})


def test_other_installation_sees_and_touches_nothing(local: LocalGateways, settings: Settings) -> None:
    request = new_request()
    status = local.start(request)
    settings.INSTALLATION = f"other-{uuid.uuid4()}"
    other = LocalGateways()
    assert other.running() == []
    other.stop(request.attempt_id, status.handle)
    assert len(_all_of(request)) >= 1
    assert local._folder.exists() and not other._folder.exists()


def test_lock_is_one_worker_s_at_a_time_though_its_folder_comes_and_goes(settings: Settings) -> None:
    settings.INSTALLATION = f"test-{uuid.uuid4()}"
    inside = 0
    most = 0

    def work(driver: LocalGateways) -> None:
        nonlocal inside, most
        for _ in range(150):
            with driver._exclusively():
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    drivers = [LocalGateways() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, drivers))
    assert most == 1
    assert not drivers[0]._folder.exists()


def test_number_of_a_dead_process_given_to_another_is_not_mistaken(local: LocalGateways) -> None:
    request = new_request()
    status = local.start(request)
    local.stop(request.attempt_id, status.handle)
    with subprocess.Popen(["sleep", "600"]) as stranger:
        forged = {**status.handle, "pid": stranger.pid}
        assert local.describe(request.attempt_id, forged).state == "stopped"
        local.stop(request.attempt_id, forged)
        assert stranger.poll() is None
        stranger.kill()
