"""The ladder: who is asked for each rescue. Those that are open get theirs, and are asked for from the first pass on."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


def begin_for_open_sessions(apps, schema_editor):
    database = schema_editor.connection.alias
    sessions = apps.get_model("support", "SupportSession").objects.using(database)
    still_open = sessions.filter(state__in=["requested", "starting", "ready", "active"])
    escalation = apps.get_model("support", "Escalation")
    escalation.objects.using(database).bulk_create(
        (
            escalation(session_id=session, answer_due_at=answer_due_at, began_at=requested_at, next_at=requested_at)
            for session, answer_due_at, requested_at in still_open.values_list("pk", "answer_due_at", "requested_at")
        ),
        batch_size=500,
    )


class Migration(migrations.Migration):
    dependencies = [
        ("support", "0004_press"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="Asked",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "address",
                    models.CharField(blank=True, help_text="Of the last resort, which is no user.", max_length=300),
                ),
                ("round", models.PositiveIntegerField()),
                (
                    "rung",
                    models.CharField(
                        choices=[
                            ("operators", "Operators"),
                            ("supervisors", "Supervisors"),
                            ("last_resort", "Last resort"),
                            ("done", "Done"),
                        ],
                        max_length=16,
                    ),
                ),
                ("why", models.CharField(blank=True, max_length=200)),
                (
                    "is_reachable",
                    models.BooleanField(default=True, help_text="Whether a message could be sent at all."),
                ),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "session",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="asked", to="support.supportsession"
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "asked",
                "db_table": "support_asked",
                "ordering": ["at", "id"],
                "constraints": [
                    models.UniqueConstraint(fields=("session", "user", "round"), name="nobody_asked_twice_in_a_round"),
                    models.UniqueConstraint(
                        condition=models.Q(("user", None)),
                        fields=("session", "address", "round"),
                        name="no_address_asked_twice_in_a_round",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="Escalation",
            fields=[
                (
                    "session",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        primary_key=True,
                        related_name="escalation",
                        serialize=False,
                        to="support.supportsession",
                    ),
                ),
                (
                    "turn",
                    models.PositiveIntegerField(
                        default=0, help_text="Grows with every change; of two workers one has it."
                    ),
                ),
                ("round", models.PositiveIntegerField(default=1)),
                ("answer_due_at", models.DateTimeField(help_text="The session's when this round began.")),
                (
                    "rung",
                    models.CharField(
                        choices=[
                            ("operators", "Operators"),
                            ("supervisors", "Supervisors"),
                            ("last_resort", "Last resort"),
                            ("done", "Done"),
                        ],
                        default="operators",
                        help_text="Who is asked at the next step.",
                        max_length=16,
                    ),
                ),
                (
                    "next_at",
                    models.DateTimeField(blank=True, help_text="When the next step is due; empty: never.", null=True),
                ),
                (
                    "began_at",
                    models.DateTimeField(default=django.utils.timezone.now, help_text="When this round began."),
                ),
                ("stepped_at", models.DateTimeField(blank=True, help_text="When somebody was asked last.", null=True)),
                (
                    "duty_at",
                    models.DateTimeField(blank=True, help_text="When telemetry was asked, for this round.", null=True),
                ),
                (
                    "duty",
                    models.JSONField(blank=True, default=list, help_text="Whom telemetry named, in order, and why."),
                ),
                ("source", models.CharField(blank=True, help_text="Whose answer that is.", max_length=100)),
                ("stood_in", models.CharField(blank=True, help_text="Why another answer stood in.", max_length=300)),
                (
                    "next_duty_at",
                    models.DateTimeField(blank=True, help_text="From when somebody will be on duty.", null=True),
                ),
                (
                    "nobody_at",
                    models.DateTimeField(blank=True, help_text="When there was nobody at all to ask.", null=True),
                ),
                (
                    "settled_as",
                    models.CharField(
                        blank=True,
                        choices=[("taken", "Taken"), ("over", "Over")],
                        db_index=True,
                        default="",
                        max_length=8,
                    ),
                ),
                (
                    "settled_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="When what was asked was taken back, since somebody had it or it was over.",
                        null=True,
                    ),
                ),
                (
                    "missed_at",
                    models.DateTimeField(blank=True, help_text="When it ended without anybody having come.", null=True),
                ),
                ("missed_looked_at", models.DateTimeField(blank=True, null=True)),
                (
                    "missed_looked_by",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "db_table": "support_escalation",
                "ordering": ["-began_at"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("missed_at__isnull", False), ("missed_looked_at", None)),
                        fields=["missed_at"],
                        name="missed_not_looked_at",
                    )
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("rung__in", ["operators", "supervisors", "last_resort", "done"])),
                        name="escalation_rung_known",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("missed_looked_at", None), ("missed_looked_by", None)),
                            models.Q(
                                ("missed_at__isnull", False),
                                ("missed_looked_at__isnull", False),
                                ("missed_looked_by__isnull", False),
                            ),
                            _connector="OR",
                        ),
                        name="escalation_looked_at_by_somebody",
                    ),
                ],
            },
        ),
        migrations.RunPython(begin_for_open_sessions, migrations.RunPython.noop),
    ]
