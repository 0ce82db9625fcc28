"""Small files that survive a crash: written whole or not at all, and readable by their owner only."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


def private_folder(path: Path) -> Path:
    """The folder, made if need be, entered by its owner only."""
    path.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # not ours to change: the files in it are still 0600
        path.chmod(0o700)
    return path


def write_json(path: Path, document: dict[str, Any], *, durable: bool = True) -> None:
    """Replaces the file in one step, mode 0600; `durable` waits for the disk, so that a power cut cannot undo it."""
    write_text(path, json.dumps(document, ensure_ascii=False), durable=durable)


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replaces the file in one step, mode 0600, as `write_json` does."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in the file; None when there is no file or it holds no object (a cut-off write of another program)."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def erase(path: Path) -> None:
    """Overwrites the file, then removes it; a file already gone is fine.

    Overwriting promises little on flash, but keeps the bytes out of the next reader of that block on the rest.
    """
    with contextlib.suppress(FileNotFoundError):
        with open(path, "r+b", buffering=0) as file:
            file.write(b"\0" * os.fstat(file.fileno()).st_size)
            os.fsync(file.fileno())
        path.unlink()
