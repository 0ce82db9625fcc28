"""kill -9 of a real worker process before and after every request that a rescue makes of ECS (F1).

The fake ECS kills it; another worker goes on. Then there was one task, or none where nobody wanted it any more, and
nothing of it is left: no task, no gateway, no login, no open record.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessions.gateways import processes
from tests.fakes.ecs import Call, FakeEcs, Task

ROOT = Path(__file__).resolve().parents[4]

pytestmark = pytest.mark.real


class Lives:
    """The program that rescues live in, at a fake ECS."""

    def __init__(self, ecs: FakeEcs, folder: Path) -> None:
        self.ecs, self._count = ecs, 0
        surroundings = {
            **os.environ, **ecs.surroundings, **ecs.settings,
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "DATABASE_URL": f"sqlite:///{folder / 'crashes.sqlite3'}",
            "STATE_DIR": str(folder),
            "INSTALLATION": "crashes",
            "VPN": "loopback",
        }  # fmt: skip
        self.log = folder / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.sessions.gateways.ecs.crashing"], cwd=ROOT, env=surroundings, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._hear()

    def end(self) -> None:
        """The program and all that it has forked."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def live(self, *, before: int = 0, after: int = 0, name: str = "", is_withdrawn: bool = False) -> Life:
        """One rescue whose worker dies at the request of that number and name."""
        self._count += 1
        self._tell({"serial": f"C{self._count}", "is_withdrawn": is_withdrawn})
        told = self._hear()
        first = len(self.ecs.calls)
        self.ecs.kill(told["pid"], before=before, after=after, name=name)
        self._tell({})
        found = self._hear()
        # What the sweep has yet to find, it finds now.
        self.ecs.wait_for(_nothing_runs, what="no task runs for a session that is over")
        life = Life(found, self.ecs.tasks(of=told["session"]), self.ecs.calls[first:])
        self._tell({})
        return life

    def _tell(self, what: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the program has ended: {self.log.read_text('utf-8', 'replace')[-3000:]}"
        return dict(json.loads(line))


class Life:
    """What has become of one rescue."""

    def __init__(self, found: dict[str, Any], tasks: list[Task], calls: list[Call]) -> None:
        self.found, self.tasks, self.calls = found, tasks, calls

    @property
    def has_died(self) -> bool:
        return bool(self.found["has_died"])

    def looks_for_orphans(self, *, lag_s: float) -> int:
        """How often it was asked what runs, from when a task could be listed until it was told to stop."""
        count = 0
        for task in self.tasks:
            listed_at = task.history[0][0] + lag_s
            stopped_at = min(at for at, shape in task.history if shape["desiredStatus"] == "STOPPED")
            count += sum(
                call.name == "ListTasks"
                and call.arguments["desiredStatus"] == "RUNNING"
                and listed_at < call.at < stopped_at
                for call in self.calls
            )
        return count

    def check(self) -> None:
        """Nothing is left, and everything was written down once."""
        found, kinds = self.found, self.found["events"]
        assert (found["state"], found["end_reason"]) == ("closed", "cancelled"), found
        assert set(found["gateways"]) <= {"stopped"} and (found["credentials"], found["connections"]) == (0, 0), found
        assert kinds[0] == "requested" and kinds[-1] == "closed", kinds
        for once in ("gateway_wanted", "desktop_ready", "cancelled", "machine_told", "vpn_told", "closed"):
            assert kinds.count(once) <= 1, kinds
        for task in self.tasks:
            assert task.shape["desiredStatus"] == "STOPPED"
            assert processes.find(PORTAFILTER_FAKE_TASK=task.arn) == []


def _nothing_runs(ecs: FakeEcs) -> bool:
    return all(task.status == "STOPPED" for task in ecs.tasks())


@pytest.fixture(scope="module")
def lives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lives]:
    with FakeEcs() as ecs:
        lives = Lives(ecs, tmp_path_factory.mktemp("crashes"))
        yield lives
        lives.end()
        assert (ecs.refused, ecs.faults) == ([], [])
        assert "Traceback" not in lives.log.read_text("utf-8", "replace")


# Each request that every rescue makes, by its name and how many of that name there were: the order, the sweep and the
# task that it lists, the task while it starts and when it stops, and the order to stop.
REQUESTS = [("RunTask", 1), ("ListTasks", 1), *(("DescribeTasks", n) for n in (1, 2, 3)), ("StopTask", 1)]
FIRST_OF_EACH = [("RunTask", 1), ("ListTasks", 1), ("DescribeTasks", 1)]


def _deaths(lives: Lives, requests: list[tuple[str, int]], *, is_withdrawn: bool = False) -> Iterator[tuple[str, Life]]:
    """A life for each death: before and after each of these requests."""
    for name, number in requests:
        for when in ("before", "after"):
            life = lives.live(**{when: number}, name=name, is_withdrawn=is_withdrawn)
            words = f"{when} {name} {number} of {[call.name for call in life.calls]}"
            try:
                assert life.has_died, "nobody died"
                life.check()
                yield words, life
            except AssertionError as error:
                raise AssertionError(f"killed {words}: {error}") from error


@pytest.mark.timeout(600)
def test_worker_killed_at_any_request_leaves_one_task_and_then_none(lives: Lives) -> None:
    undisturbed = lives.live()
    undisturbed.check()
    assert {call.name for call in undisturbed.calls} == {name for name, _ in REQUESTS}
    for when, life in _deaths(lives, REQUESTS):
        assert len(life.tasks) == 1, f"killed {when}: {len(life.tasks)} tasks for one rescue"
        assert len(life.found["gateways"]) == 1, "a start that was cut off is taken up, not begun anew"
        assert life.found["events"].count("desktop_ready") == 1, f"killed {when}: the request was lost"


@pytest.mark.timeout(600)
def test_task_whose_rescue_was_withdrawn_while_nobody_worked_is_found_and_stopped(lives: Lives) -> None:
    """ECS shows the task only when its gateway has been given up: then the sweep alone can find it."""
    lives.ecs.api.lag_s = 0.5
    for when, life in _deaths(lives, FIRST_OF_EACH, is_withdrawn=True):
        most = 0 if when.startswith("before RunTask") else 1
        assert len(life.tasks) <= most, f"killed {when}: {len(life.tasks)} tasks for one rescue"
        # Of the 90 s: two sweeps, which are 30 s apart, and the lag.
        assert life.looks_for_orphans(lag_s=0.5) <= 2, f"killed {when}: it was not found"
