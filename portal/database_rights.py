"""What the app may do in PostgreSQL, when it works as another role than the owner of the tables.

The owner can take triggers off and drop tables. Who works as DATABASE_APP_ROLE reads and writes rows, cannot touch
those of append-only tables (T24), and changes no table. Migrations run as the owner and give these rights at their end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder
from django.db.transaction import atomic
from django.db.utils import ProgrammingError
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

# make_append_only names its triggers so (machines/append_only.py).
_APPEND_ONLY = """
SELECT tables.relname FROM pg_trigger triggers JOIN pg_class tables ON tables.oid = triggers.tgrelid
WHERE triggers.tgname = tables.relname || '_append_only' AND tables.relnamespace = current_schema()::regnamespace
"""
# Who is more than one that works with rows: may become whoever owns a table, or passes over every right.
_MIGHTY = """
SELECT rolsuper OR rolcreaterole OR pg_has_role(oid, current_user, 'MEMBER') OR EXISTS (
    SELECT FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
    AND pg_has_role(pg_roles.oid, relowner, 'MEMBER')
) FROM pg_roles WHERE rolname = %s
"""
_MAY_CHANGE_TABLES = """
SELECT has_schema_privilege(current_schema(), 'CREATE') OR EXISTS (
    SELECT FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
    AND pg_has_role(current_user, relowner, 'MEMBER')
)
"""


def give_to_app(connection: BaseDatabaseWrapper) -> None:
    """Makes DATABASE_APP_ROLE with its password where it is not there, and gives it its rights; all or nothing.

    Without that setting, and on SQLite, nothing is done. Again only sets the password. Raises ImproperlyConfigured for
    a role that could do more whatever is granted, and where the connection's user may make no roles; django.db.Error
    for what else the database refuses.
    """
    role = settings.DATABASE_APP_ROLE
    if not role or connection.vendor != "postgresql":
        return
    with atomic(using=connection.alias), connection.cursor() as cursor:
        # Two that do so at once would both make the role, or fail at each other's grants.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('portafilter database rights'))")
        _make(cursor, role, _scrambled(connection, role))
        for statement in _statements(cursor, role):
            cursor.execute(statement)
        _see_that_it_makes_nothing(cursor, role)


def may_change_tables(connection: BaseDatabaseWrapper) -> bool:
    """Whether who is connected could change tables or make some, rather than work with rows alone."""
    if connection.vendor != "postgresql":
        return True
    with connection.cursor() as cursor:
        cursor.execute(_MAY_CHANGE_TABLES)
        return bool(cursor.fetchone()[0])


def _make(cursor: Any, role: str, scrambled: str) -> None:
    cursor.execute(_MIGHTY, [role])
    there = cursor.fetchone()
    if there and there[0]:
        raise ImproperlyConfigured(
            f"DATABASE_APP_ROLE: found {role}, which may do what the owner of the tables may, expected a role without "
            "such rights. Name another one; it is made when there is none."
        )
    verb = "ALTER" if there else "CREATE"
    statement = sql.SQL(verb + " ROLE {role} LOGIN PASSWORD {password}")
    try:
        cursor.execute(statement.format(role=sql.Identifier(role), password=sql.Literal(scrambled)))
        # What a stolen process may have set for itself.
        cursor.execute(sql.SQL("ALTER ROLE {} RESET ALL").format(sql.Identifier(role)))
    except ProgrammingError as error:
        if not isinstance(error.__cause__, InsufficientPrivilege):
            raise
        raise ImproperlyConfigured(
            f"DATABASE_APP_ROLE: the user of DATABASE_URL may not make or change {role}. Give it CREATEROLE; and where "
            f"somebody else made {role}, from PostgreSQL 16 on GRANT {role} TO it WITH ADMIN OPTION."
        ) from error


def _see_that_it_makes_nothing(cursor: Any, role: str) -> None:
    """An operator or function of its own, in the schema where all look things up, would be run by the owner one day."""
    cursor.execute("SELECT current_schema(), has_schema_privilege(%s, current_schema(), 'CREATE')", [role])
    schema, may_create = cursor.fetchone()
    if may_create:
        raise ImproperlyConfigured(
            f"DATABASE_APP_ROLE: everybody may create things in the schema {schema}, as usual before PostgreSQL 15, "
            f"{role} too. As the schema's owner: REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC. Then migrate again."
        )


def _scrambled(connection: BaseDatabaseWrapper, role: str) -> str:
    """The password as PostgreSQL keeps it, worked out here: the server's log may show statements."""
    connection.ensure_connection()
    password = settings.DATABASE_APP_PASSWORD.encode()
    found: bytes = connection.connection.pgconn.encrypt_password(password, role.encode(), b"scram-sha-256")
    return found.decode()


def _statements(cursor: Any, role: str) -> Iterator[sql.Composed]:
    cursor.execute("SELECT current_database(), current_schema()")
    database, schema = cursor.fetchone()
    cursor.execute(_APPEND_ONLY)
    append_only = [row[0] for row in cursor.fetchall()]
    history = MigrationRecorder.Migration._meta.db_table
    names = {
        name: sql.Identifier(value) for name, value in (("role", role), ("database", database), ("schema", schema))
    }
    for text, table in [
        ("GRANT CONNECT ON DATABASE {database} TO {role}", ""),
        ("GRANT USAGE ON SCHEMA {schema} TO {role}", ""),
        ("REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {role}", ""),
        ("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}", ""),
        ("GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {role}", ""),
        *(("REVOKE UPDATE, DELETE ON {schema}.{table} FROM {role}", table) for table in append_only),
        ("REVOKE INSERT, UPDATE, DELETE ON {schema}.{table} FROM {role}", history),
    ]:
        yield sql.SQL(text).format(**names, table=sql.Identifier(table))
