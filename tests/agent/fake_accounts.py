#!/usr/bin/env python3
"""Plays useradd, chpasswd, usermod, userdel, getent, pkill and systemctl, by the name it is called with.

What there is stands in `accounts.json` beside it, every call in `calls`. Strict: other arguments than those that the
hooks need, or steps in an order that the real programs refuse, end it with a status as theirs. `trouble` holds names of
programs that are to fail.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main(program: Path, arguments: list[str]) -> int:
    folder, name = program.parent, program.name
    given = sys.stdin.read() if name == "chpasswd" else ""
    state = json.loads((folder / "accounts.json").read_text(encoding="utf-8"))
    with open(folder / "calls", "a", encoding="utf-8") as calls:
        print(" ".join([name, *arguments]), file=calls)
    trouble = folder / "trouble"
    if trouble.exists() and name in trouble.read_text(encoding="utf-8").split():
        print(f"{name}: told to fail", file=sys.stderr)
        return 1
    status = _PROGRAMS[name](state, arguments, given)
    (folder / "accounts.json").write_text(json.dumps(state), encoding="utf-8")
    return status


def _useradd(state: dict[str, Any], arguments: list[str], given: str) -> int:
    *options, user = arguments
    expected = ["--create-home", "--shell", "/bin/bash", "--comment", "support, for one rescue"]
    if options[: len(expected)] != expected or options[len(expected) :] not in ([], ["--groups", "remote,video"]):
        return 2
    if user in state["users"]:
        return 9
    state["users"][user] = {"password": "", "groups": options[len(expected) + 1 :], "locked": False, "running": True}
    return 0


def _chpasswd(state: dict[str, Any], arguments: list[str], given: str) -> int:
    user, colon, password = given.partition(":")
    if arguments or not colon or not password.endswith("\n") or password.count("\n") > 1 or user not in state["users"]:
        return 1
    state["users"][user]["password"] = password[:-1]
    return 0


def _usermod(state: dict[str, Any], arguments: list[str], given: str) -> int:
    if arguments[:3] != ["--lock", "--expiredate", "1"] or arguments[3] not in state["users"]:
        return 6
    state["users"][arguments[3]]["locked"] = True
    return 0


def _pkill(state: dict[str, Any], arguments: list[str], given: str) -> int:
    if arguments[:2] != ["-KILL", "-u"] or arguments[2] not in state["users"]:
        return 2
    was_running = state["users"][arguments[2]]["running"]
    state["users"][arguments[2]]["running"] = False
    return 0 if was_running else 1


def _userdel(state: dict[str, Any], arguments: list[str], given: str) -> int:
    if arguments[:1] != ["--remove"] or arguments[1] not in state["users"]:
        return 6
    user = state["users"][arguments[1]]
    if user["running"]:
        return 8
    if not user["locked"]:
        return 99  # somebody could log in between the last look and now
    del state["users"][arguments[1]]
    return 12  # as userdel ends where there is no mail spool to remove


def _getent(state: dict[str, Any], arguments: list[str], given: str) -> int:
    if arguments[:1] != ["passwd"]:
        return 1
    return 0 if arguments[1] in state["users"] else 2


def _systemctl(state: dict[str, Any], arguments: list[str], given: str) -> int:
    if arguments not in (["start", "xrdp"], ["stop", "xrdp"]):
        return 5
    state["rdp"] = arguments[0] == "start"
    return 0


_PROGRAMS = {
    "useradd": _useradd,
    "chpasswd": _chpasswd,
    "usermod": _usermod,
    "userdel": _userdel,
    "getent": _getent,
    "pkill": _pkill,
    "systemctl": _systemctl,
}

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]), sys.argv[1:]))
