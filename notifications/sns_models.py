"""The rows of the way through SNS: what was announced there, what came back, and what SNS is known by.

Nothing here says who is told what: that is the outbox's. Without any of these rows the outbox sends all the same,
SNS_GRACE_S later.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q
from django.utils import timezone

from machines.encryption import EncryptedTextField


class SnsAnnouncement(models.Model):
    """The wish that SNS hears of messages in the outbox, and calls the hook that makes them due.

    It is tried once: where SNS does not take it, the messages are due at once without it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    key = models.CharField(max_length=200, unique=True, editable=False, help_text="What its messages' keys begin with.")
    subject = models.UUIDField(editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    attempt = models.UUIDField(null=True, editable=False, help_text="One call of SNS; several may share it.")
    taken_at = models.DateTimeField(null=True, editable=False)
    published_at = models.DateTimeField(null=True, editable=False)
    message_id = models.CharField(max_length=100, blank=True, editable=False)
    heard_at = models.DateTimeField(null=True, editable=False, help_text="When SNS first called the hook with it.")
    problem = models.CharField(max_length=300, blank=True, editable=False)

    class Meta:
        verbose_name = "SNS announcement"
        ordering = ["-created_at", "-id"]
        indexes = [
            models.Index(fields=["created_at"], condition=Q(taken_at=None), name="sns_announcements_waiting"),
            models.Index(fields=["attempt"], condition=Q(taken_at__isnull=False), name="sns_announcements_taken"),
        ]

    def __str__(self) -> str:
        return self.key


class SnsCertificate(models.Model):
    """A certificate that SNS signs by, known by its address; fetched by the worker, never in a request."""

    url = models.CharField("address", max_length=300, unique=True, editable=False)
    pem = models.TextField(blank=True, editable=False)
    not_before = models.DateTimeField(null=True, editable=False)
    not_after = models.DateTimeField(null=True, editable=False)
    noted_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)
    fetched_at = models.DateTimeField(null=True, editable=False)
    tries = models.PositiveIntegerField(default=0, editable=False)
    next_try_at = models.DateTimeField(
        null=True, default=timezone.now, editable=False, help_text="Empty: it is here, or was given up."
    )
    problem = models.CharField(max_length=300, blank=True, editable=False)

    class Meta:
        verbose_name = "SNS certificate"
        ordering = ["-noted_at", "-id"]

    def __str__(self) -> str:
        return self.url.rpartition("/")[2]


class SnsConfirmation(models.Model):
    """SNS asked whether the hook is to be subscribed, or told that it no longer is; known by a good signature."""

    class Kind(models.TextChoices):
        SUBSCRIBE = "subscribe", "Subscribe"
        UNSUBSCRIBE = "unsubscribe", "Unsubscribed"

    kind = models.CharField(max_length=16, choices=Kind, editable=False)
    topic = models.CharField(max_length=300, editable=False)
    message_id = models.CharField(max_length=100, unique=True, editable=False)
    # What confirms the subscription; erased as soon as that is done or given up. Never kept for an end.
    token = EncryptedTextField(null=True, editable=False)
    asked_at = models.DateTimeField(default=timezone.now, editable=False)
    tries = models.PositiveIntegerField(default=0, editable=False)
    next_try_at = models.DateTimeField(null=True, editable=False, help_text="Empty: nothing is to be done.")
    confirmed_at = models.DateTimeField(null=True, editable=False)
    subscription = models.CharField(max_length=400, blank=True, editable=False)
    problem = models.CharField(max_length=300, blank=True, editable=False)

    class Meta:
        verbose_name = "SNS confirmation"
        ordering = ["-asked_at", "-id"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.asked_at:%Y-%m-%d %H:%M:%S}"


class SnsMessage(models.Model):
    """A message that SNS delivered, by its id: what comes again within two days counts once."""

    message_id = models.CharField(max_length=100, unique=True, editable=False)
    heard_at = models.DateTimeField(default=timezone.now, editable=False, db_index=True)

    class Meta:
        verbose_name = "SNS message"
        ordering = ["-heard_at", "-id"]

    def __str__(self) -> str:
        return self.message_id
