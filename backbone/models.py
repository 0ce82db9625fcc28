"""What the worker last read of the accelerator, and what people wish to be turned there."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from backbone import words

# A wish that nobody carried out must not come true hours later, when nobody thinks of it any more.
WISH_LASTS = timedelta(minutes=10)


class AcceleratorReading(models.Model):
    """The last look at the accelerator of that name; only the worker writes it, a guarded UPDATE a look."""

    name = models.CharField(max_length=64, unique=True)
    # The next look is from then on; whoever moves it on is the one who looks.
    due_at = models.DateTimeField(default=timezone.now)
    read_at = models.DateTimeField(null=True, blank=True, help_text="When AWS last answered; `found` is from then.")
    # accelerator.Accelerator.as_json(); None: never read, or AWS has none of that name.
    found: Any = models.JSONField(null=True, blank=True)
    trouble = models.TextField(blank=True, help_text="What the last look came to, where it came to nothing.")
    trouble_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = verbose_name_plural = "Global Accelerator"

    def __str__(self) -> str:
        return self.name


class DialWish(models.Model):
    """That an endpoint group's traffic dial, or an endpoint's weight, is turned; and what became of it.

    One may be open a group: a weight is set by replacing the group's whole list of endpoints.
    """

    accelerator = models.CharField(max_length=64)
    group_arn = models.CharField("endpoint group", max_length=255)
    region = models.CharField(max_length=32)
    listener = models.CharField(max_length=80, help_text="As in UDP 1194.")
    endpoint_id = models.CharField("endpoint", max_length=255, blank=True, help_text="Empty: the group's dial.")
    # What the page showed: where AWS has another by then, nothing is turned.
    from_value = models.FloatField("from")
    to_value = models.FloatField("to")
    reason = models.CharField(max_length=200)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    requested_at = models.DateTimeField(default=timezone.now)
    # Whoever moves it on is the one who tries: a lease and a pause in one.
    next_try_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveIntegerField(default=0)
    done_at = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    outcome = models.TextField(blank=True, help_text="In words; of an open wish: why it was not carried out yet.")

    class Meta:
        ordering = ["-requested_at", "-pk"]
        verbose_name = "turned dial"
        verbose_name_plural = "turned dials and weights"
        constraints = [
            models.UniqueConstraint(
                fields=["group_arn"], condition=Q(done_at=None, failed_at=None), name="one_open_wish_a_group"
            ),
            models.CheckConstraint(condition=Q(done_at=None) | Q(failed_at=None), name="wish_is_done_or_failed"),
        ]

    def __str__(self) -> str:
        of = f"{words.endpoint_name(self.endpoint_id)}, " if self.endpoint_id else ""
        what = f"{self.what} of {of}{self.listener} in {self.region}"
        return f"{what[0].upper()}{what[1:]}: {self.shown_from} → {self.shown_to}"

    @property
    def what(self) -> str:
        return "weight" if self.endpoint_id else "traffic dial"

    @property
    def shown_from(self) -> str:
        return self._shown(self.from_value)

    @property
    def shown_to(self) -> str:
        return self._shown(self.to_value)

    @property
    def is_open(self) -> bool:
        return self.done_at is None and self.failed_at is None

    def _shown(self, value: float) -> str:
        return words.shown(value, is_weight=bool(self.endpoint_id))
