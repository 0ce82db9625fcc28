"""A process of a fake task: of its own group, with nothing of the tests' surroundings, and found by the task's name."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from tests.waiting import LONG_S

# The kernel ends what runs so with the thread that has started it.
WITH_THE_FAKE = ("/usr/bin/setpriv", "--pdeathsig=KILL")


class TaskProcess:
    """What runs in one container. Start it in a thread that lives as long as the fake.

    `ends_at_once`: all of it ends with its first process, not by and by.
    """

    def __init__(
        self, command: Sequence[str], task_arn: str, environment: Mapping[str, str], *, ends_at_once: bool = True
    ) -> None:
        self._ends_at_once = ends_at_once
        # All of it has the other end, and says nothing there: when it reads as closed, nobody lives any more.
        self._alive, held = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*WITH_THE_FAKE, *command],
                env={**environment, "PORTAFILTER_FAKE_TASK": task_arn},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(held,),
            )
        finally:
            os.close(held)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> int:
        """Returns when it is gone with its group, with the code that its container ends with."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        if self._alive >= 0:
            if self._ends_at_once:
                assert select.select([self._alive], [], [], LONG_S)[0], "it lives on, though it was killed"
            os.close(self._alive)
            self._alive = -1
        return code if code >= 0 else 128 - code
