"""Programs that the agent starts: told from later ones with the same number, and ended surely."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_POLL_S = 0.02


def birth_of(pid: int) -> str:
    """What tells a process from a later one with the same number: its start time in clock ticks; "" when it is gone.

    Linux (proc(5)); elsewhere always "", so that nothing is taken for a leftover that might be something else.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    after_name = stat.rpartition(")")[2].split()
    return "" if after_name[0] in "ZX" else after_name[19]


def group_options() -> dict[str, Any]:
    """Options of Popen by which a program gets a group of its own: Ctrl-C in a terminal is for the agent alone."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def end_group(process: subprocess.Popen[bytes], *, gently_s: float) -> None:
    """Ends a program started with `group_options` and all of its group, gently first; returns when it is gone."""
    if process.poll() is None:
        _signal_group(process.pid, "SIGTERM")
        try:
            process.wait(gently_s)
        except subprocess.TimeoutExpired:
            _signal_group(process.pid, "SIGKILL")
    process.wait()


def end_leftover(pid: int, birth: str, *, gently_s: float) -> bool:
    """Ends a group leader of an earlier run, if it is still that one; True when it was. Returns when it is gone."""
    if pid <= 1 or not birth or birth_of(pid) != birth:
        return False
    _signal_group(pid, "SIGTERM")
    deadline = time.monotonic() + gently_s
    while birth_of(pid) == birth:
        if time.monotonic() > deadline:
            _signal_group(pid, "SIGKILL")
        time.sleep(_POLL_S)
    return True


def _signal_group(pid: int, name: str) -> None:
    if sys.platform == "win32":
        os.kill(pid, signal.SIGTERM)  # which is TerminateProcess there: Windows knows no gentler way
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.Signals[name])
