"""Finds and ends processes by marks in their environment, as /proc tells (Linux).

guacd forks a child for each connection, into a process group of its own, and such a child outlives its parent
(17 s were measured): what all of them share is the environment that the first one was given.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Process:
    """One process; `started` (clock ticks since boot) tells it from a later one with the same number."""

    pid: int
    parent: int
    session: int
    started: int
    environment: dict[str, str] = field(hash=False)


def find(**marks: str) -> list[Process]:
    """The living processes whose environment has all these values, as far as we may read it."""
    return [process for process in _all(b"PORTAFILTER_") if marks.items() <= process.environment.items()]


def users() -> set[int]:
    """The users (uid) of all processes that live, as far as we may see them; zombies are no longer anybody."""
    found = {user_of(int(name)) for name in os.listdir("/proc") if name.isdigit() and _times(int(name)) is not None}
    return {user for user in found if user is not None}


def user_of(pid: int) -> int | None:
    """As whom a process runs, as the kernel says; None when it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def is_alive(pid: int, started: int) -> bool:
    """Whether this very process still runs; a zombie does not."""
    return _times(pid) == started


def end(process: Process, *, kill: bool) -> None:
    """Sends SIGTERM or SIGKILL to this very process; one that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            # The number could have been given to another process since: the descriptor cannot.
            if is_alive(process.pid, process.started):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL if kill else signal.SIGTERM)
        finally:
            os.close(descriptor)


def listens_on(pid: int, port: int) -> bool:
    """Whether this process holds the listening IPv4 socket of a port."""
    inodes = set()
    with open("/proc/net/tcp", encoding="ascii") as table:
        next(table)
        for line in table:
            columns = line.split()
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{columns[9]}]")
    try:
        names = os.listdir(f"/proc/{pid}/fd")
        return any(_link(f"/proc/{pid}/fd/{name}") in inodes for name in names)
    except OSError:
        return False


def _all(needle: bytes) -> Iterator[Process]:
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                raw = file.read()
        except OSError:
            continue
        if needle not in raw:
            continue
        stat = _stat(int(name))
        if stat is None or stat[0] in "ZX":
            continue
        pairs = (item.partition(b"=") for item in raw.split(b"\0") if item)
        environment = {os.fsdecode(key): os.fsdecode(value) for key, _, value in pairs}
        yield Process(int(name), int(stat[1]), int(stat[3]), int(stat[19]), environment)


def _times(pid: int) -> int | None:
    stat = _stat(pid)
    return None if stat is None or stat[0] in "ZX" else int(stat[19])


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (proc(5)): [0] state, [1] parent, [3] session, [19] start time."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode("ascii").split()
    except OSError:
        return None


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
