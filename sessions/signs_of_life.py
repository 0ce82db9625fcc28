"""Tells the dead processes of this computer from the living, so that a dead one's leases need not run out first.

A process that takes leases holds a lock (flock) on a file of its own in STATE_DIR for as long as it lives, whatever
ends it; its name, with a random part, begins all names in its leases. A file whose lock can be had is a dead
process's. Pids, which are used again, and host names, which containers share, decide nothing. Where nothing is known
(no such file; another kernel's, over a shared disk whose locks may not reach that far) the lease runs out as ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from django.conf import settings

logger = logging.getLogger(__name__)

_FORGOTTEN_AFTER_S = 86_400.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SignOfLife:
    """This process's file and name. Without a folder that can be written there is a name, and leases run out."""

    def __init__(self, folder: Path | None = None) -> None:
        host = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())[:24]
        self.name = f"{host}:{os.getpid()}:{secrets.token_hex(8)}"
        self._path = (folder or _folder()) / self.name
        self._file: IO[str] | None = None

    def __enter__(self) -> SignOfLife:
        beside = self._path.with_name(f".{self.name}")
        try:
            beside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = open(beside, "x", encoding="ascii")  # held as long as the process lives
            file.write(_boot_id())
            file.flush()
            # Locked before it can be found: nobody ever sees the file of a living process without its lock.
            fcntl.flock(file, fcntl.LOCK_EX)
            beside.rename(self._path)
            self._file = file
        except OSError as error:
            logger.warning("No sign of life in %s (%s): after a crash, leases have to run out", beside.parent, error)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            # Removed while it is locked: the leases were given back, and there is nothing to tell of.
            self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None


def bury_dead(forget: Callable[[str], None], folder: Path | None = None) -> list[str]:
    """Calls `forget(name)` for each process of this computer that died, then removes its file; answers with the names.

    When `forget` raises, the file stays for the next time. Several callers at once do no harm: one has the lock.
    """
    buried = []
    try:
        paths = sorted(path for path in (folder or _folder()).iterdir() if not path.name.startswith("."))
    except OSError:
        return []  # nobody has left a sign here
    for path in paths:
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            if file.read() != _boot_id():
                _remove_old(path)
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            forget(path.name)
            path.unlink(missing_ok=True)
            buried.append(path.name)
            logger.warning("Process %s is dead: its leases are free", path.name)
    return buried


def _remove_old(path: Path) -> None:
    """Another kernel's: of this computer before its last start, or of another computer. Whoever lives loses little."""
    if time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
        path.unlink(missing_ok=True)


def _folder() -> Path:
    return Path(settings.STATE_DIR) / "processes"


def _boot_id() -> str:
    return _BOOT_ID.read_text(encoding="ascii").strip()
