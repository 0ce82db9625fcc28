"""The VPN's server as its computer on AWS runs it: each process with what its task leaves it, in one network.

No container engine runs here. What a container would take away is taken away by setpriv: every capability but those of
backbone/cloudformation, and for the machines' face the user as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from tests import migrated
from tests.backbone.containerfiles import FOLDER, IMAGES
from tests.backbone.templates import containers, environment

PARAMETERS = {"DatabaseHost": "", "DatabaseName": "", "RedisHost": "", "PortalOrigin": "https://portal.example.com",
              "VpnHostName": "vpn.example.com"}  # fmt: skip
# What is AWS' alone; here SQLite and this process's memory stand in.
NOT_HERE = {"DATABASE_URL", "DATABASE_PASSWORD", "REDIS_URL", "REDIS_PASSWORD"}


class Computer:
    """A network of its own with the VPN's containers as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "vpn").mkdir(mode=0o700)
        # As PostgreSQL would be, the database is there for whoever knows its password; nobody is root to the files.
        (folder / "database").mkdir()
        (folder / "database").chmod(0o777)
        self.network = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.given = {
            "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "SECRET_KEY": "x" * 50, "CREDENTIAL_KEYS": Fernet.generate_key().decode(),
            "STATE_DIR": str(folder), "VPN_DIR": str(folder / "vpn"),
            "DATABASE_URL": f"sqlite:///{folder / 'database' / 'rows'}",
        }  # fmt: skip
        self.until(lambda: os.readlink(f"/proc/{self.network.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        self.inside("ip", "link", "set", "lo", "up")
        migrated.copy_to(folder / "database" / "rows")
        for file in (folder / "database").iterdir():
            file.chmod(0o666)

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs something there as this test is, and gives back how it ended."""
        return subprocess.run(
            ["nsenter", f"--net=/proc/{self.network.pid}/ns/net", *command],
            cwd=FOLDER, env=self.given, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    def start(self, stack: str, container: dict[str, Any]) -> None:
        """Starts a container's program as its task definition says."""
        program = container.get("EntryPoint") or [sys.executable, "manage.py"]
        if program == ["/usr/local/bin/openvpn.sh"]:
            program = [str(IMAGES / "vpn" / "openvpn.sh")]
        kept = ",".join(f"+{one.lower()}" for one in container["LinuxParameters"]["Capabilities"].get("Add", []))
        limits = ["--inh-caps=-all", f"--bounding-set=-all{',' if kept else ''}{kept}"]
        if "User" in container:
            user, group = container["User"].split(":")
            limits += [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        values = environment(container, stack, **PARAMETERS)
        own = {name: value for name, value in values.items() if name not in NOT_HERE | self.given.keys()}
        command = ["setpriv", *limits, *program, *container["Command"]]
        with (self.folder / "log").open("ab") as log:
            self.running[container["Name"]] = subprocess.Popen(
                ["nsenter", f"--net=/proc/{self.network.pid}/ns/net", *command],
                cwd=FOLDER, env={**self.given, **own}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def is_well(self, *question: str) -> bool:
        done = self.inside(
            "env", "VPN_NETWORK=10.77.0.0/20", sys.executable, str(IMAGES / "portal/healthy.py"), *question
        )
        return done.returncode == 0

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 100
        while not holds():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.1)

    def end(self) -> None:
        for one in [*self.running.values(), self.network]:
            one.send_signal(signal.SIGTERM)
        for one in [*self.running.values(), self.network]:
            try:
                one.wait(15)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


@pytest.fixture
def computer(tmp_path: Path) -> Iterator[Computer]:
    # The machines' face is another user, and has to get as far as the database.
    for folder in [tmp_path, *tmp_path.parents]:
        if folder.is_relative_to("/tmp") and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    one = Computer(tmp_path)
    yield one
    one.end()


@pytest.mark.timeout(300)
def test_vpns_server_works_with_what_its_tasks_leave_it(computer: Computer) -> None:
    of_vpn = {container["Name"]: container for name, _, container in containers("vpn") if "Tcp" not in name}
    ((_, _, machines),) = containers("private-api")
    # As ECS may start them: OpenVPN before the agent has written a thing, the face before its address is there.
    computer.start("vpn", of_vpn["openvpn"])
    computer.start("private-api", machines)
    computer.start("vpn", of_vpn["authorise"])
    computer.until(lambda: computer.is_well("http://127.0.0.1:8080/healthz"))
    # What each task's health check asks.
    assert computer.is_well(*of_vpn["authorise"]["HealthCheck"]["Command"][3:])
    device = of_vpn["openvpn"]["HealthCheck"]["Command"][-1].rpartition("/")[2]
    assert computer.inside("ip", "-o", "address", "show", device).stdout.count("10.77.0.1/20") == 1
    assert "portafilter" in computer.inside("nft", "list", "tables").stdout
    computer.until(lambda: computer.is_well("machines"))
    listening = computer.inside("ss", "-Hltn").stdout
    assert "10.77.0.1:8001" in listening and ":8000" not in listening
    status = Path(f"/proc/{computer.running['openvpn'].pid}/status").read_text()
    assert "CapEff:\t0000000000001000" in status  # CAP_NET_ADMIN
