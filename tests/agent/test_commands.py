"""`python3 -m agent`, as the button on a machine and a technician run it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.store import RescueStore
from tests.agent.scripted_api import ScriptedApi

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def settings(server: ScriptedApi, tmp_path: Path) -> Path:
    path = tmp_path / "agent.ini"
    path.write_text(
        f"""
[api]
url = {server.url}
token = {server.token}
poll_wait_s = 60
[rdp]
open_command =
    {sys.executable}
    -c
    import sys, pathlib; sys.stdin.read(); pathlib.Path({str(tmp_path / "open")!r}).touch()
close_command =
    {sys.executable}
    -c
    import sys, pathlib; sys.stdin.read(); pathlib.Path({str(tmp_path / "open")!r}).unlink(missing_ok=True)
""",
        encoding="utf-8",
    )
    return path


def _start(settings: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent", "--config", str(settings), *arguments],
        cwd=_ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _done(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_press_prints_what_the_person_reads_until_the_end(server: ScriptedApi, settings: Path) -> None:
    press = _start(settings, "press", "--code", "E17", "--text", "Grinder jammed")
    server.wait_for_calls("GET", 1)
    assert (settings.parent / "open").exists()
    status = _done(_start(settings, "status"))
    assert status[:2] == (0, "requested: We have your request.\n")
    server.update("r1", state="closed", end_reason="resolved", message="Enjoy your coffee.")
    code, out, _ = _done(press)
    assert code == 0 and out.splitlines()[-2:] == ["requested: We have your request.", "closed: Enjoy your coffee."]
    assert not (settings.parent / "open").exists()
    assert _done(_start(settings, "status"))[1] == "No rescue is open on this machine.\n"


def test_cancel_from_another_terminal_ends_the_press(server: ScriptedApi, settings: Path) -> None:
    press = _start(settings, "press")
    server.wait_for_calls("GET", 1)
    assert _done(_start(settings, "cancel"))[:2] == (0, "The request is withdrawn.\n")
    server.update("r1", state="closed")
    assert _done(press)[0] == 0
    assert server.requests["r1"]["end_reason"] == "cancelled" and not (settings.parent / "open").exists()


def test_terminated_press_shuts_rdp_and_run_takes_it_up(server: ScriptedApi, settings: Path) -> None:
    press = _start(settings, "press")
    server.wait_for_calls("GET", 1)
    press.send_signal(signal.SIGTERM)
    code, _, err = _done(press)
    assert code == 130 and "goes on at the next" in err
    assert not (settings.parent / "open").exists()

    run = _start(settings, "run")
    server.wait_for_calls("GET", 3)  # once whether it goes on, then the long poll with RDP open
    assert (settings.parent / "open").exists()
    assert server.wait_for_calls("POST", 2)[1].path == "/api/v1/heartbeat/"
    server.update("r1", state="closed", message="Done.")
    run.send_signal(signal.SIGTERM)
    assert _done(run)[0] == 130
    assert not (settings.parent / "open").exists()


def test_killed_press_is_cleaned_up_by_cancel(server: ScriptedApi, settings: Path) -> None:
    press = _start(settings, "press")
    server.wait_for_calls("GET", 1)
    press.kill()
    _done(press)
    assert (settings.parent / "open").exists()
    assert _done(_start(settings, "cancel"))[0] == 0
    assert not (settings.parent / "open").exists()
    assert RescueStore(settings.parent / "state").read() is None
    assert server.requests["r1"]["end_reason"] == "cancelled"


def test_wrong_settings_and_refusals_are_said_in_one_line(server: ScriptedApi, settings: Path) -> None:
    server.fail("POST", "status", 403)
    code, _, err = _done(_start(settings, "heartbeat"))
    assert code == 1 and err.splitlines()[-1] == f"{server.url} answered 403: scripted trouble"
    settings.write_text("[api]\n", encoding="utf-8")
    code, _, err = _done(_start(settings, "press"))
    assert code == 2 and err == f"{settings}: [api] url is missing, and there is no default for it.\n"
