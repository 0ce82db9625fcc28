"""SQLite, whose writers of one process wait for each other instead of asking again and again.

A writer that finds the database locked sleeps and tries again, up to 0.1 s each time (SQLite's busy handler), whoever
came first; with a worker's, an asker's, a sender's and the requests' threads that grew to seconds at 20 presses a
second. Here a lock of the process stands before each transaction, which all of ours begin as writers
(`transaction_mode` IMMEDIATE), and before each single statement that writes. Other processes meet at SQLite's own.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
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
        if not self._wrapper.writes_alone(query):
            return super().execute(query, params)
        taken = self._wrapper.take_turn()
        try:
            return super().execute(query, params)
        finally:
            if taken:
                self._wrapper.end_turn()

    def executemany(self, query: str, param_list: Any) -> Any:
        if not self._wrapper.writes_alone(query):
            return super().executemany(query, param_list)
        taken = self._wrapper.take_turn()
        try:
            return super().executemany(query, param_list)
        finally:
            if taken:
                self._wrapper.end_turn()


class DatabaseWrapper(base.DatabaseWrapper):
    """A connection that takes its turn among the writers of this process.

    Each super() below is Django's own; the stubs know only what is public.
    """

    _has_turn = False

    def create_cursor(self, name: str | None = None) -> Any:
        return self.connection.cursor(factory=lambda connection: Cursor(connection, self))

    def writes_alone(self, query: str) -> bool:
        """Whether this statement is a write and a transaction of its own."""
        return (
            not self.in_atomic_block
            and not self._has_turn
            and query.lstrip()[:_LONGEST_WORD].upper().startswith(_WRITES)
        )

    def take_turn(self) -> bool:
        """Waits for this process's other writers; False for one that has waited too long, and goes on regardless."""
        self._has_turn = _locks[str(self.settings_dict["NAME"])].acquire(timeout=_PATIENCE_S)
        return self._has_turn

    def end_turn(self) -> None:
        """Lets the next writer go on; without a turn it does nothing."""
        if self._has_turn:
            self._has_turn = False
            _locks[str(self.settings_dict["NAME"])].release()

    def _start_transaction_under_autocommit(self) -> None:
        self.take_turn()
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]
        except BaseException:
            self.end_turn()
            raise

    def _commit(self) -> None:
        # One that fails is rolled back by whoever began it, and ends its turn there.
        super()._commit()  # type: ignore[misc]
        self.end_turn()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self.end_turn()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self.end_turn()
