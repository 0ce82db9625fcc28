"""The simulator's end of a service screen: starts it, tells it things, hears what is pressed."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent.files import read_json
from agent.simulator import children
from agent.simulator.config import MachineConfig
from agent.simulator.display import Display

log = logging.getLogger("agent.simulator.screen")

PYTHON_WITH_TK = "/usr/bin/python3"  # Debian's: the python3-tk package is of no use to another one
_ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0  # a busy computer takes many times the second of an idle one


class ScreenError(Exception):
    """The service screen did not appear; the text says what it said."""


class Screen:
    """One service screen process on a display. A screen that dies is started again by `watch`."""

    def __init__(self, config: MachineConfig, display: Display, folder: Path) -> None:
        self._config = config
        self._display = display
        self._log_file = folder / "screen.log"
        self._state_file = config.folder / "state.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._up = threading.Event()
        self._is_wanted = False
        self._writing = threading.Lock()
        self._last: dict[str, Any] | None = None
        self._state: dict[str, Any] = {}

    def start(self, on_event: Callable[[str], None]) -> None:
        """Starts it and returns when it is drawn; `on_event` is called with help or cancel from a thread of ours.

        Raises ScreenError, MissingProgram.
        """
        children.require(PYTHON_WITH_TK)
        self._is_wanted = True
        self._launch()
        threading.Thread(
            target=self._watch, args=(on_event,), name=f"screen {self._config.serial}", daemon=True
        ).start()
        if not self._up.wait(_START_S) or self._process is None or self._process.poll() is not None:
            self.stop()
            raise ScreenError(f"the service screen did not appear: {self._said()}")

    def stop(self) -> None:
        self._is_wanted = False
        if self._process is not None:
            children.stop(self._process)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def state(self) -> dict[str, Any]:
        """What there is to see of the machine, from the file that its screen keeps."""
        self._state = read_json(self._state_file) or self._state
        return self._state

    def tell(self, command: dict[str, Any]) -> None:
        """Sends a command; a screen that is just being started again gets the last one on support then."""
        if command["do"] == "support":
            self._last = command
        with self._writing, contextlib.suppress(OSError, ValueError):
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.write(json.dumps(command).encode() + b"\n")
                self._process.stdin.flush()

    def _launch(self) -> None:
        config = self._config
        settings = {
            **{name: getattr(config, name) for name in ("name", "model", "serial", "site", "time_zone", "fault")},
            **{"width": config.width, "height": config.height, "state_file": str(self._state_file)},
        }
        self._up.clear()
        with open(self._log_file, "wb") as errors:
            self._process = children.start(
                [PYTHON_WITH_TK, "-B", "-m", "agent.simulator.service_screen", json.dumps(settings)],
                cwd=_ROOT,
                env={**self._display.environment, "PYTHONPATH": str(_ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def _watch(self, on_event: Callable[[str], None]) -> None:
        while self._is_wanted:
            process = self._process
            if process is None or process.stdout is None:
                return
            was_up = False
            for line in process.stdout:
                event = json.loads(line).get("event", "")
                if event == "up":
                    was_up = True
                    self._up.set()
                else:
                    on_event(event)
            process.wait()
            if not self._is_wanted or not was_up:
                self._up.set()  # nobody needs to wait longer for a screen that cannot start
                return
            log.error("%s: the service screen ended (%s); starting it again", self._config.serial, self._said())
            self._launch()
            if self._last is not None:
                self.tell(self._last)

    def _said(self) -> str:
        with contextlib.suppress(OSError):
            said = self._log_file.read_text(encoding="utf-8", errors="replace").strip()
            if "No module named 'tkinter'" in said:
                return "Tk is missing: install the Debian package python3-tk."
            return said[-300:] or "it said nothing"
        return "it said nothing"
