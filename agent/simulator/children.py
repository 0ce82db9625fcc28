"""Programs that die with this process, however it dies."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from agent.processes import birth_of

_STOP_S = 3.0


class MissingProgram(Exception):
    """A program that the simulator needs is not installed; the text names it and its Debian package."""


_PACKAGES = {
    "Xvfb": "xvfb",
    "xdotool": "xdotool",
    "freerdp-shadow-cli": "freerdp2-shadow-x11",
    "setpriv": "util-linux",
    "/usr/bin/python3": "python3",
}


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a program that is killed when this process dies, even by SIGKILL. Raises MissingProgram.

    Linux ends such a child when the *thread* that started it ends (prctl(2), PR_SET_PDEATHSIG), so all are started by
    one thread that lives as long as the process. `setpriv` does the prctl after the fork: no Python runs between fork
    and exec, where the locks of a threaded process are not to be trusted.
    """
    result: Future[subprocess.Popen[bytes]] = Future()
    _start_thread()
    _wanted.put((["setpriv", "--pdeathsig", "KILL", "--", *command], options, result))
    return result.result()


def require(*programs: str) -> None:
    """Raises MissingProgram for the first of these that is not installed."""
    for program in programs:
        if not any(os.access(Path(folder) / program, os.X_OK) for folder in os.get_exec_path()):
            raise MissingProgram(f"{program} is missing: install the Debian package {_PACKAGES.get(program, program)}.")


def stop(process: subprocess.Popen[bytes], *, term: signal.Signals = signal.SIGTERM) -> None:
    """Ends the program, gently for three seconds, then surely; returns when it is gone."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(term)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def kill_leftover(pid: int, birth: str) -> bool:
    """Kills a process of an earlier run, if it is still that one; True when it was."""
    if pid <= 1 or not birth or birth_of(pid) != birth:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return True


_wanted: queue.Queue[tuple[list[str], dict[str, Any], Future[subprocess.Popen[bytes]]]] = queue.Queue()
_starting = threading.Lock()
_thread: threading.Thread | None = None


def _start_thread() -> None:
    global _thread
    with _starting:
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_serve, name="children", daemon=True)
            _thread.start()


def _serve() -> None:
    while True:
        command, options, result = _wanted.get()
        try:
            result.set_result(subprocess.Popen(command, **options))
        except FileNotFoundError:
            result.set_exception(MissingProgram("setpriv is missing: install the Debian package util-linux."))
        except BaseException as error:
            result.set_exception(error)
