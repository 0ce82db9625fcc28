"""`manage.py demo` as a program, with ports, a database and a state folder of its own; and the logins that it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from portal.demo.plan import EVERYWHERE
from tests import migrated
from tests.ports import free_ports
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MILANO = EVERYWHERE.machines[0]
LOGINS = ("alice", "bob", "charlie", "dora", "emi")


def logins_in(said: str) -> dict[str, str]:
    return dict(re.findall(r"as +(\w+) +(\S+)", said))


class Demo:
    """`manage.py demo` as a newcomer has it, with ports and a database of its own."""

    def __init__(self, state: Path, **environment: str) -> None:
        self.public, self.machines, self.street = free_ports(3)
        self.state = state
        self.output = state / "said"
        self._mark = f"STATE_DIR={state}"
        self._environment = {
            **os.environ,
            "STATE_DIR": str(state),
            "INSTALLATION": str(state),
            "DATABASE_URL": f"sqlite:///{state / 'demo.sqlite3'}",
            "PUBLIC_BIND": f"127.0.0.1:{self.public}",
            "MACHINE_API_BIND": f"127.0.0.1:{self.machines}",
            "STREET_PORT": str(self.street),
            **environment,
        }
        migrated.copy_to(state / "demo.sqlite3")

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with open(self.output, "wb") as output:
            command = [sys.executable, "manage.py", "demo"]
            process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=output, stderr=output)
        try:
            until(
                lambda: set(self.logins()) >= set(LOGINS) or process.poll() is not None,
                lambda: f"the logins. {self.all_said()}",
                timeout_s=120,
            )
            assert process.poll() is None, self.said()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(100)

    def press(self, serial: str) -> None:
        """Presses help on a machine from a terminal; returns when its screen says that the desktop is ready."""
        folder = str(self.state / "demo" / "machines")
        command = [sys.executable, "-m", "agent.simulator", "press", "--folder", folder, "--machine", serial]
        lines: list[str] = []
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pressing:
            assert pressing.stdout is not None
            for line in pressing.stdout:
                lines.append(line)
                if line.startswith("ready"):
                    break
            pressing.kill()
        assert lines and lines[-1].startswith("ready"), "".join(lines) + self.all_said()

    def said(self) -> str:
        return self.output.read_text()

    def all_said(self) -> str:
        """What the demo and all of its programs have written."""
        logs = [self.output, *sorted((self.state / "demo").glob("*.log")), *sorted(self.state.rglob("run/*.log"))]
        return "".join(f"--- {log.relative_to(self.state)}\n{log.read_text(errors='replace')}" for log in logs)

    def logins(self) -> dict[str, str]:
        return logins_in(self.said())

    def until_it_has_ended(self) -> None:
        until(lambda: not self.processes(), lambda: f"the end of all programs: {self.processes()}", timeout_s=100)

    def processes(self) -> list[str]:
        """What runs with this demo's state folder in its environment, guacd too."""
        return [command for _, command in self._running()]

    def process_with(self, words: str) -> int:
        """The number of this demo's process that has these words in its command."""
        return next(number for number, command in self._running() if words in command)

    def _running(self) -> list[tuple[int, str]]:
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                names = (path / "environ").read_bytes().split(b"\0")
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            marks = (self._mark, f"PORTAFILTER_INSTALLATION={self._environment['INSTALLATION']}")
            if command and any(mark.encode() in names for mark in marks):
                found.append((int(path.name), command))
        return found
