"""The app's own role in PostgreSQL: it works with rows, and can neither change tables nor what is append-only (T24)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper
from django.db.migrations.recorder import MigrationRecorder
from django.test.utils import CaptureQueriesContext
from psycopg import sql
from pytest_django.fixtures import Settings

from machines.append_only import make_append_only
from machines.models import SecurityEvent
from portal import database_rights, servers
from portal.doctor import here as doctor
from portal.environment import SettingError
from sessions.models import SupportSession
from tests.app_role import as_owner, become
from tests.sessions.rescues import press

PASSWORD = "made up for the tests"


@pytest.fixture
def role(settings: Settings, transactional_db: None) -> Iterator[str]:
    """The role of this process' own test database, made and given its rights as `migrate` does."""
    if connection.vendor != "postgresql":
        pytest.skip("SQLite knows no roles")
    settings.DATABASE_APP_ROLE = name = f"app_of_{connection.settings_dict['NAME']}"
    settings.DATABASE_APP_PASSWORD = PASSWORD
    with as_owner():
        database_rights.give_to_app(connection)
        yield name
        with connection.cursor() as cursor:
            for text in ("DROP OWNED BY {}", "DROP ROLE {}"):
                cursor.execute(sql.SQL(text).format(sql.Identifier(name)))


def _as_app(role: str, database: str = "") -> psycopg.Connection:
    """A connection of the role's own, as a process of the app has it."""
    known = connection.get_connection_params()
    return psycopg.connect(
        host=known.get("host"), port=known.get("port"), dbname=database or known["dbname"],
        user=role, password=PASSWORD, autocommit=True,
    )  # fmt: skip


def test_app_reads_and_writes_rows_and_adds_to_the_audit(role: str) -> None:
    session = press("A1")
    SecurityEvent.objects.create(kind="frozen")
    with closing(_as_app(role)) as app:
        assert app.execute("SELECT count(*) FROM support_session").fetchone() == (1,)
        app.execute("UPDATE support_session SET version = version + 1")
        app.execute(
            "INSERT INTO machines_securityevent (at, kind, address, detail) "
            "SELECT at, kind, address, detail FROM machines_securityevent WHERE kind = 'frozen'"
        )
        app.execute("DELETE FROM django_session")
    assert SupportSession.objects.get().version == session.version + 1
    assert SecurityEvent.objects.filter(kind="frozen").count() == 2


@pytest.mark.parametrize("table", ["machines_securityevent", "support_session_event", "support_press"])
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM {}",
        "UPDATE {} SET id = id",
        "TRUNCATE {}",
        "ALTER TABLE {} DISABLE TRIGGER USER",
        "DROP TRIGGER {}_append_only ON {}",
        "DROP TABLE {} CASCADE",
        "ALTER TABLE {} RENAME TO other",
    ],
)
def test_app_cannot_erase_what_is_append_only(role: str, table: str, statement: str) -> None:
    press("A1")
    with closing(_as_app(role)) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(statement.format(*[table] * statement.count("{}")))


@pytest.mark.parametrize(
    "statement",
    [
        "SET session_replication_role = replica",
        "CREATE TABLE other ()",
        "CREATE ROLE other",
        "DELETE FROM django_migrations",
        "INSERT INTO django_migrations (app, name, applied) VALUES ('x', 'y', now())",
        "CREATE OR REPLACE FUNCTION support_press_append_only() RETURNS trigger LANGUAGE sql AS 'SELECT NULL'",
        "SET ROLE {owner}",
    ],
)
def test_app_cannot_give_itself_more(role: str, statement: str) -> None:
    owner = connection.settings_dict["USER"]
    with closing(_as_app(role)) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute(statement.format(owner=owner))


def test_migrating_again_gives_rights_on_new_tables_and_sets_the_new_password(role: str, settings: Settings) -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE newcomer (id integer); CREATE TABLE later (id integer)")
        cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role])
        (before,) = cursor.fetchone()
    try:
        with closing(_as_app(role)) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT * FROM newcomer")
        settings.DATABASE_APP_PASSWORD = "another one"
        call_command("migrate", verbosity=0)
        with closing(_as_app(role)) as app:
            app.execute("INSERT INTO newcomer VALUES (1)")
        with connection.cursor() as cursor:
            cursor.execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", [role])
            (after,) = cursor.fetchone()
        assert before.startswith("SCRAM-SHA-256$") and after.startswith("SCRAM-SHA-256$") and before != after
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE newcomer, later")


def test_role_that_could_become_the_owner_is_refused_and_left_as_it_is(role: str) -> None:
    owner = sql.Identifier(connection.settings_dict["USER"])
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("GRANT {} TO {}").format(owner, sql.Identifier(role)))
    with pytest.raises(ImproperlyConfigured, match=f"found {role}, which may do what the owner of the tables may"):
        database_rights.give_to_app(connection)


def test_owner_of_the_tables_is_not_taken_for_the_app_whoever_migrates(role: str) -> None:
    names = {"role": sql.Identifier(role)}
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("CREATE TABLE owned (id integer); ALTER TABLE owned OWNER TO {role}").format(**names))
    try:
        with pytest.raises(ImproperlyConfigured, match="which may do what the owner of the tables may"):
            database_rights.give_to_app(connection)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE owned")


