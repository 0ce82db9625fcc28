"""Every press keeps its key and its body's digest, not only the one that made a session; the rows only grow."""

from importlib import import_module

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

from machines.append_only import make_append_only

_law = import_module("sessions.migrations.0002_law")


def carry_over(apps, schema_editor):
    """The one press that each session knew: the one that made it."""
    database = schema_editor.connection.alias
    sessions = apps.get_model("support", "SupportSession").objects.using(database).order_by("requested_at")
    rows = sessions.values_list("pk", "machine_id", "idempotency_key", "request_digest", "requested_at")
    press = apps.get_model("support", "Press")
    press.objects.using(database).bulk_create(
        (
            press(session_id=session, machine_id=machine, idempotency_key=key, request_digest=digest, at=at)
            for session, machine, key, digest, at in rows.iterator()
        ),
        batch_size=500,
    )


def begin_the_law(apps, schema_editor):
    make_append_only(schema_editor, "support_press")
    _law.restore_on_sqlite(apps, schema_editor)


class Migration(migrations.Migration):
    dependencies = [("support", "0003_machine_withdrawn")]
    operations = [
        migrations.CreateModel(
            name="Press",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "idempotency_key",
                    models.CharField(help_text="The machine's name for this press.", max_length=128),
                ),
                (
                    "request_digest",
                    models.CharField(
                        help_text="HMAC of the request's body; tells a replay from a new one.", max_length=64
                    ),
                ),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "machine",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="presses", to="machines.machine"
                    ),
                ),
                (
                    "session",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="presses", to="support.supportsession"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "presses",
                "db_table": "support_press",
                "ordering": ["at", "id"],
                "constraints": [
                    models.UniqueConstraint(fields=("machine", "idempotency_key"), name="one_press_an_idempotency_key")
                ],
            },
        ),
        migrations.RunPython(carry_over),
        migrations.RemoveConstraint(model_name="supportsession", name="one_session_an_idempotency_key"),
        migrations.RemoveField(model_name="supportsession", name="idempotency_key"),
        migrations.RemoveField(model_name="supportsession", name="request_digest"),
        migrations.RunPython(begin_the_law),
    ]
