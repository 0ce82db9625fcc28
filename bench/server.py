"""The server under measurement: an installation of its own with `manage.py serve`, and what is read of its process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.e2e.installation import ROOT, Installation, wait_until

_CSRF = "b" * 32


class Server(Installation):
    """One server, started with the arguments given; `alone`: on the first processor, for its measurer to stay off."""

    def __init__(self, folder: Path, *arguments: str, alone: bool, environment: Mapping[str, str]) -> None:
        super().__init__(folder, **{"LOG_LEVEL": "WARNING", **environment})
        self._arguments = arguments
        self._alone = alone
        self.login = ""

    def start(self, *arguments: str) -> None:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        with open(self.log_file, "ab") as log, on_processor(0 if self._alone else -1):
            process = self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--ready-file", str(ready), *self._arguments, *arguments],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: ready.exists() or process.poll() is not None, what="the server was ready", within_s=30)
        if not ready.exists():
            raise SystemExit(f"The server ended at its start: {self.log()[-2000:]}")
        self.login = self.rows_tool("login")["session_key"]

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def cookie(self) -> str:
        return f"sessionid={self.login}; csrftoken={_CSRF}"

    def rows_tool(self, what: str, **values: object) -> Any:
        """Has bench/rows.py make or read rows, in a process with the server's environment."""
        return json.loads(self._run("-m", "bench.rows", what, stdin=json.dumps(values)))

    def ticket(self, session_id: str, *, role: str = "controller") -> str:
        """A ticket for the desktop of a session that Alice has claimed."""
        request = urllib.request.Request(
            f"{self.address}/api/v1/sessions/{session_id}/attachments/",
            data=json.dumps({"role": role}).encode(),
            headers={"Cookie": self.cookie, "X-CSRFToken": _CSRF, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(json.load(answer)["ticket"])


@contextlib.contextmanager
def server(*arguments: str, alone: bool = False, **environment: str) -> Iterator[Server]:
    """A migrated and seeded server of one's own, with these settings; nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="portafilter-bench-"))
    one = Server(folder, *arguments, alone=alone, environment=environment)
    try:
        one.prepare()
        one.start()
        yield one
        if one._process is not None:
            one.stop()
    finally:
        with contextlib.suppress(Exception):
            one.remove()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def child(*command: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program that says in its first line where it listens; ended afterwards."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        line = process.stdout.readline().strip()
        if not line:
            raise SystemExit(f"{' '.join(command[:3])} ended at its start.")
        yield process, line
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def on_processor(number: int) -> Iterator[None]:
    """Programs started meanwhile run on this processor only; no change where there is no such one or no other."""
    before = os.sched_getaffinity(0)
    if number in before and len(before) > 1:
        os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def processor_s(pid: int) -> float:
    """The seconds of processor that a process has used, with the kernel's work for it."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """What a process holds in memory (RSS)."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
