"""One simulated coffee machine: a screen, a real RDP server on it, and the real agent."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from agent.api import ApiError, Stopped
from agent.config import ConfigError
from agent.files import private_folder, read_json, write_json
from agent.heartbeat import Heartbeat
from agent.line import LineState
from agent.notices import Notice
from agent.processes import birth_of
from agent.rdp import RdpError
from agent.rescue import Rescue
from agent.simulator import children
from agent.simulator.config import MachineConfig
from agent.simulator.display import Display
from agent.simulator.rdp_server import ShadowServer
from agent.simulator.screen import Screen
from agent.store import Problem, RescueStore
from agent.vpn import way_to_support

log = logging.getLogger("agent.simulator")

_LOOK_AGAIN_S = 0.05
_JOIN_S = 15.0


class SimulatedMachine:
    """A machine that can be pressed, watched and repaired. Use it as a context manager, or `start` and `stop` it.

    Its folder keeps what it remembers: a rescue that was open when the process died is taken up at the next start.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = config
        self.notices: list[Notice] = []  # all that the person at the machine was told, in order
        self._changed = threading.Condition()
        self._run_folder = private_folder(config.folder / "run")
        self._processes_file = self._run_folder / "processes.json"
        self._display = Display(self._run_folder, width=config.width, height=config.height)
        self._screen = Screen(config, self._display, self._run_folder)
        agent_config = config.for_agent()
        self._api, self._line = way_to_support(agent_config)
        self._rdp = ShadowServer(self._display, self._run_folder, address=self._rdp_address, port=config.rdp_port)
        self._agent = Rescue(
            agent_config,
            api=self._api,
            hook=self._rdp,
            display=self._show,
            store=RescueStore(agent_config.state_dir),
            line=self._line,
        )
        self._heartbeat = Heartbeat(
            agent_config,
            api=self._api,
            rescue=self._agent,
            faults=self._faults,
            is_due=lambda: self._line.state.is_up,
        )
        self._is_line_held = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock_file: IO[bytes] | None = None

    def __enter__(self) -> SimulatedMachine:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Switches the machine on; returns when its screen is drawn and its agent runs. Raises when something lacks."""
        self._take_folder()
        try:
            self._clean_up_earlier_run()
            self._display.start()
            self._screen.start(self._on_event)
            self._remember_processes()
            if self._agent_is_idle():
                self._rdp.warm_up()
        except BaseException:
            self.stop()
            raise
        if self.config.vpn_when == "always":
            self._line.hold()
            self._is_line_held = True
        self._work("recovery", self._agent.recover)
        self._work("heartbeat", lambda: self._heartbeat.beat_until(self._stop))
        log.info("%s: on, display %s, address %s", self.config.serial, self._display.name, self.config.address)

    def stop(self) -> None:
        """Switches the machine off; an open rescue loses its desktop now, and is taken up at the next start."""
        self._stop.set()
        self._agent.stop()
        for thread in self._threads:
            thread.join(_JOIN_S)
        if self._is_line_held:
            self._line.release()
            self._is_line_held = False
        with contextlib.suppress(RdpError):
            self._rdp.close("")
        self._screen.stop()
        self._display.stop()
        self._processes_file.unlink(missing_ok=True)
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    # What a person does in front of it

    def press(self, code: str | None = None, text: str | None = None) -> None:
        """Presses help and returns at once; without a code, with the fault that the screen shows."""
        fault = self.screen.get("fault") or {}
        problem = Problem(
            code=fault.get("code", "") if code is None else code, text=fault.get("title", "") if text is None else text
        )
        self._work("rescue", lambda: self._agent.press(problem))

    def cancel(self) -> bool:
        """Presses "no longer needed"; returns when the server was told or cannot be reached, False without a rescue."""
        return self._agent.cancel()

    def break_down(self, code: str) -> None:
        """Gives the machine a fault."""
        self._screen.tell({"do": "fault", "code": code})

    def click(self, x: int, y: int) -> None:
        self._display.click(x, y)

    def click_widget(self, name: str) -> None:
        """Clicks a button of the screen in its middle, by the names in `screen["widgets"]`."""
        x, y, width, height = self.screen["widgets"][name]
        self._display.click(x + width // 2, y + height // 2)

    def type_text(self, text: str) -> None:
        self._display.type_text(text)

    def key(self, name: str) -> None:
        self._display.key(name)

    # What there is to see

    @property
    def screen(self) -> dict[str, Any]:
        """The state of the coffee machine as its screen shows it."""
        return self._screen.state

    @property
    def rescue(self) -> Notice:
        """What the person at the machine was last told; its state is "" as long as nothing was."""
        return self.notices[-1] if self.notices else Notice("", "")

    @property
    def line(self) -> LineState:
        """How the tunnel to support stands; always up for a machine without one."""
        return self._line.state

    @property
    def rdp_port(self) -> int | None:
        """Where RDP listens; None while it does not."""
        return self._rdp.port

    @property
    def size(self) -> tuple[int, int]:
        return self.config.width, self.config.height

    def picture_mark(self) -> int:
        """A number that changes when the picture on the screen does."""
        return self._display.mark()

    def screenshot(self) -> bytes:
        """What is on the screen, as PNG."""
        return self._display.screenshot()

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        return self._display.pixel(x, y)

    def wait_for(self, holds: Callable[[SimulatedMachine], bool], *, timeout_s: float = 60.0) -> None:
        """Returns as soon as `holds(machine)`; raises TimeoutError that says how the machine was then."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not holds(self):
                left = deadline - time.monotonic()
                if left <= 0:
                    fault = (self.screen.get("fault") or {}).get("code", "none")
                    raise TimeoutError(
                        f"{self.config.serial} within {timeout_s:g} s: rescue {self.rescue.state or 'none'} "
                        f"({self.rescue.message}), RDP port {self.rdp_port}, fault {fault}"
                    )
                self._changed.wait(min(left, _LOOK_AGAIN_S))

    def wait_for_notice(self, number: int) -> Notice:
        """The n-th thing that the person at the machine was told, as soon as it was; TimeoutError at a stop."""
        with self._changed:
            while len(self.notices) < number:
                if self._stop.is_set():
                    raise TimeoutError(f"{self.config.serial} was switched off.")
                self._changed.wait(1.0)
            return self.notices[number - 1]

    # Inside

    def _on_event(self, event: str) -> None:
        if event == "help":
            self.press()
        elif event == "cancel":
            # Not in this thread: the next press must be heard while the server is being told.
            self._work("cancel", self.cancel)

    def _work(self, name: str, work: Callable[[], object]) -> None:
        """Does something of the agent's in a thread; the agent itself knows what must not run twice."""
        thread = threading.Thread(target=self._run, args=(work,), name=f"{name} {self.config.serial}", daemon=True)
        self._threads = [*(old for old in self._threads if old.is_alive()), thread]
        thread.start()

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Stopped:
            log.info("%s: switched off during a rescue", self.config.serial)
        except (ApiError, RdpError, OSError) as error:
            log.error("%s: %s", self.config.serial, error)
            self._show(Notice("failed", "This machine could not call support. Please call the number on it."))

    def _show(self, notice: Notice) -> None:
        with self._changed:
            self.notices.append(notice)
            self._changed.notify_all()
        self._screen.tell(
            {"do": "support", "state": notice.state, "message": notice.message, "operator": notice.operator_name}
        )

    def _faults(self) -> list[str]:
        fault = self.screen.get("fault")
        return [f"{fault['code']} {fault['title']}"] if fault else []

    def _rdp_address(self) -> str:
        # With a tunnel its own address, which is there only while it is up: nothing listens anywhere else.
        return self._line.state.address if self.config.vpn_profile else self.config.address

    def _agent_is_idle(self) -> bool:
        return RescueStore(self.config.folder / "agent").read() is None

    def _take_folder(self) -> None:
        self._lock_file = open(self.config.folder / "machine.lock", "a+b")  # noqa: SIM115 - held while we run
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            self._lock_file = None
            raise ConfigError(f"{self.config.folder}: this machine runs already in another process.") from None

    def _clean_up_earlier_run(self) -> None:
        for name, (pid, birth) in (read_json(self._processes_file) or {}).items():
            if children.kill_leftover(pid, birth):
                log.warning("%s: ended %s of an earlier run (process %s)", self.config.serial, name, pid)
        self._rdp.close("")

    def _remember_processes(self) -> None:
        pids = {"display": self._display.pid, "screen": self._screen.pid}
        write_json(self._processes_file, {name: [pid, birth_of(pid)] for name, pid in pids.items()})
