"""Triggers that make a table append-only: rows can be added, never changed or removed, by whatever code.

Used by migrations, on SQLite and PostgreSQL alike.
"""

from __future__ import annotations

from django.db.backends.base.schema import BaseDatabaseSchemaEditor

_SQLITE = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only: rows are never changed'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only: rows are never removed'); END;
"""

_POSTGRESQL = """
CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '{table} is append-only: rows are never changed or removed' USING ERRCODE = '23514'; END $$;
CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION {table}_append_only();
"""


def make_append_only(schema_editor: BaseDatabaseSchemaEditor, table: str) -> None:
    """Adds the triggers to `table`."""
    run_statements(schema_editor, sqlite=_SQLITE.format(table=table), postgresql=_POSTGRESQL.format(table=table))


def run_statements(schema_editor: BaseDatabaseSchemaEditor, *, sqlite: str, postgresql: str) -> None:
    """Runs the text for the database at hand; on SQLite one `CREATE TRIGGER … END;` at a time."""
    vendor = schema_editor.connection.vendor
    if vendor == "postgresql":
        schema_editor.execute(postgresql, params=None)  # None: a % in the text is no placeholder
    elif vendor == "sqlite":
        for statement in sqlite.split("END;"):
            if statement.strip():
                schema_editor.execute(statement + "END;", params=None)
    else:
        raise RuntimeError(f"Found database {vendor}, expected sqlite or postgresql")