def test_schema_in_which_everybody_creates_is_refused_and_nothing_is_given(role: str) -> None:
    """So it was before PostgreSQL 15; an operator of the app's would run with the owner's rights one day."""
    with connection.cursor() as cursor:
        cursor.execute("GRANT CREATE ON SCHEMA public TO PUBLIC; CREATE TABLE newcomer (id integer)")
    try:
        with pytest.raises(ImproperlyConfigured, match="REVOKE CREATE ON SCHEMA public FROM PUBLIC"):
            database_rights.give_to_app(connection)
        with closing(_as_app(role)) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("SELECT * FROM newcomer")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC; DROP TABLE newcomer")


def test_owner_who_may_make_no_roles_is_told_what_is_missing(role: str, settings: Settings) -> None:
    settings.DATABASE_APP_ROLE = f"other_{role}"
    become(connection, role)
    try:
        with pytest.raises(ImproperlyConfigured, match="Give it CREATEROLE"):
            database_rights.give_to_app(connection)
    finally:
        become(connection, connection.settings_dict["USER"])


def test_what_a_stolen_process_set_for_its_role_is_gone_with_the_next_migration(role: str) -> None:
    with closing(_as_app(role)) as app:
        app.execute(sql.SQL("ALTER ROLE {} SET statement_timeout = 1").format(sql.Identifier(role)))
    database_rights.give_to_app(connection)
    with closing(_as_app(role)) as app:
        assert app.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_owner_of_the_tables_need_not_be_a_superuser(role: str, settings: Settings) -> None:
    """As at RDS: it may make roles, and has the database."""
    role = f"other_{role}"  # which nobody has made yet
    owner, database = f"owner_of_{connection.settings_dict['NAME']}", f"{connection.settings_dict['NAME']}_owned"
    names = {"owner": sql.Identifier(owner), "database": sql.Identifier(database), "role": sql.Identifier(role)}
    statements = {
        "begin": ["CREATE ROLE {owner} LOGIN CREATEROLE", "CREATE DATABASE {database} OWNER {owner}"],
        "end": ["DROP DATABASE IF EXISTS {database}", "DROP ROLE IF EXISTS {role}", "DROP ROLE {owner}"],
    }
    with connection.cursor() as cursor:
        for text in statements["begin"]:
            cursor.execute(sql.SQL(text).format(**names))
    owners = DatabaseWrapper({**connection.settings_dict, "USER": owner, "NAME": database})
    try:
        with owners.schema_editor() as editor:
            editor.execute("CREATE TABLE kept (id integer)")
            make_append_only(editor, "kept")
        MigrationRecorder(owners).ensure_schema()
        settings.DATABASE_APP_ROLE = role
        for _ in range(2):  # makes it, and finds it there
            database_rights.give_to_app(owners)
        with closing(_as_app(role, database)) as app:
            app.execute("INSERT INTO kept VALUES (1)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute("DELETE FROM kept")
    finally:
        owners.close()
        with connection.cursor() as cursor:
            for text in statements["end"]:
                cursor.execute(sql.SQL(text).format(**names))


def test_doctor_tells_who_could_erase_the_audit(role: str) -> None:
    words = "This app may change its tables, and so erase the audit."
    assert any(one.words.startswith(words) for one in doctor.database())
    become(connection, role)
    try:
        assert not any(one.words.startswith(words) for one in doctor.database())
    finally:
        become(connection, connection.settings_dict["USER"])


@pytest.mark.django_db
def test_without_a_role_nothing_is_asked_of_the_database(settings: Settings) -> None:
    settings.DATABASE_APP_ROLE = ""
    with CaptureQueriesContext(connection) as asked:
        database_rights.give_to_app(connection)
    assert asked.captured_queries == []


@pytest.mark.parametrize(
    ("url", "role", "password", "message"),
    [
        ("postgresql://owner@db/x", "app", "", "DATABASE_APP_PASSWORD is not set, but DATABASE_APP_ROLE is"),
        ("postgresql://owner@db/x", "", "canary", "DATABASE_APP_ROLE is not set, but DATABASE_APP_PASSWORD is"),
        ("postgresql://owner@db/x", "owner", "canary", "DATABASE_APP_ROLE: found the user of DATABASE_URL"),
        (
            "postgresql://owner@db/x",
            'App"; --',
            "canary",
            "DATABASE_APP_ROLE: found 'App\"; --', expected",
        ),
        ("postgresql://owner@db/x", "pg_app", "canary", "DATABASE_APP_ROLE: found 'pg_app', expected"),
        ("postgresql://owner@db/x", "public", "canary", "DATABASE_APP_ROLE: found 'public', expected"),
        ("sqlite:///x", "app", "canary", "DATABASE_APP_ROLE: found one beside SQLite"),
    ],
)
def test_role_that_cannot_be_made_stops_the_start_in_words(url: str, role: str, password: str, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        servers.check_app_role(url, role, password)
    assert message in str(caught.value) and "canary" not in str(caught.value)
