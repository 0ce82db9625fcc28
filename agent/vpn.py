"""The tunnel to support: had while somebody needs it, one at a time on this machine, and brought back when it breaks.

Theory of operation:

- Whoever needs the tunnel holds it (`hold`, `release`). While it is held, one thread keeps OpenVPN running: when the
  program ends, because the server refused or halted it or for a fault of its own, it is started again after growing
  pauses with jitter. A silent line is OpenVPN's own matter: it tries again by itself, and says so.
- Two tunnels with one certificate would throw each other out. So a lock file belongs to the process that runs
  OpenVPN; another one reads from `vpn.json` how it stands, and takes over when the first is gone.
- `vpn.json` also names the process and its start time: a later run ends what a crash left. (OpenVPN ends by itself
  when its agent dies; this is for the case that it could not.)
- At the end of a rescue the server halts the tunnel: that is how the machine learns that nothing is open any more.
  `expect_end` says that this is near and no cause to start again.
"""

from __future__ import annotations

import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable

from agent import openvpn
from agent.api import Backoff, Client
from agent.config import AgentConfig
from agent.files import private_folder, read_json, write_json
from agent.line import CONNECTING, FAILED, HALTED, LOST, OFF, REFUSED, UP, Line, LineState, NoTunnel
from agent.locks import try_lock
from agent.openvpn import Event, OpenVpn, VpnError
from agent.processes import end_leftover

log = logging.getLogger("agent.vpn")

SILENCE_S = 15.0  # both ends ping every 5 s: without a byte for longer the line is not what it was
_NEIGHBOUR_POLL_S = 0.2
_LEFTOVER_END_S = 3.0
_TROUBLE_PAUSE_S = 5.0
_NUDGE = Event("nudge")
_PLACES = ("/usr/sbin", "/usr/local/sbin", r"C:\Program Files\OpenVPN\bin")


