"""Programs in namespaces, kept running as systemd would (Restart=always, RestartSec=1), until they are stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from portal.demo.errors import DemoError
from portal.demo.vpn.namespaces import enter

RESTART_S = 1.0
_LOOK_S = 0.1
_LAST_WORDS = 12


class Service:
    """One program. Its output is added to its log over all of its runs; it is told to end when we die."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        folder: Path,
        namespace: str | None = None,
        is_kept: bool = True,
        stop_s: float = 15.0,
    ) -> None:
        self.name = name
        self.log = log
        self.is_kept = is_kept
        self.starts = 0
        self._command = [*(enter(namespace) if namespace else []), "setpriv", "--pdeathsig", "TERM", "--", *command]
        self._environment = dict(environment)
        self._folder = folder
        self._stop_s = stop_s
        self._process: subprocess.Popen[bytes] | None = None
        self._ended_at: float | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """The running process; 0 while there is none."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else 0

    def start(self) -> None:
        with self._lock, os.fdopen(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as output:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
            self.starts += 1
            self._ended_at = None

    def look_after(self) -> None:
        """Starts it again when it has ended for long enough."""
        if self.pid or not self.is_kept:
            return
        now = time.monotonic()
        if self._ended_at is None:
            self._ended_at = now
        elif now - self._ended_at >= RESTART_S:
            self.start()

    def kill(self) -> None:
        """What a crash does to it."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def tell_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()

    def wait_until_gone(self) -> bool:
        """Returns when it has ended; False when it had to be killed."""
        if self._process is None:
            return True
        try:
            self._process.wait(self._stop_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def check(self) -> None:
        """Raises DemoError when a program that is not kept has ended by itself."""
        if not self.is_kept and not self.pid:
            raise DemoError(f"{self.name} ended by itself. {self.last_words()}")

    def wait_until(self, holds: Callable[[], object], *, what: str, within_s: float) -> None:
        """Returns as soon as it holds; raises DemoError with the last words of a program that ends or is too slow."""
        deadline = time.monotonic() + within_s
        while not holds():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name}: not within {within_s:g} s: {what}. {self.last_words()}")
            time.sleep(0.03)

    def has_said(self, words: str) -> bool:
        return words in self.said()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def last_words(self) -> str:
        lines = self.said().splitlines()[-_LAST_WORDS:]
        return f"All that it said is in {self.log}; the last of it:\n" + "\n".join(f"    {line}" for line in lines)


class Supervisor:
    """Looks after services in a thread of its own. `stop` ends them, the last started first."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, service: Service) -> Service:
        """Starts a service and looks after it from now on."""
        # By the calling thread, which must live on: a program is told to end when the thread that started it does.
        service.start()
        self.services.append(service)
        if self._thread is None:
            self._thread = threading.Thread(target=self._look_after, name="supervisor", daemon=True)
            self._thread.start()
        return service

    def end(self, services: Sequence[Service]) -> list[str]:
        """Ends some at the same time; the names of those that had to be killed."""
        for service in services:
            service.is_kept = False
            service.tell_to_stop()
        killed = [service.name for service in services if not service.wait_until_gone()]
        self.services = [service for service in self.services if service not in services]
        return killed

    def stop(self) -> list[str]:
        """Ends all, the last started first; the names of those that had to be killed."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        killed = []
        for service in reversed(self.services):
            service.tell_to_stop()
            if not service.wait_until_gone():
                killed.append(service.name)
        self.services.clear()
        return killed

    def _look_after(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for service in list(self.services):
                service.look_after()
