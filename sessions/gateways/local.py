"""One guacd process a session, on a loopback port of its own.

The processes themselves are the record: attempt and installation are marks in their environment, so a worker that
was started later, or another one, finds and stops them. Each has an empty home folder of its own, since FreeRDP
writes there; a folder without processes is what a crash between the two left behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from django.conf import settings

from sessions.gateways import probe, processes
from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus, Handle
from sessions.gateways.processes import Process

HOST = "127.0.0.1"
_START_TIMEOUT_S = 10.0
_TERM_GRACE_S = 0.5
_STOP_TIMEOUT_S = 10.0
_PORTS_TRIED = 5
# Where we are root, the first of these that exists runs guacd: what a hostile machine may take over is that (T5).
_USERS = ("guacd", "_guacd", "nobody")
# A core would hold the machine's login (T10). The mark tells guacd from the shell that it is for its first moment.
_WITHOUT_CORE_DUMP = ("/bin/sh", "-c", 'export PORTAFILTER_BEGUN=1 && ulimit -c 0 && exec "$0" "$@"')
_ATTEMPT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


class LocalGateways:
    """guacd processes of this computer."""

    def __init__(self) -> None:
        self._installation = str(settings.INSTALLATION)
        self._account = None if settings.GATEWAY_UIDS else _unprivileged_account()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()
        self._rdp_was_checked = False
        digest = hashlib.sha256(self._installation.encode()).hexdigest()[:12]
        # Not below STATE_DIR: guacd's user must be able to reach it.
        self._folder = Path(tempfile.gettempdir()) / f"portafilter-{os.getuid()}-{digest}"

    def start(self, request: GatewayRequest) -> GatewayStatus:
        _check_attempt_id(request.attempt_id)
        if not os.access(settings.GUACD_PATH, os.X_OK):
            raise GatewayError(
                f"GUACD_PATH: found no program at {settings.GUACD_PATH}, expected guacd.", permanent=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_S
        for _ in range(_PORTS_TRIED):
            leader, is_new = self._find_or_spawn(request.attempt_id, deadline)
            if leader is not None and self._wait_until_it_answers(leader, request.attempt_id, deadline):
                if is_new:
                    self._check_rdp(leader, deadline)
                return self._ready(leader)
        raise GatewayError(f"guacd ended at once, {_PORTS_TRIED} times. {self._last_words(request.attempt_id)}")

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        if processes.is_alive(int(handle.get("pid", 0)), int(handle.get("started", 0))):
            return GatewayStatus("ready", HOST, int(handle["port"]), dict(handle))
        self._reap(attempt_id)
        leader = _leader(self._processes(attempt_id))
        if leader is None:
            return GatewayStatus("stopped", detail=f"guacd is gone. {self._last_words(attempt_id)}".strip())
        port = _port_of(leader)
        return self._ready(leader) if processes.listens_on(leader.pid, port) else GatewayStatus("starting")

    def stop(self, attempt_id: str, handle: Handle) -> None:
        _check_attempt_id(attempt_id)
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        grace_ends = time.monotonic() + _TERM_GRACE_S
        asked: set[Process] = set()
        while True:
            with self._exclusively():
                left = self._processes(attempt_id)
                if not left:
                    self._remove_folder(attempt_id)
                    self._reap(attempt_id)
                    return
            kill = time.monotonic() > grace_ends
            # The parent first, or it may fork again.
            for process in sorted(left, key=lambda one: one.started):
                if kill or process not in asked:
                    processes.end(process, kill=kill)
                    asked.add(process)
            self._reap(attempt_id)
            if time.monotonic() > deadline:
                pids = ", ".join(str(process.pid) for process in left)
                raise GatewayError(f"guacd does not end, not even when killed: process {pids}.")
            time.sleep(0.01)

    def running(self) -> list[str]:
        marked = processes.find(PORTAFILTER_INSTALLATION=self._installation)
        attempts = {process.environment.get("PORTAFILTER_GATEWAY", "") for process in marked}
        with suppress(FileNotFoundError, NotADirectoryError):
            attempts |= {entry.name for entry in self._folder.iterdir() if entry.is_dir()}
        return sorted(attempt for attempt in attempts if _ATTEMPT_ID.fullmatch(attempt))

    # --- starting ----------------------------------------------------------------------------------------------------

    def _find_or_spawn(self, attempt_id: str, deadline: float) -> tuple[Process | None, bool]:
        """The attempt's guacd and whether it is new; None when a new one has ended already, its port being taken."""
        with self._exclusively():
            if leader := _leader(self._processes(attempt_id)):
                return leader, False
            user = self._choose_user()
            home = self._make_home(attempt_id, user)
            port = str(_free_port())
            try:
                with open(home / "guacd.log", "ab") as log:
                    child = subprocess.Popen(
                        [*_WITHOUT_CORE_DUMP, settings.GUACD_PATH, "-f", "-b", HOST, "-l", port, "-L", "info"],
                        env={
                            "PATH": "/usr/bin:/bin",
                            "HOME": str(home),
                            "LANG": "C.UTF-8",
                            "PORTAFILTER_GATEWAY": attempt_id,
                            "PORTAFILTER_INSTALLATION": self._installation,
                            "PORTAFILTER_PORT": port,
                        },
                        cwd=home,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                        user=user and user[0],
                        group=user and user[1],
                        extra_groups=None if user is None else [],
                    )
            except (OSError, subprocess.SubprocessError) as error:
                raise GatewayError(f"guacd could not be started: {error}.") from error
            self._children[attempt_id] = child
            return self._wait_until_seen(child, attempt_id, deadline), True

    def _wait_until_seen(self, child: subprocess.Popen[bytes], attempt_id: str, deadline: float) -> Process | None:
        """The new guacd as others find it; None when it has ended already.

        While one program becomes another (execve) /proc shows no environment, for 15 ms on a busy computer: whoever
        looked then would start a second guacd, or stop none.
        """
        while child.poll() is None:
            leader = _leader(self._processes(attempt_id))
            if leader is not None and "PORTAFILTER_BEGUN" in leader.environment:
                return leader
            if time.monotonic() > deadline:
                child.kill()
                raise GatewayError(f"guacd did not begin within {_START_TIMEOUT_S:g} s.")
            time.sleep(0.002)
        return None

    def _wait_until_it_answers(self, leader: Process, attempt_id: str, deadline: float) -> bool:
        """False when it ended by itself: most likely somebody else got its port."""
        port = _port_of(leader)
        while time.monotonic() < deadline:
            if not processes.is_alive(leader.pid, leader.started):
                if self._reap(attempt_id) > 0:
                    return False
                raise GatewayError(f"guacd was ended while it started. {self._last_words(attempt_id)}")
            if processes.listens_on(leader.pid, port):
                try:
                    probe.answers(HOST, port, timeout_s=2)
                    return True
                except (OSError, probe.NotGuacd) as error:
                    last = str(error)
                    if time.monotonic() + 0.1 > deadline:
                        raise GatewayError(f"guacd started but does not answer: {last}.") from error
            time.sleep(0.005)
        raise GatewayError(f"guacd was not listening after {_START_TIMEOUT_S:g} s. {self._last_words(attempt_id)}")

    def _check_rdp(self, leader: Process, deadline: float) -> None:
        """Once, with a guacd that nobody uses yet: it costs 150 ms, and what is installed seldom changes."""
        if self._rdp_was_checked:
            return
        try:
            # It loads FreeRDP, which takes seconds on a busy computer.
            can = probe.can_do_rdp(HOST, _port_of(leader), timeout_s=max(3, deadline - time.monotonic()))
        except OSError as error:
            raise GatewayError(f"guacd started but does not offer RDP: {error}.") from error
        for process in self._processes(leader.environment["PORTAFILTER_GATEWAY"]):
            if process.parent == leader.pid:
                processes.end(process, kill=True)
        if not can:
            raise GatewayError("This guacd cannot do RDP. Install libguac-client-rdp0 beside it.", permanent=True)
        self._rdp_was_checked = True

    def _ready(self, leader: Process) -> GatewayStatus:
        port = _port_of(leader)
        handle: dict[str, str | int] = {"pid": leader.pid, "started": leader.started, "port": port}
        uid = processes.user_of(leader.pid)
        if uid is not None:
            handle["uid"] = uid  # by this the VPN's firewall knows the gateway
        return GatewayStatus("ready", HOST, port, handle)

    # --- what is there -----------------------------------------------------------------------------------------------

    def _processes(self, attempt_id: str) -> list[Process]:
        return processes.find(PORTAFILTER_GATEWAY=attempt_id, PORTAFILTER_INSTALLATION=self._installation)

    def _reap(self, attempt_id: str) -> int:
        """Takes the exit code of a child of ours that has ended, or it stays a zombie; 0 for all others."""
        child = self._children.get(attempt_id)
        if child is None or child.poll() is None:
            return 0
        self._children.pop(attempt_id, None)
        return child.returncode

    def _last_words(self, attempt_id: str) -> str:
        try:
            lines = (self._folder / attempt_id / "guacd.log").read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return f"Its last words: {lines[-1][:200]}" if lines else ""

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """One at a time in the installation: nobody starts what another worker is just starting or clearing."""
        with self._lock, self._locked_folder():
            try:
                yield
            finally:
                self._remove_empty_folder()

    @contextmanager
    def _locked_folder(self) -> Iterator[None]:
        """The folder, made if need be, with its lock held; another may take both away until we have the lock."""
        while True:
            with suppress(FileExistsError):  # pathlib's exist_ok looks again, when it may be gone
                self._folder.mkdir(mode=0o711)
            try:
                self._refuse_foreign_folder()
                file = open(self._folder / ".lock", "w")  # noqa: SIM115 - closed below
            except FileNotFoundError:
                continue
            with file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if _is_still(file, self._folder / ".lock"):
                    yield
                    return

    def _remove_empty_folder(self) -> None:
        """Of an installation without gateways nothing stays; whoever waits for this lock finds that it is no more."""
        with suppress(OSError):  # the last one: somebody has made a lock of their own in it already
            if [entry.name for entry in self._folder.iterdir()] == [".lock"]:
                (self._folder / ".lock").unlink()
                self._folder.rmdir()

    def _refuse_foreign_folder(self) -> None:
        found = self._folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise GatewayError(
                f"{self._folder} belongs to somebody else. Remove it, or set TMPDIR to a folder of your own.",
                permanent=True,
            )

    def _make_home(self, attempt_id: str, user: tuple[int, int] | None) -> Path:
        home = self._folder / attempt_id
        home.mkdir(mode=0o700, exist_ok=True)
        if user is not None:
            os.chown(home, *user)
        return home

    def _choose_user(self) -> tuple[int, int] | None:
        """Who runs the next guacd, as user and group; None: we ourselves. Raises GatewayError.

        Of GATEWAY_UIDS the one after the last is taken: the firewall may still let a gateway that has just died pass.
        """
        uids: range = settings.GATEWAY_UIDS
        if not uids:
            return (self._account.pw_uid, self._account.pw_gid) if self._account else None
        if os.getuid() != 0:
            raise GatewayError("GATEWAY_UIDS needs root, who alone can start programs as others.", permanent=True)
        file = self._folder / ".last-uid"
        text = file.read_text() if file.exists() else ""
        last = int(text) if text.isdigit() else uids[-1]
        busy = processes.users()
        start = uids.index(last) + 1 if last in uids else 0
        uid = next((one for one in (*uids[start:], *uids[:start]) if one not in busy), None)
        if uid is None:
            raise GatewayError(f"All {len(uids)} users of GATEWAY_UIDS have processes. Give it more of them.")
        file.write_text(str(uid))
        return uid, uid

    def _remove_folder(self, attempt_id: str) -> None:
        shutil.rmtree(self._folder / attempt_id, ignore_errors=True)
        if (self._folder / attempt_id).exists():
            raise GatewayError(f"{self._folder / attempt_id} could not be removed.")


def _is_still(file: IO[str], path: Path) -> bool:
    """Whether this open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _leader(found: list[Process]) -> Process | None:
    """The guacd that accepts connections. Its children keep its environment and session, so only one can lead that."""
    return next((process for process in found if process.pid == process.session), None)


def _port_of(leader: Process) -> int:
    return int(leader.environment["PORTAFILTER_PORT"])


def _free_port() -> int:
    """A port that is free now; whoever takes it before guacd does costs another try."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def _unprivileged_account() -> pwd.struct_passwd | None:
    """Who runs guacd; None when we are nobody special ourselves. Raises GatewayError if root finds nobody."""
    if os.getuid() != 0:
        return None
    for name in _USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise GatewayError(f"We are root and found none of the users {', '.join(_USERS)} to run guacd as.", permanent=True)


def _check_attempt_id(attempt_id: str) -> None:
    if not _ATTEMPT_ID.fullmatch(attempt_id):
        raise GatewayError(
            f"Found {attempt_id!r}, expected an attempt id of letters, digits and dashes.", permanent=True
        )
