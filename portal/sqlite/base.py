"""SQLite, whose writers of one process wait for each other instead of asking again and again.

A writer that finds the database locked sleeps and tries again, up to 0.1 s each time (SQLite's busy handler), whoever
came first; with a worker's, an asker's, a sender's and the requests' threads that grew to seconds at 20 presses a
second. Here a lock of the process stands before each transaction, which all of ours begin as writers
(`transaction_mode` IMMEDIATE), and before each single statement that writes. Other processes meet at SQLite's own.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from django.db.backends.sqlite3 import base

# SQLite's own time-out decides in the end: whoever has waited as long here goes on without.
_PATIENCE_S = 10.0
_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
_LONGEST_WORD = 7

# One for each database file.
_locks: dict[str, threading.Lock] = defaultdict(threading.Lock)


class Cursor(base.SQLiteCursorWrapper):
    """Waits for its turn where a statement writes outside a transaction."""

    def __init__(self, connection: sqlite3.Connection, wrapper: DatabaseWrapper) -> None:
        super().__init__(connection)
        self._wrapper = wrapper

    def execute(self, query: str, params: Any = None) -> Any:
        with self._wrapper.turn_for(query):
            return super().execute(query, params)

    def executemany(self, query: str, param_list: Any) -> Any:
        with self._wrapper.turn_for(query):
            return super().executemany(query, param_list)


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that takes its turn among the writers of this process.

    Each super() below is Django's own; the stubs know only what is public.
    """

    _has_turn = False

    def create_cursor(self, name: str | None = None) -> Any:
        return self.connection.cursor(factory=lambda connection: Cursor(connection, self))

    @contextlib.contextmanager
    def turn_for(self, query: str) -> Iterator[None]:
        """A turn for a statement that writes and is a transaction of its own; no other needs one."""
        is_write = query.lstrip()[:_LONGEST_WORD].upper().startswith(_WRITES)
        if self.in_atomic_block or self._has_turn or not is_write:
            yield
            return
        self._take_turn()
        try:
            yield
        finally:
            self._end_turn()

    def _take_turn(self) -> None:
        """Waits for this process's other writers; whoever has waited too long goes on without a turn."""
        self._has_turn = _locks[str(self.settings_dict["NAME"])].acquire(timeout=_PATIENCE_S)

    def _end_turn(self) -> None:
        """Lets the next writer go on; without a turn it does nothing."""
        if self._has_turn:
            self._has_turn = False
            _locks[str(self.settings_dict["NAME"])].release()

    def _start_transaction_under_autocommit(self) -> None:
        self._take_turn()
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self._end_turn()
            raise

    def _commit(self) -> None:
        # One that fails is rolled back by whoever began it, and ends its turn there.
        super()._commit()  # type: ignore[misc]
        self._end_turn()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self._end_turn()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self._end_turn()
