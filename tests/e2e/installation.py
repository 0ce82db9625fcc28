"""An installation of one's own: its folder, its database, its ports, and `manage.py serve` as a child process."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from django.test import override_settings

from sessions.gateways import processes
from sessions.gateways.local import LocalGateways
from tests import migrated
from tests.ports import free_ports
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
MACHINES = 10
# On a computer that is busy with other tests.
_START_S = 90.0
_STOP_S = 60.0


def wait_until(holds: Callable[[], object], *, what: str, within_s: float = 60.0) -> None:
    """Returns as soon as something holds that no event announces; AssertionError that names it after the deadline."""
    until(holds, what, timeout_s=within_s)


class Installation:
    """The server as a newcomer runs it: settings from the environment, SQLite, its own guacd processes.

    `environment` has settings that are to be others.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.state_dir.mkdir(mode=0o700)
        self.log_file = folder / "server.log"
        self.password = secrets.token_urlsafe(12)
        public, machine_face = free_ports(2)  # while a server is away, nobody may get them by chance
        self.address = f"http://127.0.0.1:{public}"
        self.machine_api = f"http://127.0.0.1:{machine_face}"
        net = f"127.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}"
        self.machines = {f"IT-{number:04}": f"{net}.{number}" for number in range(1, MACHINES + 1)}
        self.tokens: dict[str, str] = {}
        self._database = self.state_dir / "portafilter.sqlite3"
        self._process: subprocess.Popen[bytes] | None = None
        self._environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ},
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "CREDENTIAL_KEYS": Fernet.generate_key().decode(),
            "STATE_DIR": str(self.state_dir),
            "DATABASE_URL": f"sqlite:///{self._database}",
            "PUBLIC_ORIGINS": self.address,
            "PUBLIC_BIND": f"127.0.0.1:{public}",
            "MACHINE_API_BIND": f"127.0.0.1:{machine_face}",
            "GATEWAY": "local",
            "VPN": "loopback",
            "LOG_LEVEL": "DEBUG",  # where a secret would show first
            **environment,
        }

    # --- the child ---------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Makes the database, with people and machines."""
        migrated.copy_to(self._database)
        people_and_machines = {"password": self.password, "serials_and_addresses": [*self.machines.items()]}
        self.tokens = json.loads(self._run("-m", "tests.e2e.seed", stdin=json.dumps(people_and_machines)))

    def choose(self, **environment: str) -> None:
        """Other settings, from the next start on."""
        self._environment |= environment

    def start(self, *arguments: str) -> None:
        """Returns when the server, started with these arguments, says that it is ready."""
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "serve", "--ready-file", str(ready), *arguments],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(
            lambda: ready.exists() or self._process is None or self._process.poll() is not None,
            what="the server was ready or ended",
            within_s=_START_S,
        )
        assert ready.exists(), f"the server ended at its start: {self.log()[-3000:]}"

    def stop(self) -> int:
        """Asks the server to end (SIGTERM); its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """The server's computer loses power, as far as the server can tell; its guacd processes live on."""
        self._end(signal.SIGKILL)

    def remove(self) -> None:
        """Ends the server and what it left, gracefully or not."""
        self.kill()
        with self._gateways() as gateways:
            for attempt in gateways.running():
                gateways.stop(attempt, {})
            shutil.rmtree(gateways._folder, ignore_errors=True)  # the installation is no more, and so is its lock

    def _end(self, signal_: signal.Signals) -> int:
        if self._process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal_)
        code = self._process.wait(_STOP_S)
        self._process = None
        return code

    def _run(self, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_START_S,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr[-3000:]}"
        return done.stdout

    # --- what there is to see from outside ---------------------------------------------------------------------------

    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """What the database holds, past all of the server's code."""
        with contextlib.closing(sqlite3.connect(self._database, timeout=10)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def change(self, statement: str, *values: object) -> None:
        """Writes what none of our code would, while the server is away."""
        with contextlib.closing(sqlite3.connect(self._database, timeout=10)) as database, database:
            database.execute(statement, values)

    def session(self, session_id: str) -> dict[str, Any]:
        return self.rows("SELECT * FROM support_session WHERE id = ?", session_id.replace("-", ""))[0]

    def gateways_of(self, session_id: str) -> list[dict[str, Any]]:
        query = "SELECT * FROM support_gateway WHERE session_id = ? ORDER BY attempt"
        return self.rows(query, session_id.replace("-", ""))

    def credentials_of(self, session_id: str) -> int:
        query = "SELECT * FROM support_rdp_credential WHERE session_id = ?"
        return len(self.rows(query, session_id.replace("-", "")))

    def guacd_attempts(self) -> list[str]:
        """The attempt ids of all guacd processes (and their folders) that belong to this installation."""
        with self._gateways() as gateways:
            return gateways.running()

    def guacd_of(self, session_id: str) -> list[processes.Process]:
        """The living guacd processes of a rescue."""
        attempts = {_dashed(row["id"]) for row in self.gateways_of(session_id)}
        marked = processes.find(PORTAFILTER_INSTALLATION=str(self.state_dir))
        return [process for process in marked if process.environment.get("PORTAFILTER_GATEWAY") in attempts]

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """Everything that the server has written, the database's files among it."""
        for path in sorted(self.folder.rglob("*")):
            # Some come and go.
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                yield path, path.read_bytes()

    @contextlib.contextmanager
    def _gateways(self) -> Iterator[LocalGateways]:
        with override_settings(INSTALLATION=str(self.state_dir)):
            yield LocalGateways()


def _dashed(hexadecimal: str) -> str:
    h = hexadecimal.replace("-", "")
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
