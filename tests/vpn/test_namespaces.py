"""What a run makes outside of its own folder goes with it, and what a killed run left goes with the next one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from portal.demo.vpn import namespaces
from portal.demo.vpn.namespaces import Namespaces, enter, ip, processes_in, sweep
from tests.vpn.bed import ROOT, wait_until

_MAKES_ONE_AND_WAITS = """
import subprocess, sys
from pathlib import Path
from portal.demo.vpn import namespaces
from portal.demo.vpn.namespaces import Namespaces, enter
namespaces.RECORDS = Path(sys.argv[2])
with Namespaces(leftovers=(Path(sys.argv[1]),)) as made:
    name = made.add("x", "198.18.0.1")
    sleeper = subprocess.Popen([*enter(name), "sleep", "600"], start_new_session=True)
    print(name, flush=True)
    sys.stdin.read()
"""


def names() -> set[str]:
    return {line.split()[0] for line in ip("netns", "list").splitlines()}


def test_killed_run_leaves_what_the_next_one_removes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests begin runs at any moment, each of which would remove it.
    monkeypatch.setattr(namespaces, "RECORDS", tmp_path / "records")
    leftover = tmp_path / "leftover"
    leftover.mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", _MAKES_ONE_AND_WAITS, str(leftover), str(namespaces.RECORDS)], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert run.stdout is not None
    name = run.stdout.readline().strip()
    wait_until(lambda: processes_in(name), what="its program is in the namespace")
    assert name not in sweep() and name in names()  # as long as it lives
    (sleeper,) = processes_in(name)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert name in names() and os.path.exists(f"/proc/{sleeper}")
    assert name in sweep()
    assert name not in names() and not leftover.exists()
    wait_until(lambda: not os.path.exists(f"/proc/{sleeper}") or not processes_in(name), what="its program is gone")


def test_run_that_ends_takes_everything_with_it(tmp_path: Path) -> None:
    with Namespaces() as made:
        name = made.add("x", "198.18.0.1")
        program = subprocess.Popen([*enter(name), "sleep", "600"])
        wait_until(lambda: program.pid in processes_in(name), what="its program is in the namespace")
        assert "198.18.0.1" in ip("-n", name, "addr")
        record = namespaces.RECORDS / f"{made.tag}.json"
        assert record.exists()
    assert program.wait(30) == -signal.SIGKILL
    assert name not in names() and not record.exists()
