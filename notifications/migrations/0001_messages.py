"""The outbox of messages to people, and the browsers that may be told."""

import uuid

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("machines", "0007_rota"),
        ("webpush", "0005_auto_20230614_1529"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name="PushDevice",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("endpoint_sha256", models.CharField(editable=False, max_length=64, unique=True)),
                ("name", models.CharField(help_text="What its owner calls it, as in: my phone.", max_length=60)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "last_sent_at",
                    models.DateTimeField(
                        editable=False, help_text="When its push service last took a message; to the minute.", null=True
                    ),
                ),
                ("last_problem", models.CharField(blank=True, editable=False, max_length=200)),
                ("failures", models.PositiveIntegerField(default=0, editable=False, help_text="Refusals in a row.")),
                (
                    "disabled_at",
                    models.DateTimeField(editable=False, help_text="Since when nothing is sent to it.", null=True),
                ),
                (
                    "subscription",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="device",
                        to="webpush.subscriptioninfo",
                    ),
                ),
                (
                    "user",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="push_devices",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
            options={
                "ordering": ["created_at", "id"],
            },
        ),
        migrations.CreateModel(
            name="Delivery",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("subject", models.UUIDField(db_index=True, help_text="The rescue that it is about.", null=True)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("asked", "Asked to help"),
                            ("taken", "Somebody has it"),
                            ("handed_over", "Handed over"),
                            ("over", "Over"),
                            ("missed", "Nobody came"),
                            ("last_resort", "Last resort"),
                            ("test", "Test"),
                        ],
                        max_length=16,
                    ),
                ),
                (
                    "address",
                    models.CharField(
                        blank=True, help_text="E-mail address or number of a last resort.", max_length=254
                    ),
                ),
                (
                    "channel",
                    models.CharField(
                        choices=[("web_push", "Web Push"), ("email", "E-mail"), ("sms", "SMS")], max_length=16
                    ),
                ),
                ("device_name", models.CharField(blank=True, max_length=60)),
                (
                    "key",
                    models.CharField(
                        help_text="Posted twice with one key, it is one message.", max_length=200, unique=True
                    ),
                ),
                ("title", models.CharField(max_length=200)),
                ("body", models.TextField(blank=True)),
                (
                    "is_silent",
                    models.BooleanField(default=False, help_text="Replaces what is on a screen, without a sound."),
                ),
                ("payload", models.JSONField(default=dict)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("pending", "Being sent"),
                            ("sent", "Sent"),
                            ("failed", "Failed"),
                            ("expired", "Out of time"),
                            ("withdrawn", "Withdrawn"),
                        ],
                        default="pending",
                        max_length=16,
                    ),
                ),
                (
                    "tries",
                    models.PositiveIntegerField(
                        default=0, help_text="How often sending began; it may have arrived each time."
                    ),
                ),
                ("next_try_at", models.DateTimeField()),
                ("expires_at", models.DateTimeField(help_text="It is of no use later.")),
                ("lease_owner", models.CharField(blank=True, max_length=100)),
                ("lease_until", models.DateTimeField(null=True)),
                ("outcome", models.CharField(blank=True, max_length=300)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("sent_at", models.DateTimeField(null=True)),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "fleet",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to="machines.fleet"
                    ),
                ),
                (
                    "recipient",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="deliveries",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "device",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="deliveries",
                        to="notifications.pushdevice",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "deliveries",
                "ordering": ["-created_at", "id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "pending")),
                        fields=["channel", "next_try_at"],
                        name="deliveries_pending",
                    ),
                    models.Index(fields=["fleet", "created_at"], name="deliveries_of_a_fleet"),
                ],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("ended_at", None), ("state", "pending")),
                            models.Q(models.Q(("state", "pending"), _negated=True), ("ended_at__isnull", False)),
                            _connector="OR",
                        ),
                        name="a_delivery_has_ended_or_is_pending",
                    )
                ],
            },
        ),
    ]