class Tunnel:
    """Keeps OpenVPN running while it is held. Safe to use from several threads and from several processes.

    `on_break`, settable, is called from a thread of the tunnel's when calls under way can no longer be answered: the
    tunnel ended, or it came back after a silence.
    """

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        self.on_break: Callable[[], None] = lambda: None
        self._folder = private_folder(config.state_dir)
        self._file = config.state_dir / "vpn.json"
        self._changed = threading.Condition()
        self._state = LineState()
        self._ended_at: float | None = None
        self._holds = 0
        self._is_ending = False
        self._thread: threading.Thread | None = None
        self._written: dict[str, object] = {}
        self._inbox: queue.Queue[Event] = queue.Queue()

    @property
    def state(self) -> LineState:
        with self._changed:
            return self._state

    @property
    def address(self) -> str:
        """This machine's address in the VPN while the tunnel is up, else ""."""
        state = self.state
        return state.address if state.is_up else ""

    def hold(self) -> None:
        """Wants the tunnel up, until as many calls of `release`. What can never be is seen in `state.is_hopeless`."""
        missing = self._what_is_missing()
        with self._changed:
            self._holds += 1
            self._is_ending = False
            if missing:
                log.error("vpn: %s", missing)
                self._state = LineState(FAILED, detail=missing, is_hopeless=True)
            elif self._thread is None:
                self._ended_at = None
                self._state = LineState(CONNECTING)
                self._thread = threading.Thread(target=self._keep, name="vpn", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_until_up(self, stop: threading.Event, timeout_s: float) -> bool:
        """True as soon as the tunnel is up; False at `stop` or when the time is over."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (self._state.is_up or self._state.is_hopeless or stop.is_set()) and time.monotonic() < deadline:
                self._changed.wait(max(0.0, min(0.1, deadline - time.monotonic())))  # short: `stop` wakes nobody here
            return self._state.is_up

    def expect_end(self) -> None:
        """The only holder is about to be halted by the server: the tunnel then stays down."""
        with self._changed:
            self._is_ending = self._holds <= 1

    def release(self) -> None:
        """Gives one hold back; the last one ends the tunnel, and returns when OpenVPN is gone."""
        with self._changed:
            self._holds = max(0, self._holds - 1)
            thread = self._thread if self._holds == 0 else None
            self._changed.notify_all()
        if thread is not None:
            self._inbox.put(_NUDGE)
            thread.join()

    def close(self) -> None:
        """Ends the tunnel, whoever still holds it in this process; returns when OpenVPN is gone."""
        with self._changed:
            self._holds = min(1, self._holds)
        self.release()

    def _what_is_missing(self) -> str:
        profile = self._config.vpn_profile
        if profile is None or not profile.is_file():
            return f"[vpn] profile: found no file {profile}, expected this machine's OpenVPN profile"
        try:
            _find(self._config.vpn_program)
        except VpnError as error:
            return str(error)
        return ""

    # The thread that keeps it

    def _keep(self) -> None:
        try:
            with open(self._folder / "vpn.lock", "a+b") as lock:  # closing it gives the lock back
                while not try_lock(lock):
                    if self._is_done():
                        return
                    self._follow_neighbour()
                self._end_leftover()
                self._run_while_wanted()
        except OSError as error:
            log.error("vpn: %s", error)
            self._become(FAILED, detail=str(error))
            self._pause(_TROUBLE_PAUSE_S)
        finally:
            with self._changed:
                if self._state.name not in (HALTED, REFUSED, FAILED):
                    self._state = LineState()
                self._thread = None
                if self._holds and not self._is_ending:  # somebody took hold between the last look and now
                    self._thread = threading.Thread(target=self._keep, name="vpn", daemon=True)
                    self._thread.start()
                self._changed.notify_all()

    def _is_done(self) -> bool:
        with self._changed:
            return self._holds == 0

    def _run_while_wanted(self) -> None:
        pauses = Backoff(first_s=2.0, largest_s=60.0)
        while not self._is_done():
            if self._run_once():
                pauses = Backoff(first_s=2.0, largest_s=60.0)
            with self._changed:
                if self._holds == 0 or self._is_ending:
                    return
                pause_s = pauses.next_s()
            log.info("vpn: starting again in %.1f s", pause_s)
            self._pause(pause_s)

    def _pause(self, pause_s: float) -> None:
        deadline = time.monotonic() + pause_s
        with self._changed:
            while self._holds and not self._is_ending and time.monotonic() < deadline:
                self._changed.wait(min(0.5, max(0.0, deadline - time.monotonic())))

    def _run_once(self) -> bool:
        """One run of OpenVPN from its start to its end; True when it was connected for a good while."""
        inbox: queue.Queue[Event] = queue.Queue()
        self._inbox = inbox
        program = OpenVpn(self._command(), folder=self._folder, inbox=inbox)
        self._become(CONNECTING)
        try:
            program.start()
            self._write(program)
            log.info("vpn: started %s (process %d)", self._config.vpn_program, program.pid)
            up_at = self._listen(program, inbox)
        except VpnError as error:
            log.error("vpn: %s", error)
            self._become(FAILED, detail=str(error))
            return False
        finally:
            program.end()
            self._file.unlink(missing_ok=True)
            self._written = {}
        return up_at is not None and time.monotonic() - up_at > 30.0

    def _listen(self, program: OpenVpn, inbox: queue.Queue[Event]) -> float | None:
        """Follows what OpenVPN says until it ends or nobody wants it any more; returns when it came up last."""
        up_at: float | None = None
        received, heard_at = 0, time.monotonic()
        while True:
            try:
                event = inbox.get(timeout=1.0)
            except queue.Empty:
                event = _NUDGE
            if event.kind == openvpn.ENDED:
                self._program_ended(event)
                return up_at
            if self._is_done():
                log.info("vpn: no longer needed, ending it")
                program.end()
                self._become(OFF)
                return up_at
            if event.kind == openvpn.TRAFFIC:
                if event.received > received and time.monotonic() - heard_at > SILENCE_S:
                    log.info("vpn: heard again after %.0f s of silence", time.monotonic() - heard_at)
                    self.on_break()
                if event.received > received:
                    received, heard_at = event.received, time.monotonic()
            elif event.kind == openvpn.CONNECTED:
                up_at = heard_at = time.monotonic()
                self._ended_at = None
                self._become(UP, address=event.address)
                log.info("vpn: up, this machine is %s", event.address)
            elif event.kind == openvpn.LOST:
                # One line for an outage, not one for each try of it.
                level = logging.DEBUG if self.state.name == LOST else logging.WARNING
                log.log(level, "vpn: lost (%s), connecting again", event.detail or "no reason given")
                self._become(LOST, detail=event.detail)
            elif event.kind == openvpn.HALTED:
                log.info("vpn: the server ended the tunnel %s", event.detail)
                self._become(HALTED, detail=event.detail)
            elif event.kind == openvpn.REFUSED:
                log.warning("vpn: the server does not admit this machine: %s", event.detail)
                self._become(REFUSED, detail=event.detail)
            self._write(program)

    def _program_ended(self, event: Event) -> None:
        if self.state.is_ended_by_server:
            log.info("vpn: openvpn ended")
            self.on_break()
            return
        log.warning("vpn: openvpn ended by itself, %s", event.detail)
        self._become(FAILED, detail=event.detail)

    def _become(self, name: str, *, address: str = "", detail: str = "") -> None:
        with self._changed:
            before = self._state
            if name == CONNECTING and before.is_ended_by_server:
                return  # what the server said last holds until it says otherwise
            if name in (HALTED, REFUSED) and self._ended_at is None:
                self._ended_at = time.monotonic()
            self._state = LineState(name, address, detail, self._ended_at)
            self._changed.notify_all()
        if before.is_up and name != UP:
            self.on_break()

    # Other processes, and earlier ones

    def _command(self) -> tuple[str, ...]:
        profile = self._config.vpn_profile
        # --cd: a profile may name files beside it.
        folder = profile.parent if profile is not None else "."
        return (_find(self._config.vpn_program), "--cd", str(folder), "--config", str(profile))

    def _write(self, program: OpenVpn) -> None:
        state = self.state
        document = {"pid": program.pid, "birth": program.birth, "state": state.name, "address": state.address}
        if document != self._written:
            write_json(self._file, document, durable=False)
            self._written = document

    def _follow_neighbour(self) -> None:
        """Another process runs OpenVPN: its state is ours."""
        document = read_json(self._file) or {}
        name, address = str(document.get("state", CONNECTING)), str(document.get("address", ""))
        if (name, address) != (self.state.name, self.state.address):
            self._become(name, address=address)
        with self._changed:
            if self._holds:
                self._changed.wait(_NEIGHBOUR_POLL_S)

    def _end_leftover(self) -> None:
        document = read_json(self._file) or {}
        pid, birth = document.get("pid"), document.get("birth")
        if isinstance(pid, int) and isinstance(birth, str) and end_leftover(pid, birth, gently_s=_LEFTOVER_END_S):
            log.warning("vpn: ended the openvpn of an earlier run (process %d)", pid)
        self._file.unlink(missing_ok=True)


def way_to_support(config: AgentConfig) -> tuple[Client, Line]:
    """The server's API, and the tunnel by which it is reached, where the settings name a profile."""
    if config.vpn_profile is None:
        return Client(config), NoTunnel()
    tunnel = Tunnel(config)
    client = Client(config, address=lambda: tunnel.address)
    tunnel.on_break = client.interrupt
    return client, tunnel


def _find(program: str) -> str:
    """Where the program is; raises VpnError that says where it was looked for."""
    found = shutil.which(program) or next(
        (where for place in _PLACES if (where := shutil.which(program, path=place))), None
    )
    if found is None:
        raise VpnError(f"[vpn] openvpn_program: found no {program!r} on the PATH, expected OpenVPN 2.5 or newer")
    return found
