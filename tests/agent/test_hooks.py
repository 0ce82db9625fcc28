"""The Linux hooks, run as the agent runs them, with stand-ins for the programs that make and remove accounts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.credentials import one_off_credentials
from agent.rdp import CommandHook, RdpError
from tests.agent.fake_accounts import _PROGRAMS

_HOOKS = Path(__file__).resolve().parents[2] / "agent" / "hooks"
_OPEN, _CLOSE = str(_HOOKS / "linux" / "open-rdp"), str(_HOOKS / "linux" / "close-rdp")
_USER = "help-x7k2m9q4ta"


class Accounts:
    """The accounts of a machine that is not this one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        source = Path(__file__).with_name("fake_accounts.py").read_text(encoding="utf-8")
        for name in _PROGRAMS:
            program = folder / name
            program.write_text(source.replace("#!/usr/bin/env python3", f"#!{sys.executable}", 1), encoding="utf-8")
            program.chmod(0o755)
        (folder / "accounts.json").write_text('{"users": {}, "rdp": false}', encoding="utf-8")

    def fail(self, *programs: str) -> None:
        (self._folder / "trouble").write_text(" ".join(programs), encoding="utf-8")

    @property
    def calls(self) -> list[str]:
        path = self._folder / "calls"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def __getitem__(self, name: str) -> Any:
        return json.loads((self._folder / "accounts.json").read_text(encoding="utf-8"))[name]


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    made = Accounts(tmp_path / "sbin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'sbin'}:{os.environ['PATH']}")
    monkeypatch.delenv("RDP_GROUPS", raising=False)
    monkeypatch.delenv("RDP_SERVICE", raising=False)
    return made


def _hook() -> CommandHook:
    return CommandHook((_OPEN,), (_CLOSE,), port=3389, timeout_s=60)


def _run(hook: str, given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([hook], input=given, capture_output=True, text=True, timeout=60, check=False)


def test_one_off_user_is_there_for_the_rescue_only(accounts: Accounts) -> None:
    credentials = one_off_credentials()
    assert _hook().open(credentials) == 3389
    assert accounts["rdp"] and accounts["users"][credentials.username]["password"] == credentials.password
    _hook().close(credentials.username)
    assert not accounts["rdp"] and accounts["users"] == {}
    assert not any(credentials.password in call for call in accounts.calls), "no argument holds the password"


def test_user_who_is_gone_already_is_fine(accounts: Accounts) -> None:
    _hook().close(_USER)
    assert not any(call.startswith(("userdel", "usermod")) for call in accounts.calls)


@pytest.mark.parametrize("program", ["useradd", "chpasswd", "systemctl"])
def test_half_a_success_leaves_nothing_open(accounts: Accounts, program: str) -> None:
    accounts.fail(program)
    opened = _run(_OPEN, f"{_USER}\nS3cretS3cret\n")
    assert opened.returncode != 0 and "S3cret" not in opened.stdout + opened.stderr
    assert accounts["users"] == {} and not accounts["rdp"]


@pytest.mark.parametrize("program", ["userdel", "systemctl"])
def test_user_that_cannot_be_removed_is_said(accounts: Accounts, program: str) -> None:
    credentials = one_off_credentials()
    _hook().open(credentials)
    accounts.fail(program)
    with pytest.raises(RdpError, match="ended with status 1"):
        _hook().close(credentials.username)
    assert all(user["locked"] and not user["running"] for user in accounts["users"].values())


def test_groups_and_no_service_are_settings(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDP_GROUPS", "remote,video")
    monkeypatch.setenv("RDP_SERVICE", "")
    credentials = one_off_credentials()
    _hook().open(credentials)
    assert accounts["users"][credentials.username]["groups"] == ["remote,video"]
    _hook().close(credentials.username)
    assert accounts["users"] == {} and not any(call.startswith("systemctl") for call in accounts.calls)


@pytest.mark.parametrize(
    "user",
    ["", "root", "alice", "help-desk", "help-", "-help-x7k2m9q4t", "help-x7k2m9q4t;", "help-X7K2M9Q4TA",
     "help-x7k2m9q4tä", "help-x7k2m9q4t ", "help-x7k2m9q4taa", "$(reboot)", "help-../../../.."],
)  # fmt: skip
def test_no_other_name_than_the_agents_is_touched(accounts: Accounts, user: str) -> None:
    for hook in (_OPEN, _CLOSE):
        done = _run(hook, f"{user}\nS3cretS3cret\n")
        assert done.returncode == 2 and "expected a one-off user" in done.stderr
    assert accounts.calls == []


@pytest.mark.parametrize("password", ["", "with:colon", "with space", "quote'", "new\nline:x", "umlautß"])
def test_password_that_is_not_the_agents_is_refused_unseen(accounts: Accounts, password: str) -> None:
    done = _run(_OPEN, f"{_USER}\n{password}\n")
    if password == "new\nline:x":  # the second line ends where it ends; what follows is nobody's
        assert accounts["users"][_USER]["password"] == "new"
        return
    assert done.returncode == 2 and "expected a password" in done.stderr
    assert accounts["users"] == {} and (not password or password not in done.stderr)


def test_scripts_are_what_a_posix_shell_reads() -> None:
    for hook in (_OPEN, _CLOSE):
        assert os.access(hook, os.X_OK)
        assert subprocess.run(["sh", "-n", hook], check=False).returncode == 0
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", _OPEN, _CLOSE], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


def test_windows_pair_says_that_it_was_not_run_here() -> None:
    for name in ("Open-Rdp.ps1", "Close-Rdp.ps1"):
        text = (_HOOKS / "windows" / name).read_text(encoding="utf-8-sig")
        assert "NOT RUN" in text[:600] and text.isascii() and text.count("{") == text.count("}")
