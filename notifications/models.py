"""The rows of the messages: which browsers may be reached, and each message to one person over one channel."""

from __future__ import annotations

import uuid
from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from machines.models import Fleet, User

MAX_NAME_CHARS = 60


class PushDevice(models.Model):
    """A browser that its owner wants to be told in; the subscription itself is django-webpush's row.

    One endpoint has one row and one owner: two people at one browser are not both told.
    """

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="push_devices")
    subscription = models.OneToOneField("webpush.SubscriptionInfo", on_delete=models.CASCADE, related_name="device")
    endpoint_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    name = models.CharField(max_length=MAX_NAME_CHARS, help_text="What its owner calls it, as in: my phone.")
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    last_sent_at = models.DateTimeField(
        null=True, editable=False, help_text="When its push service last took a message; to the minute."
    )
    last_problem = models.CharField(max_length=200, blank=True, editable=False)
    failures = models.PositiveIntegerField(default=0, editable=False, help_text="Refusals in a row.")
    disabled_at = models.DateTimeField(null=True, editable=False, help_text="Since when nothing is sent to it.")

    class Meta:
        ordering = ["created_at", "id"]

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """One message to one person (or address) over one channel: the outbox's row, and the record of what became of it.

    It is committed with what caused it. `pending` is the only state that changes: to one of the others, once.
    """

    class Kind(models.TextChoices):
        ASKED = "asked", "Asked to help"
        TAKEN = "taken", "Somebody has it"
        HANDED_OVER = "handed_over", "Handed over"
        OVER = "over", "Over"
        MISSED = "missed", "Nobody came"
        LAST_RESORT = "last_resort", "Last resort"
        TEST = "test", "Test"

    class Channel(models.TextChoices):
        WEB_PUSH = "web_push", "Web Push"
        EMAIL = "email", "E-mail"
        SMS = "sms", "SMS"

    class State(models.TextChoices):
        PENDING = "pending", "Being sent"
        SENT = "sent", "Sent"
        FAILED = "failed", "Failed"
        EXPIRED = "expired", "Out of time"
        WITHDRAWN = "withdrawn", "Withdrawn"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    fleet = models.ForeignKey(Fleet, null=True, on_delete=models.PROTECT, related_name="+")
    subject = models.UUIDField(null=True, db_index=True, help_text="The rescue that it is about.")
    kind = models.CharField(max_length=16, choices=Kind)
    recipient = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="deliveries")
    address = models.CharField(max_length=254, blank=True, help_text="E-mail address or number of a last resort.")
    channel = models.CharField(max_length=16, choices=Channel)
    device = models.ForeignKey(PushDevice, null=True, on_delete=models.SET_NULL, related_name="deliveries")
    device_name = models.CharField(max_length=MAX_NAME_CHARS, blank=True)
    key = models.CharField(max_length=200, unique=True, help_text="Posted twice with one key, it is one message.")
    title = models.CharField(max_length=200)
    body = models.TextField(blank=True)
    is_silent = models.BooleanField(default=False, help_text="Replaces what is on a screen, without a sound.")
    # url, tag, actions, urgency: what a screen needs beside the words. Never a secret (T10).
    payload: Any = models.JSONField(default=dict)
    state = models.CharField(max_length=16, choices=State, default=State.PENDING)
    tries = models.PositiveIntegerField(default=0, help_text="How often sending began; it may have arrived each time.")
    next_try_at = models.DateTimeField()
    expires_at = models.DateTimeField(help_text="It is of no use later.")
    lease_owner = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True)
    outcome = models.CharField(max_length=300, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    sent_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"
        ordering = ["-created_at", "id"]
        indexes = [
            # What the sender looks for many times a second: a handful of rows, however many there have been.
            models.Index(fields=["channel", "next_try_at"], condition=Q(state="pending"), name="deliveries_pending"),
            models.Index(fields=["fleet", "created_at"], name="deliveries_of_a_fleet"),
            models.Index(fields=["ended_at"], condition=Q(ended_at__isnull=False), name="deliveries_ended"),
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(state="pending", ended_at=None) | (~Q(state="pending") & Q(ended_at__isnull=False)),
                name="a_delivery_has_ended_or_is_pending",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.title}"


# At the end, like the machines' rows of the VPN: one app, two subjects.
from notifications.sns_models import (  # noqa: E402
    SnsAnnouncement,
    SnsCertificate,
    SnsConfirmation,
    SnsMessage,
)

__all__ = ["Delivery", "PushDevice", "SnsAnnouncement", "SnsCertificate", "SnsConfirmation", "SnsMessage"]
