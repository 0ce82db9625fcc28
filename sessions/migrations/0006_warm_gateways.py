"""Gateways without a session: they are kept ready for the next press. One that had a session is nobody else's ever."""

import django.db.models.deletion
from django.db import migrations, models
from django.db.models import OuterRef, Subquery

from machines.append_only import run_statements

_SQLITE = """
CREATE TRIGGER support_gateway_is_claimed_once BEFORE UPDATE OF session_id ON support_gateway
WHEN NEW.session_id IS NOT OLD.session_id AND (OLD.session_id IS NOT NULL OR OLD.state <> 'ready')
BEGIN SELECT RAISE(ABORT, 'a gateway is claimed once, when it is ready'); END;
"""

_POSTGRESQL = """
CREATE FUNCTION support_gateway_is_claimed_once() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.session_id IS DISTINCT FROM OLD.session_id AND (OLD.session_id IS NOT NULL OR OLD.state <> 'ready') THEN
    RAISE EXCEPTION 'a gateway is claimed once, when it is ready' USING ERRCODE = '23514';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER support_gateway_is_claimed_once BEFORE UPDATE ON support_gateway
FOR EACH ROW EXECUTE FUNCTION support_gateway_is_claimed_once();
"""


def begin_the_law(apps, schema_editor):
    run_statements(schema_editor, sqlite=_SQLITE, postgresql=_POSTGRESQL)


def restore_on_sqlite(apps, schema_editor):
    """For later migrations that change support_gateway: SQLite makes the table anew, without its triggers."""
    if schema_editor.connection.vendor == "sqlite":
        run_statements(
            schema_editor, sqlite=_SQLITE.replace("CREATE TRIGGER", "CREATE TRIGGER IF NOT EXISTS"), postgresql=""
        )


def say_whose(apps, schema_editor):
    """Those that were there are their sessions' fleets'."""
    database = schema_editor.connection.alias
    session = apps.get_model("support", "SupportSession").objects.using(database).filter(pk=OuterRef("session_id"))
    apps.get_model("support", "Gateway").objects.using(database).filter(fleet=None).update(
        fleet_id=Subquery(session.values("fleet_id")[:1])
    )


class Migration(migrations.Migration):
    dependencies = [
        ("machines", "0009_warm_gateways"),
        ("support", "0005_escalation"),
    ]

    operations = [
        migrations.CreateModel(
            name="Pool",
            fields=[
                (
                    "fleet",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="gateway_pool",
                        serialize=False,
                        to="machines.fleet",
                    ),
                ),
                ("size", models.PositiveSmallIntegerField(default=0, help_text="So many are to be ready.")),
                ("reason", models.CharField(blank=True, help_text="Why so many.", max_length=300)),
                ("sized_at", models.DateTimeField(blank=True, help_text="When the presses were counted.", null=True)),
                (
                    "short_since",
                    models.DateTimeField(blank=True, help_text="Since when fewer are ready than wanted.", null=True),
                ),
            ],
            options={
                "verbose_name": "warm gateways",
                "verbose_name_plural": "warm gateways",
                "db_table": "support_pool",
                "ordering": ["fleet"],
            },
        ),
        migrations.AddField(
            model_name="gateway",
            name="born_warm",
            field=models.BooleanField(
                default=False, help_text="Started before anybody needed it.", verbose_name="kept ready"
            ),
        ),
        migrations.AddField(
            model_name="gateway",
            name="claimed_at",
            field=models.DateTimeField(
                blank=True, help_text="When a session took it from those kept ready.", null=True
            ),
        ),
        migrations.AddField(
            model_name="gateway",
            name="fleet",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="gateways",
                to="machines.fleet",
            ),
        ),
        migrations.AlterField(
            model_name="gateway",
            name="session",
            field=models.ForeignKey(
                blank=True,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="gateways",
                to="support.supportsession",
            ),
        ),
        migrations.AddIndex(
            model_name="gateway",
            index=models.Index(fields=["born_warm", "driver", "wanted_at"], name="gateway_newest_of_a_kind"),
        ),
        migrations.RunPython(begin_the_law),
        migrations.RunPython(say_whose),
    ]
