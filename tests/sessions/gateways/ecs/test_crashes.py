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
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sessions.gateways import processes
from tests.fakes.ecs import FakeEcs
from tests.sessions.gateways.ecs.crashing import SWEEP_EVERY_S

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

    def live(self, *, before: int = 0, after: int = 0, is_withdrawn: bool = False) -> Life:
        """One rescue whose worker dies at the request of that number."""
        self._count += 1
        self._tell({"serial": f"C{self._count}", "is_withdrawn": is_withdrawn})
        told = self._hear()
        first = len(self.ecs.calls)
        self.ecs.kill(told["pid"], before=before, after=after)
        self._tell({})
        began_at = time.monotonic()
        found = self._hear()
        died_at = found["died_s"] and began_at + found["died_s"]
        # What the sweep has yet to find, it finds now.
        self.ecs.wait_for(_nothing_runs, timeout_s=10, what="no task runs for a session that is over")
        calls = [call.name for call in self.ecs.calls[first:]]
        life = Life(found, self.ecs.tasks(of=told["session"]), calls, died_at)
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

    def __init__(self, found: dict[str, Any], tasks: list[Any], calls: list[str], died_at: float | None) -> None:
        self.found, self.tasks, self.calls, self.died_at = found, tasks, calls, died_at

    @property
    def orphan_s(self) -> float:
        """How long a task ran after its worker's death until it was told to stop."""
        stops = [at for task in self.tasks for at, shape in task.history if shape["desiredStatus"] == "STOPPED"]
        return max(0.0, min(stops) - self.died_at) if self.died_at and stops else 0.0

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


def _all_deaths(lives: Lives, *, is_withdrawn: bool = False) -> Iterator[tuple[str, Life]]:
    """A life for each death: before and after each request, until there is no request of that number."""
    number = 1
    while True:
        for when in ("before", "after"):
            life = lives.live(**{when: number}, is_withdrawn=is_withdrawn)
            # With a withdrawal each kind of request once: another one of it changes nothing.
            is_known = number > len(life.calls) or life.calls[number - 1] in life.calls[: number - 1]
            if life.died_at is None or (is_withdrawn and is_known):
                life.check()
                assert number > 3, f"its requests were {life.calls}"
                return
            try:
                life.check()
                yield f"{when} request {number}", life
            except AssertionError as error:
                raise AssertionError(f"killed {when} request {number} of {life.calls}: {error}") from error
        number += 1


def test_worker_killed_at_any_request_leaves_one_task_and_then_none(lives: Lives) -> None:
    for when, life in _all_deaths(lives):
        assert len(life.tasks) == 1, f"killed {when}: {len(life.tasks)} tasks for one rescue"
        assert len(life.found["gateways"]) == 1, "a start that was cut off is taken up, not begun anew"
        assert life.found["events"].count("desktop_ready") == 1, f"killed {when}: the request was lost"


def test_task_whose_rescue_was_withdrawn_while_nobody_worked_is_found_and_stopped(lives: Lives) -> None:
    """ECS shows the task only when its gateway has been given up: then the sweep alone can find it."""
    lives.ecs.api.lag_s = 0.5
    for when, life in _all_deaths(lives, is_withdrawn=True):
        most = 0 if when == "before request 1" else 1
        assert len(life.tasks) <= most, f"killed {when}: {len(life.tasks)} tasks for one rescue"
        # Of the 90 s: two sweeps (60 s, here two times as long as they are apart), the lag, and a moment.
        assert life.orphan_s < 2 * SWEEP_EVERY_S + 0.5 + 1.5, f"killed {when}: {life.orphan_s:.1f} s"
