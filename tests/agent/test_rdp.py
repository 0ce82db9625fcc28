"""The hook that runs commands: what they are given, what is believed of them, and what is never let slip."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from agent.credentials import Credentials
from agent.rdp import CommandHook, RdpError
from tests.agent.tunnel_files import is_alive

_LOGIN = Credentials("help-abc", "s3cret-é☕")

_OPEN = """
import pathlib, sys
user, password = sys.stdin.read().splitlines()
pathlib.Path(sys.argv[1]).write_text(repr((user, password, sys.argv[1:])))
print({prints})
print("made " + password, file=sys.stderr)
sys.exit({status})
"""
_CLOSE = "import pathlib, sys; sys.stdin.read() == 'help-abc\\n' and pathlib.Path(sys.argv[1]).unlink(missing_ok=True)"


def _hook(folder: Path, *, prints: str = "''", status: int = 0, extra: str = "") -> CommandHook:
    opening = _OPEN.format(prints=prints, status=status) + extra
    trace = str(folder / "open")
    return CommandHook(
        (sys.executable, "-c", opening, trace, "two words; $HOME"),
        (sys.executable, "-c", _CLOSE, trace),
        port=3389,
        timeout_s=30,
    )


def test_command_gets_the_login_on_stdin_and_never_in_its_arguments(tmp_path: Path) -> None:
    hook = _hook(tmp_path)
    assert hook.open(_LOGIN) == 3389
    user, password, arguments = eval((tmp_path / "open").read_text())
    assert (user, password) == ("help-abc", "s3cret-é☕")
    assert arguments == [str(tmp_path / "open"), "two words; $HOME"]
    hook.close("help-abc")
    hook.close("help-abc")
    assert not (tmp_path / "open").exists()


def test_command_may_say_which_port_it_opened(tmp_path: Path) -> None:
    assert _hook(tmp_path, prints="3395").open(_LOGIN) == 3395


@pytest.mark.parametrize(("prints", "status"), [("''", 3), ("'port 3389'", 0), ("99999", 0)])
def test_command_that_fails_is_closed_again_and_named_without_the_password(
    tmp_path: Path, prints: str, status: int
) -> None:
    with pytest.raises(RdpError) as caught:
        _hook(tmp_path, prints=prints, status=status).open(_LOGIN)
    assert sys.executable in str(caught.value) and "s3cret" not in str(caught.value)
    assert not (tmp_path / "open").exists()


def test_what_the_command_says_is_logged_without_the_password(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    _hook(tmp_path).open(_LOGIN)
    assert "made (hidden)" in caplog.text and "s3cret" not in caplog.text


def test_missing_command_is_named() -> None:
    hook = CommandHook(("/nowhere/open-rdp",), ("/nowhere/close-rdp",), port=3389, timeout_s=1)
    with pytest.raises(RdpError, match="/nowhere/close-rdp cannot be run: No such file"):
        hook.open(_LOGIN)


def test_server_left_in_the_background_does_not_hold_the_command(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    server = (
        "import pathlib, subprocess, sys; sys.stdin.read()\n"
        f"pathlib.Path({str(note)!r}).write_text(str(subprocess.Popen(['sleep', '600']).pid))"
    )
    hook = CommandHook((sys.executable, "-c", server), (sys.executable, "-c", ""), port=3389, timeout_s=60)
    hook.open(_LOGIN)
    pid = int(note.read_text())
    assert is_alive(pid)
    os.kill(pid, signal.SIGKILL)
