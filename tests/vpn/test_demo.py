"""`make run-vpn`, as a newcomer has it: a press gets through its tunnel, and Ctrl-C leaves nothing."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from portal.demo.vpn import bed as beds
from portal.demo.vpn.namespaces import RECORDS, ip
from tests.ports import free_ports
from tests.vpn.bed import ROOT, wait_until

SERIAL = "IT-0042"


class Demo:
    def __init__(self, state: Path) -> None:
        (public,), street = free_ports(1), _free_span(8)
        self.state = state
        self.output = state / "said"
        self.environment = {
            **os.environ,
            **beds.environment(),
            "STATE_DIR": str(state),
            "INSTALLATION": str(state),
            "DATABASE_URL": f"sqlite:///{state / 'demo.sqlite3'}",
            "PUBLIC_BIND": f"127.0.0.1:{public}",
            "STREET_PORT": str(street),
        }
        self.folder = state / "demo"

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=100,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def said(self) -> str:
        return self.output.read_text()


@pytest.fixture
def demo() -> Iterator[Demo]:
    # Short: a Unix socket's path has little room, and pytest's folders are long.
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        yield Demo(Path(folder))


@pytest.mark.timeout(300)
def test_press_gets_through_its_tunnel_and_nothing_is_left_at_the_end(demo: Demo) -> None:
    demo.run("manage.py", "migrate", "--verbosity", "0")
    with open(demo.output, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "demo_vpn"], cwd=ROOT, env=demo.environment, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: "charlie" in demo.said() or process.poll() is not None, what=demo.said, within_s=100)
        assert process.poll() is None, demo.said()
        machine = ["--folder", str(demo.folder / "machines" / SERIAL), "--machine", SERIAL]
        demo.run("-m", "portal.demo.vpn.lines", "tell", str(demo.folder / "lines.sock"), SERIAL, "lossy")
        demo.run("-m", "agent.simulator", "press", "--no-wait", *machine)
        state = '"state": "ready"'
        wait_until(lambda: state in demo.run("-m", "agent.simulator", "state", *machine), what=state, within_s=80)
        (tag,) = set(re.findall(r"pf-[0-9a-f]{6}", _record_of(process.pid)))
        assert len([name for name in ip("netns", "list").split() if name.startswith(tag)]) == 8
        process.send_signal(signal.SIGINT)
        assert process.wait(100) == 0, demo.said()
    finally:
        process.kill()
    assert tag not in ip("netns", "list")
    assert not list(RECORDS.glob(f"{tag}*"))
    assert "Killed" not in demo.said()
    assert _still_there(demo.state) == []


def _record_of(pid: int) -> str:
    """The path of the record that this process holds open."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    return next(link for link in links if link.startswith(str(RECORDS)))


def _still_there(state: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (
                f"STATE_DIR={state}".encode() in (path / "environ").read_bytes()
                or str(state).encode() in (path / "cmdline").read_bytes()
            ):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return [command for command in found if command]


def _free_span(count: int) -> int:
    """The first of so many ports of 127.0.0.1 in a row that are free now."""
    # Below those of tests/ports.py, and at a place of chance: another run may be under way.
    firsts = list(range(12_000, 20_000, count))
    random.SystemRandom().shuffle(firsts)
    for first in firsts:
        probes = []
        try:
            for port in range(first, first + count):
                probe = socket.socket()
                probes.append(probe)
                probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("found no free ports")
