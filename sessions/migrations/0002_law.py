"""The law of states in the database itself: a session begins as requested, moves only as TRANSITIONS says, and its trail only grows.

The pairs are written out: a migration stands for its moment. tests/sessions/test_state_machine.py compares them with states.py.
"""

from django.db import migrations

from machines.append_only import make_append_only, run_statements

MOVES = [
    ("requested", "starting"),
    ("requested", "closing"),
    ("starting", "ready"),
    ("starting", "closing"),
    ("ready", "active"),
    ("ready", "starting"),
    ("ready", "closing"),
    ("active", "ready"),
    ("active", "starting"),
    ("active", "closing"),
    ("closing", "closed"),
]
_ALLOWED = ", ".join(f"'{old}>{new}'" for old, new in MOVES)

_SQLITE = f"""
CREATE TRIGGER support_session_begins BEFORE INSERT ON support_session WHEN NEW.state <> 'requested'
BEGIN SELECT RAISE(ABORT, 'a support session begins as requested'); END;
CREATE TRIGGER support_session_moves BEFORE UPDATE OF state ON support_session
WHEN NEW.state <> OLD.state AND (OLD.state || '>' || NEW.state) NOT IN ({_ALLOWED})
BEGIN SELECT RAISE(ABORT, 'a support session cannot make this move'); END;
"""

_POSTGRESQL = f"""
CREATE FUNCTION support_session_law() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NEW.state <> 'requested' THEN
      RAISE EXCEPTION 'a support session begins as requested, not as %', NEW.state USING ERRCODE = '23514';
    END IF;
  ELSIF NEW.state <> OLD.state AND (OLD.state || '>' || NEW.state) NOT IN ({_ALLOWED}) THEN
    RAISE EXCEPTION 'a support session cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER support_session_law BEFORE INSERT OR UPDATE ON support_session
FOR EACH ROW EXECUTE FUNCTION support_session_law();
"""


def forwards(apps, schema_editor):
    run_statements(schema_editor, sqlite=_SQLITE, postgresql=_POSTGRESQL)
    make_append_only(schema_editor, "support_session_event")


def restore_on_sqlite(apps, schema_editor):
    """For later migrations that change support_session: SQLite makes the table anew, without its triggers."""
    if schema_editor.connection.vendor == "sqlite":
        run_statements(
            schema_editor, sqlite=_SQLITE.replace("CREATE TRIGGER", "CREATE TRIGGER IF NOT EXISTS"), postgresql=""
        )


class Migration(migrations.Migration):
    dependencies = [("support", "0001_initial"), ("machines", "0002_append_only")]
    operations = [migrations.RunPython(forwards)]
