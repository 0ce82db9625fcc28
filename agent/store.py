"""What the agent remembers of the rescue it is in, on disk, so that no crash leaves RDP open or a request forgotten."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from agent.credentials import Credentials
from agent.files import erase, private_folder, read_json, write_json
from agent.locks import try_lock, unlock


@dataclass(frozen=True)
class Problem:
    """What is wrong, as far as the machine or the person at it knows."""

    code: str = ""
    text: str = ""

    def as_json(self) -> dict[str, str]:
        """What is known of it, for the API."""
        return {name: value for name, value in (("code", self.code), ("text", self.text)) if value}


@dataclass(frozen=True)
class Record:
    """One rescue: written before RDP is opened, erased after it is shut.

    The password is in it because a restarted agent must let the same user in again: the server knows no other.
    """

    key: str  # the Idempotency-Key of the press
    username: str
    password: str = field(repr=False)
    code: str
    text: str
    pressed_at: float  # seconds since the epoch
    request_id: str = ""  # empty until the server has answered
    port: int = 0  # 0 until RDP was opened
    is_over: bool = False  # only tidying up is left

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.username, self.password)

    @property
    def problem(self) -> Problem:
        return Problem(self.code, self.text)


class RescueStore:
    """The record of this machine's one rescue, and the lock of whoever drives it.

    Safe between threads and between processes: only the holder of `lock()` writes the record; others read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = private_folder(folder)
        self._path = folder / "rescue.json"
        self._lock_path = folder / "rescue.lock"
        self._cancel_path = folder / "rescue.cancel"

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        """Yields True when this caller now drives the rescue, False when another does; a dead holder's lock is free."""
        with open(self._lock_path, "a+b") as file:
            if not try_lock(file):
                yield False
                return
            try:
                yield True
            finally:
                unlock(file)

    def read(self) -> Record | None:
        """The record, or None when there is no rescue (or a file that this version cannot read)."""
        document = read_json(self._path)
        if document is None:
            return None
        known = {item.name for item in fields(Record)}
        try:
            return Record(**{name: value for name, value in document.items() if name in known})
        except TypeError:
            return None

    def write(self, record: Record) -> None:
        """Keeps the record; on disk when this returns."""
        write_json(self._path, asdict(record))

    def change(self, record: Record, **values: object) -> Record:
        """The record with other values, kept."""
        changed = replace(record, **values)  # type: ignore[arg-type]  # the names are the caller's
        self.write(changed)
        return changed

    def erase(self) -> None:
        """Forgets the rescue and its password."""
        erase(self._path)
        erase(self._cancel_path)

    def want_cancel(self) -> None:
        """Leaves word for the holder of the lock, whichever process it is, that the person no longer needs help."""
        self._cancel_path.write_text(f"{time.time():.0f}\n", encoding="ascii")

    def is_cancel_wanted(self) -> bool:
        return self._cancel_path.exists()
