"""Network namespaces, and a record of them: whoever comes next removes what a killed run has left.

Namespaces here have nothing but a loopback device: all that goes between them goes through sockets that `lines` opens
in both (a socket stays in the namespace in which it was made). So there are no links, routes or rules to clean up.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from portal.demo.errors import DemoError

RECORDS = Path("/run/portafilter-beds")
_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_KILL_S = 10.0
_NEEDED = ("openvpn", "nft", "ip", "nsenter", "setpriv")
# Where Debian has them; a user's PATH may lack it.
_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def missing() -> str:
    """What this computer lacks for a real VPN in namespaces; empty when nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    lacking = [name for name in _NEEDED if shutil.which(name, path=_PATH) is None]
    return f"needs the programs {', '.join(lacking)}: ./setup packages test" if lacking else ""


class Namespaces:
    """Namespaces of one run; use as a context manager. At its end they go, with every process in them.

    `leftovers` are folders that go with them, as after a crash nobody else would remove them.
    """

    def __init__(self, *, leftovers: tuple[Path, ...] = ()) -> None:
        self.tag = f"pf-{secrets.token_hex(3)}"
        self._leftovers = leftovers
        self._names: list[str] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Namespaces:
        sweep()
        self._file = RECORDS / f"{self.tag}.json"
        # Locked before a sweep can find it: whoever gets this lock knows that we are dead. Programs that we start
        # do not inherit the descriptor.
        beside = RECORDS / f".{self.tag}.json"
        self._record = self._stack.enter_context(open(beside, "x", encoding="utf-8"))
        fcntl.flock(self._record, fcntl.LOCK_EX)
        self._write()
        beside.rename(self._file)
        return self

    def __exit__(self, *exc: object) -> None:
        remove(self._names, self._leftovers)
        self._file.unlink(missing_ok=True)
        self._stack.close()

    def add(self, name: str, *addresses: str) -> str:
        """Makes a namespace in which these addresses are its own; returns its full name."""
        full = f"{self.tag}-{name}"
        self._names.append(full)
        self._write()
        ip("netns", "add", full)
        for address in addresses:
            ip("-n", full, "addr", "add", f"{address}/32", "dev", "lo")
        ip("-n", full, "link", "set", "lo", "up")
        return full

    def _write(self) -> None:
        # Before the thing itself: a record of what is not there does no harm.
        self._record.seek(0)
        json.dump({"names": self._names, "leftovers": [str(path) for path in self._leftovers]}, self._record)
        self._record.truncate()
        self._record.flush()


def sweep() -> list[str]:
    """Removes what dead runs have left, and nothing of living ones; says which namespaces those were."""
    RECORDS.mkdir(mode=0o700, exist_ok=True)
    swept: list[str] = []
    for path in sorted(RECORDS.glob("pf-*.json")):
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as record:
            try:
                fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            try:
                document = json.load(record)
            except ValueError:  # it died before it had written anything, and so before it made anything
                document = {"names": [], "leftovers": []}
            names = [name for name in document["names"] if name.startswith(f"{path.stem}-")]
            remove(names, [Path(leftover) for leftover in document["leftovers"]])
            path.unlink(missing_ok=True)
            swept += names
    return swept


def remove(names: list[str], leftovers: tuple[Path, ...] | list[Path] = ()) -> None:
    """Ends every process in these namespaces, then the namespaces, then the folders; what is gone already is fine."""
    deadline = time.monotonic() + _KILL_S
    while pids := [pid for name in names for pid in processes_in(name)]:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise DemoError(f"These processes do not end, not even when killed: {', '.join(map(str, pids))}.")
        time.sleep(0.02)
    for name in names:
        if (_NETNS / name).exists():
            ip("netns", "del", name)
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)


def processes_in(name: str) -> list[int]:
    """The living processes in a namespace of that name, but never our own."""
    if not (_NETNS / name).exists():
        return []
    pids = [int(pid) for pid in ip("netns", "pids", name).split()]
    return [pid for pid in pids if pid != os.getpid() and not _is_zombie(pid)]


def enter(name: str) -> list[str]:
    """The beginning of a command that is to run in a namespace."""
    return [_program("nsenter"), f"--net={_NETNS / name}", "--"]


@contextlib.contextmanager
def inside(name: str | None) -> Iterator[None]:
    """For this thread: sockets that are made now are made in that namespace. None is where we are anyway."""
    if name is None:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net", "rb") as home, open(_NETNS / name, "rb") as there:
        _set_namespace(libc, there.fileno())
        try:
            yield
        finally:
            _set_namespace(libc, home.fileno())


def ip(*arguments: str) -> str:
    """Runs ip of iproute2. Raises DemoError with what it said."""
    done = subprocess.run([_program("ip"), *arguments], capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise DemoError(f"ip {' '.join(arguments)}: {done.stderr.strip()[:300]}")
    return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise DemoError(f"Found no program {name}. An administrator installs it: ./setup packages test")
    return found


def _set_namespace(libc: ctypes.CDLL, descriptor: int) -> None:
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True
