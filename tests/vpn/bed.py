"""An installation with a real VPN: the demo's bed, a database of its own, a clerk at it, and machines in namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from agent.simulator.config import MachineConfig
from portal.demo.vpn import bed as beds
from portal.demo.vpn.bed import Bed, Door
from portal.demo.vpn.namespaces import enter, processes_in
from portal.demo.vpn.services import Service
from tests import migrated
from tests.ports import free_ports
from tests.vpn.machines import DistantMachine
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
_CONNECT = """
import socket, sys
try: socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close(); print("open")
except TimeoutError: print("silent")
except OSError: print("refused")
"""
# Within so many seconds a connection is told from one that gets no answer; one that is expected may take longer.
_SILENT_S, _OPEN_S = 1.2, 20.0
_PLAIN = ("PATH", "HOME", "LANG", "TMPDIR")


def wait_until(holds: Callable[[], object], *, what: str | Callable[[], str], within_s: float = 40.0) -> float:
    """Returns as soon as it holds, with the seconds that took; AssertionError that names it after the deadline."""
    began = time.monotonic()
    until(holds, what, timeout_s=within_s)
    return time.monotonic() - began


class Installation:
    """The server with its VPN on a bed, and places for machines. Made by `installed`."""

    def __init__(self, folder: Path, serials: list[str], settings: dict[str, str]) -> None:
        self.folder = folder
        self.serials = serials
        self.state_dir = folder / "state"
        self.state_dir.mkdir(mode=0o700)
        self.password = secrets.token_urlsafe(12)
        self.database = self.state_dir / "portafilter.sqlite3"
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        self.tokens: dict[str, str] = {}
        self._clerk: subprocess.Popen[str] | None = None
        self._logs = 0
        self.values = {
            **{name: os.environ[name] for name in _PLAIN if name in os.environ},
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "SECRET_KEY": secrets.token_urlsafe(50),
            "CREDENTIAL_KEYS": Fernet.generate_key().decode(),
            "STATE_DIR": str(self.state_dir),
            "DATABASE_URL": f"sqlite:///{self.database}",
            "PUBLIC_ORIGINS": self.address,
            "PUBLIC_BIND": f"127.0.0.1:{port}",
            "GATEWAY": "local",
            **beds.environment(protocol=settings.get("VPN_PROTOCOL", "udp")),
            **settings,
        }
        self.bed = Bed(folder, serials, self.values, doors=[Door(port, port)],
                       leftovers=() if os.environ.get("PORTAFILTER_KEEP") else (folder,))  # fmt: skip

    def prepare(self) -> None:
        """The database with people and machines; on a bed that is there."""
        migrated.copy_to(self.database)
        self._clerk = subprocess.Popen(
            [sys.executable, "-m", "tests.vpn.clerk"],
            cwd=ROOT,
            env=self.values,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tokens = self.clerk("seed", self.password, self.serials)

    def clerk(self, command: str, *arguments: Any, **options: Any) -> Any:
        """Has something done in the database; see clerk.py. AssertionError with its words when it cannot be done."""
        assert self._clerk is not None and self._clerk.stdin is not None and self._clerk.stdout is not None
        self._clerk.stdin.write(json.dumps([command, arguments, options]) + "\n")
        self._clerk.stdin.flush()
        answer = json.loads(self._clerk.stdout.readline())
        assert "error" not in answer, f"{command}: {answer['error']}"
        return answer["answer"]

    def close(self) -> None:
        if self._clerk is not None:
            self._clerk.kill()
            self._clerk.wait()

    # --- machines ----------------------------------------------------------------------------------------------------

    def openvpn(self, place: str, profile: str, *options: str) -> Service:
        """A bare openvpn at a machine's place, as somebody would run it who has that profile."""
        self._logs += 1
        path = self.folder / f"client-{self._logs}.ovpn"
        path.write_text(profile)
        return self.bed.service(
            f"openvpn at {place}", ["openvpn", "--config", str(path), *options], log=f"client-{self._logs}.log",
            place=place, is_kept=False,
        )  # fmt: skip

    @contextmanager
    def machine(self, serial: str, *, when: str = "press") -> Iterator[DistantMachine]:
        """A simulated machine with its agent, switched on in its namespace."""
        folder = self.folder / "m" / serial
        config = MachineConfig.write(
            folder,
            serial=serial,
            name=f"Lobby {serial}",
            api_url=f"http://{beds.SERVER_INSIDE}:{beds.API_PORT}",
            token=self.tokens[serial],
            rdp_port=3389,
            fault="E17",
            vpn_profile="profile.ovpn",
            vpn_when=when,
        )
        (folder / "profile.ovpn").write_text(self.clerk("profile", serial))
        ready = folder / "ready"
        service = self.bed.service(
            f"Machine {serial}",
            [sys.executable, "-m", "agent.simulator", "run", "--folder", str(folder), "--no-street",
             "--ready-file", str(ready)],
            log=f"machine-{serial}.log",
            place=serial,
            is_kept=False,
            values={**{name: os.environ[name] for name in _PLAIN if name in os.environ}, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            service.wait_until(ready.exists, what="its screen is drawn", within_s=60)
            yield DistantMachine(config)
        finally:
            self.bed.supervisor.end([service])

    def log_of(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.exists() else ""

    # --- what there is to see from outside ---------------------------------------------------------------------------

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query, values)]

    def session(self, session_id: str) -> dict[str, Any]:
        return self.rows("SELECT * FROM support_session WHERE id = ?", session_id.replace("-", ""))[0]

    def gateways_of(self, session_id: str) -> list[dict[str, Any]]:
        query = "SELECT * FROM support_gateway WHERE session_id = ? ORDER BY attempt"
        return self.rows(query, session_id.replace("-", ""))

    def guacd(self) -> list[int]:
        """The processes of guacd in the server's namespace."""
        return [pid for pid in processes_in(self.bed.server) if name_of(pid) == "guacd"]

    def programs(self, place: str) -> list[str]:
        """The names of what runs at a machine's place."""
        return [name for pid in processes_in(self.bed.namespaces[place]) if (name := name_of(pid))]

    def user_of(self, pid: int) -> int:
        return Path(f"/proc/{pid}").stat().st_uid

    def nft(self) -> str:
        return self.bed.ask(None, "nft", "list", "ruleset")[1]

    def connects(self, place: str | None, host: str, port: int, *, user: int | None = None) -> str:
        """What becomes of a TCP connection from there: open, refused, or silent (for 1.2 s)."""
        return self._connects(place, host, port, user, _SILENT_S)

    def opens(self, place: str | None, host: str, port: int, *, user: int | None = None) -> bool:
        """Whether a connection from there is taken, however slow this computer is."""
        return self._connects(place, host, port, user, _OPEN_S) == "open"

    def _connects(self, place: str | None, host: str, port: int, user: int | None, patience_s: float) -> str:
        command = ["/usr/bin/python3", "-c", _CONNECT, host, str(port), str(patience_s)]
        return self.bed.ask(place, *command, user=user)[1].strip()

    def connects_from(
        self, namespace: str, targets: list[tuple[str, int]], *, patience_s: float = _SILENT_S
    ) -> list[str]:
        """As `connects`, several at once, from any namespace; refusals count as silent, as both let nobody in."""
        command = [*enter(namespace), "/usr/bin/python3", "-c", _CONNECT]
        asked = [
            subprocess.Popen([*command, host, str(port), str(patience_s)], stdout=subprocess.PIPE, text=True)
            for host, port in targets
        ]
        said = [one.communicate(timeout=60)[0].strip() for one in asked]
        return ["silent" if one == "refused" else one for one in said]

    def opens_from(self, namespace: str, host: str, port: int) -> bool:
        """As `opens`, from any namespace."""
        return self.connects_from(namespace, [(host, port)], patience_s=_OPEN_S) == ["open"]

    def pings(self, place: str, host: str, *, within_s: float = 2) -> bool:
        """Whether an echo comes back from there in that time. (Debian has no ping of its own.)"""
        return self.pings_from(self.bed.namespaces[place], host, within_s=within_s)

    def pings_from(self, namespace: str, host: str, *, within_s: float = 2) -> bool:
        """As `pings`, from any namespace."""
        script = (
            "import socket, struct, sys\n"
            "request = struct.pack('!BBHHH', 8, 0, 0xffff - 0x0800 - 0x1234 - 1, 0x1234, 1)\n"
            "with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as door:\n"
            "    door.settimeout(float(sys.argv[2]))\n"
            "    door.sendto(request, (sys.argv[1], 0))\n"
            "    while True:\n"
            "        packet, (host, _) = door.recvfrom(2048)\n"
            "        if host == sys.argv[1] and packet[20] == 0: break\n"
        )
        command = [*enter(namespace), "/usr/bin/python3", "-c", script, host, str(within_s)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

    @contextmanager
    def listener(self, place: str | None, host: str, port: int) -> Iterator[None]:
        """Something that takes connections there, at a machine's place or at the server."""
        script = (
            "import socket, sys\n"
            "with socket.create_server((sys.argv[1], int(sys.argv[2]))) as door:\n"
            "    print('listening', flush=True)\n"
            "    while True: door.accept()[0].close()"
        )
        self._logs += 1
        namespace = None if place is not None else self.bed.server
        service = self.bed.service(
            f"A listener on {port}", ["/usr/bin/python3", "-c", script, host, str(port)],
            log=f"listener-{self._logs}.log", place=place, namespace=namespace, is_kept=False,
        )  # fmt: skip
        try:
            service.wait_until(lambda: service.has_said("listening"), what="it listens", within_s=30)
            yield
        finally:
            self.bed.supervisor.end([service])

    def enter(self, place: str) -> list[str]:
        return enter(self.bed.namespaces[place])


@contextmanager
def installed(serials: list[str], **settings: str) -> Iterator[Installation]:
    """An installation that runs: OpenVPN, the authorisation agent and the server are up when this begins."""
    # Short: a Unix socket's path has little room, and pytest's folders are long.
    folder = Path(tempfile.mkdtemp(prefix="pf-"))
    installation = Installation(folder, serials, settings)
    try:
        with installation.bed:
            try:
                installation.prepare()
                installation.bed.start_vpn()
                installation.bed.start_server("--stop-gateways", ready_file=folder / "ready", stop_s=30)
                yield installation
            finally:
                installation.close()
    finally:
        if os.environ.get("PORTAFILTER_KEEP"):
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def name_of(pid: int) -> str:
    """The program's name; "" of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
