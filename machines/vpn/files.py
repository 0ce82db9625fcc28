"""Files for OpenVPN and ourselves, replaced at once: a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def ensure_folder(path: Path, *, mode: int = 0o700) -> None:
    """The folder and those above it; an own one that more may enter than `mode` says is narrowed."""
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o777 & ~mode:
        path.chmod(mode)


def replace(path: Path, content: bytes, *, mode: int = 0o600, durable: bool = True) -> bool:
    """Writes a file by rename, on disk before it has its name; False when content and mode were the same already.

    The new file is nobody else's to read before it has its mode. Raises OSError; the old file is untouched then.
    Not `durable`: a crash of the computer may leave it empty, for what is written again at every start.
    """
    if _holds(path, content, mode):
        return False
    # A name that no other writer has and that nobody can have prepared (O_EXCL, no link is followed).
    beside = path.with_name(f".{path.name}.{secrets.token_hex(6)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(path.parent)
    return True


def replace_all(folder: Path, contents: dict[str, bytes], *, mode: int = 0o600) -> int:
    """Makes a folder hold exactly these files, not `durable`; says how many were written or removed.

    Raises ValueError for a name that is a path.
    """
    for name in contents:
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ValueError(f"Found {name!r}, expected a plain file name.")
    ensure_folder(folder)
    changed = sum(replace(folder / name, content, mode=mode, durable=False) for name, content in contents.items())
    with os.scandir(folder) as entries:
        # What a crash left half-written has a dot, and goes as well.
        extra = [
            entry.path for entry in entries if entry.name not in contents and not entry.is_dir(follow_symlinks=False)
        ]
    for path in extra:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return changed + len(extra)


def _holds(path: Path, content: bytes, mode: int) -> bool:
    try:
        with _opened(path) as descriptor:
            found = os.fstat(descriptor)
            if found.st_mode & 0o777 != mode or found.st_size != len(content) or found.st_uid != os.geteuid():
                return False
            return os.read(descriptor, len(content) + 1) == content
    except OSError:
        return False


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
