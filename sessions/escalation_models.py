"""The rows of the ladder: who is asked to take a rescue, step by step. Only escalation.py writes them."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models import Q
from django.utils import timezone

from machines.models import User
from sessions.models import SupportSession


class Rung(models.TextChoices):
    """Whom the ladder asks; `done`: nobody is left to ask."""

    OPERATORS = "operators", "Operators"
    SUPERVISORS = "supervisors", "Supervisors"
    LAST_RESORT = "last_resort", "Last resort"
    DONE = "done", "Done"


class Escalation(models.Model):
    """How far the search for somebody has come for one rescue; made with the rescue, in the press's transaction.

    The worker compares it with the rescue: one that waits has a running round, for one that is taken or over nothing
    is asked any more (`settled_as`). A round belongs to one wait; a release or an expired claim begins the next.
    """

    session = models.OneToOneField(
        SupportSession, on_delete=models.CASCADE, related_name="escalation", primary_key=True
    )
    turn = models.PositiveIntegerField(default=0, help_text="Grows with every change; of two workers one has it.")
    round = models.PositiveIntegerField(default=1)
    # The wait that this round belongs to, by the only column of the session that each new wait changes.
    answer_due_at = models.DateTimeField(help_text="The session's when this round began.")
    rung = models.CharField(
        max_length=16, choices=Rung, default=Rung.OPERATORS, help_text="Who is asked at the next step."
    )
    next_at = models.DateTimeField(null=True, blank=True, help_text="When the next step is due; empty: never.")
    began_at = models.DateTimeField(default=timezone.now, help_text="When this round began.")
    stepped_at = models.DateTimeField(null=True, blank=True, help_text="When somebody was asked last.")

    duty_at = models.DateTimeField(null=True, blank=True, help_text="When telemetry was asked, for this round.")
    duty: Any = models.JSONField(default=list, blank=True, help_text="Whom telemetry named, in order, and why.")
    source = models.CharField(max_length=100, blank=True, help_text="Whose answer that is.")
    stood_in = models.CharField(max_length=300, blank=True, help_text="Why another answer stood in.")
    next_duty_at = models.DateTimeField(null=True, blank=True, help_text="From when somebody will be on duty.")
    nobody_at = models.DateTimeField(null=True, blank=True, help_text="When there was nobody at all to ask.")

    settled_as = models.CharField(
        max_length=8, blank=True, default="", db_index=True, choices=[("taken", "Taken"), ("over", "Over")]
    )
    settled_at = models.DateTimeField(
        null=True, blank=True, help_text="When what was asked was taken back, since somebody had it or it was over."
    )
    missed_at = models.DateTimeField(null=True, blank=True, help_text="When it ended without anybody having come.")
    missed_looked_at = models.DateTimeField(null=True, blank=True)
    missed_looked_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        db_table = "support_escalation"
        ordering = ["-began_at"]
        indexes = [
            models.Index(
                fields=["missed_at"],
                condition=Q(missed_at__isnull=False, missed_looked_at=None),
                name="missed_not_looked_at",
            )
        ]
        constraints = [
            models.CheckConstraint(
                condition=Q(rung__in=["operators", "supervisors", "last_resort", "done"]), name="escalation_rung_known"
            ),
            models.CheckConstraint(
                condition=Q(missed_looked_at=None, missed_looked_by=None)
                | Q(missed_at__isnull=False, missed_looked_at__isnull=False, missed_looked_by__isnull=False),
                name="escalation_looked_at_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"Round {self.round}, {self.get_rung_display().lower()}"


class Asked(models.Model):
    """One person, or the address of last resort, that was asked in a round; nobody is asked twice in one."""

    session = models.ForeignKey(SupportSession, on_delete=models.CASCADE, related_name="asked")
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    address = models.CharField(max_length=300, blank=True, help_text="Of the last resort, which is no user.")
    round = models.PositiveIntegerField()
    rung = models.CharField(max_length=16, choices=Rung)
    why = models.CharField(max_length=200, blank=True)
    is_reachable = models.BooleanField(default=True, help_text="Whether a message could be sent at all.")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "support_asked"
        ordering = ["at", "id"]
        verbose_name_plural = "asked"
        constraints = [
            models.UniqueConstraint(fields=["session", "user", "round"], name="nobody_asked_twice_in_a_round"),
            # One address each for e-mail and phone.
            models.UniqueConstraint(
                fields=["session", "address", "round"], condition=Q(user=None), name="no_address_asked_twice_in_a_round"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user or self.address}, {self.at:%Y-%m-%d %H:%M:%S}"
