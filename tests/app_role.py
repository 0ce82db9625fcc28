"""On PostgreSQL the tests work as the app does: as a role that owns no table (portal/database_rights.py).

So a right that the code needs and the role lacks is found by whichever test needs it. Programs that a test starts, and
what looks after the test database itself, work as its owner.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created
from django.test import override_settings
from psycopg import sql

from portal import database_rights


@contextmanager
def at_work() -> Iterator[None]:
    """Meanwhile every connection of this process to the test database is the app's."""
    # On a PostgreSQL that is somebody's, not ours (tests/throwaway.py), no role is made.
    if connection.vendor != "postgresql" or "TEST_DATABASE_TEMPLATE" not in os.environ:
        yield
        return
    name = connection.settings_dict["NAME"]
    role = f"at_work_in_{name}"
    with override_settings(DATABASE_APP_ROLE=role, DATABASE_APP_PASSWORD="made-up"):
        database_rights.give_to_app(connection)

    def become_app(connection: BaseDatabaseWrapper, **_: Any) -> None:
        if connection.settings_dict["NAME"] == name and connection.settings_dict["USER"] == owner:
            become(connection, role)

    owner = connection.settings_dict["USER"]
    connection_created.connect(become_app)
    become(connection, role)
    try:
        yield
    finally:
        connection_created.disconnect(become_app)


@contextmanager
def as_owner() -> Iterator[None]:
    """Meanwhile this thread's connection is the owner's, who may do everything."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        (role,) = cursor.fetchone()
    become(connection, connection.settings_dict["USER"])
    try:
        yield
    finally:
        become(connection, role)


def become(connection: BaseDatabaseWrapper, role: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
