"""A database that has been through all migrations, made once a run: copying it takes milliseconds, migrating seconds.

Every process of a run may ask for it; the first one makes it with `manage.py migrate`, as a person would, and the
others wait for that.
"""

from __future__ import annotations

import atexit
import base64
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from django.core import management
from django.db import connection

ROOT = Path(__file__).resolve().parents[1]
_MIGRATE_S = 280
# For where nobody has set secrets: what is migrated holds none.
_MADE_UP = {"SECRET_KEY": "made-up-" * 8, "CREDENTIAL_KEYS": base64.urlsafe_b64encode(b"m" * 32).decode()}


def copy_to(file: Path) -> None:
    """Makes an installation's SQLite database; what `manage.py migrate` would make there."""
    shutil.copyfile(_sqlite(), file)


@contextmanager
def instead_of_migrating() -> Iterator[None]:
    """Meanwhile the test database that Django makes gets its tables from the one that is there, not from migrations."""
    if connection.vendor == "sqlite":
        take = _take_sqlite
    elif template := os.environ.get("TEST_DATABASE_TEMPLATE"):
        _once("postgresql", os.environ["TEST_DATABASE_URL"])
        connection.settings_dict["TEST"]["TEMPLATE"] = template
        take = _nothing_to_do
    else:  # somebody's own PostgreSQL, where nothing is written but to the test databases
        yield
        return
    call_command = management.call_command

    def copying(name: str, *arguments: Any, **options: Any) -> Any:
        return take() if name == "migrate" else call_command(name, *arguments, **options)

    with patch.object(management, "call_command", copying):
        yield


def _take_sqlite() -> None:
    with closing(sqlite3.connect(_sqlite())) as source:
        connection.ensure_connection()
        source.backup(connection.connection)


def _nothing_to_do() -> None:
    """PostgreSQL has copied the template's tables."""


def _sqlite() -> Path:
    file = _folder() / "migrated.sqlite3"
    _once("sqlite", f"sqlite:///{file}")
    return file


def _once(kind: str, url: str) -> None:
    """Returns when the database has been migrated, by this process or another one of the run."""
    done = _folder() / f"{kind}.migrated"
    with (_folder() / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "--verbosity", "0"],
            cwd=ROOT, check=True, timeout=_MIGRATE_S,
            env={**_MADE_UP, **os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings", "DATABASE_URL": url},
        )  # fmt: skip
        done.touch()


@cache
def _folder() -> Path:
    """What the processes of a run share; a program of bench/ is a run of its own, without tests.settings."""
    if folder := os.environ.get("PORTAFILTER_TEST_RUN"):
        return Path(folder)
    own = tempfile.mkdtemp(prefix="portafilter-run-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)
