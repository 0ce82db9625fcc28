"""One more reason for an end: the machine was switched off for remote help, or moved to another fleet."""

from importlib import import_module

from django.db import migrations, models

_REASONS = [
    "resolved", "not_resolved", "cancelled", "unanswered", "machine_unreachable", "credentials_refused",
    "gateway_failed", "forced", "machine_withdrawn",
]  # fmt: skip
_law = import_module("sessions.migrations.0002_law")


class Migration(migrations.Migration):
    dependencies = [("support", "0002_law")]
    operations = [
        migrations.RemoveConstraint(model_name="supportsession", name="session_end_reason_known"),
        migrations.AlterField(
            model_name="supportsession",
            name="end_reason",
            field=models.CharField(
                blank=True,
                choices=[(reason, reason.replace("_", " ").capitalize()) for reason in _REASONS],
                max_length=32,
                null=True,
            ),
        ),
        migrations.AddConstraint(
            model_name="supportsession",
            constraint=models.CheckConstraint(
                condition=models.Q(("end_reason", None), ("end_reason__in", _REASONS), _connector="OR"),
                name="session_end_reason_known",
            ),
        ),
        migrations.RunPython(_law.restore_on_sqlite),
    ]
