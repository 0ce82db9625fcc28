"""Starts and ends the demo's programs: the simulated machines and the server, both children of `manage.py demo`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from portal.demo.errors import DemoError

_LOOK_AGAIN_S = 0.05
_LOG_TAIL_LINES = 12
_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class ToldToStop(Exception):
    """Ctrl-C, a closed terminal or SIGTERM."""


class Program:
    """A child with its output in a log, told to end when this process dies in whatever way.

    It has a session of its own: a Ctrl-C in the terminal reaches this process alone, which ends its children in order.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, ready_file: Path, environment: dict[str, str]
    ) -> None:
        self.name = name
        self.log = log
        self._ready_file = ready_file
        ready_file.unlink(missing_ok=True)
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def wait_until_ready(self, *, timeout_s: float) -> None:
        """Returns when the program has written its ready file; raises DemoError when it ends or is too slow."""
        self.wait_until(self._ready_file.exists, timeout_s=timeout_s)

    def wait_until(self, is_ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Returns when it is ready by another sign; raises DemoError when it ends or is too slow."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name}: not ready after {timeout_s:g} s. {self._last_words()}")
            time.sleep(_LOOK_AGAIN_S)

    def check(self) -> None:
        """Raises DemoError when the program has ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise DemoError(f"{self.name} ended by itself (status {status}). {self._last_words()}")

    def tell_to_stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()

    def wait_until_gone(self, *, timeout_s: float) -> bool:
        """Returns when the program has ended; False when it had to be killed."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return f"All that it said is in {self.log}; the last of it:\n" + "\n".join(f"    {line}" for line in lines)


def check_port(name: str, address: tuple[str, int], *, example: str) -> None:
    """Raises DemoError when nothing can listen there; it names the port, the setting and an example of another."""
    host, port = address
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise DemoError(
            f"Port {port} of {host} cannot be used: {_reason(error)}. End the program that has it, "
            f"or choose another port with {name}, as in: {name}={example} make run"
        ) from error


def _reason(error: OSError) -> str:
    # socket.create_server adds to the system's words; an address that cannot be resolved has only its own.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error.strerror or error)


@contextlib.contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Inside, the first signal that wants an end raises ToldToStop where the program is; later ones are ignored.

    Later ones are, because what follows is the clean-up, and a second Ctrl-C must not leave half of it undone.
    """

    def raise_once(number: int, frame: FrameType | None) -> None:
        for ending in _ENDING_SIGNALS:
            signal.signal(ending, signal.SIG_IGN)
        raise ToldToStop

    before = {number: signal.signal(number, raise_once) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
