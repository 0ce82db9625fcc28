"""How the database is emptied after a transactional test: only what has rows, and the append-only tables as well.

Django's flush empties every table and then writes all content types and permissions anew, which takes longer than most
of the tests before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest.mock import patch

from django.core.management.color import no_style
from django.db import connection, transaction
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.test import TransactionTestCase

from tests.app_role import as_owner

# What migrations and their signals wrote; no test does.
_KEPT = ("django_content_type", "auth_permission")
_OF_DJANGO_ITSELF = ("django_migrations",)


@contextmanager
def quickly() -> Iterator[None]:
    """Meanwhile transactional tests are followed by this emptying, where the database is as its migrations left it.

    On a PostgreSQL that is somebody's, not ours (tests/throwaway.py), Django's own stays: ours needs its superuser.
    """
    if connection.vendor == "postgresql" and "TEST_DATABASE_TEMPLATE" not in os.environ:
        yield
        return
    flush = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]
    kept = _state_of_kept()

    def teardown(self: Any) -> None:
        with as_owner():
            empty(self)

    def empty(self: Any) -> None:
        # A test of the migrations has other tables, or other permissions.
        if self.available_apps is None and not self.serialized_rollback and _state_of_kept() == kept:
            _empty()
        else:
            _tables_with_rows.cache_clear()
            flush(self)

    with patch.object(TransactionTestCase, "_fixture_teardown", teardown):
        yield


@contextmanager
def past_the_append_only_law() -> Iterator[None]:
    """On SQLite a flush is DELETE, which the triggers refuse: meanwhile it takes them off and puts them back."""
    operations = DatabaseWrapper.ops_class
    flush = operations.execute_sql_flush

    def without_triggers(self: Any, sql_list: Any) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE '%_no_delete'"
            )
            emptied = set(re.findall(r'"(\w+)"', " ".join(sql_list)))
            triggers = [
                (name, sql) for name, table, sql in cursor.fetchall() if table in emptied and re.fullmatch(r"\w+", name)
            ]
            for name, _ in triggers:
                cursor.execute(f"DROP TRIGGER {name}")
        try:
            flush(self, sql_list)
        finally:
            with self.connection.cursor() as cursor:
                for _, sql in triggers:
                    cursor.execute(sql)

    with patch.object(operations, "execute_sql_flush", without_triggers):
        yield


def _empty() -> None:
    tables = _tables_with_rows()()
    if not tables:
        return
    if connection.vendor == "sqlite":
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables))
        return
    # TRUNCATE makes new files for each table and index, and for all that refer to them, which takes longer.
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")  # no trigger, no foreign key
        cursor.execute("; ".join(f'DELETE FROM "{table}"' for table in tables))


def _state_of_kept() -> list[tuple[Any, ...]]:
    query = " UNION ALL ".join(f"SELECT '{table}', COUNT(*), MAX(id) FROM {table}" for table in _KEPT)
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM django_migrations")
        migrations = cursor.fetchone()
        cursor.execute(query)
        return [migrations, *sorted(cursor.fetchall())]


@cache
def _tables_with_rows() -> Callable[[], list[str]]:
    """What tells the tables that have rows, but for those that keep theirs."""
    tables = sorted(set(connection.introspection.table_names()) - {*_KEPT, *_OF_DJANGO_ITSELF})
    query = " UNION ALL ".join(f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM \"{table}\")" for table in tables)

    def ask() -> list[str]:
        with connection.cursor() as cursor:
            cursor.execute(query)
            return [table for (table,) in cursor.fetchall()]

    return ask
