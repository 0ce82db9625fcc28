"""How many gateways a fleet is to have ready, and why: one row a fleet, so that all workers go by the same number."""

from __future__ import annotations

from django.db import models

from machines.models import Fleet


class Pool(models.Model):
    """What the last look at a fleet's warm gateways found; the gateways themselves are rows of Gateway."""

    fleet = models.OneToOneField(Fleet, primary_key=True, on_delete=models.CASCADE, related_name="gateway_pool")
    wished = models.PositiveSmallIntegerField(default=0, db_default=0, help_text="So many it would have alone.")
    presses = models.PositiveIntegerField(
        default=0, db_default=0, help_text="So often help was pressed in the last weeks."
    )
    size = models.PositiveSmallIntegerField(default=0, help_text="So many are to be ready.")
    reason = models.CharField(max_length=300, blank=True, help_text="Why so many.")
    sized_at = models.DateTimeField(null=True, blank=True, help_text="When the presses were counted.")
    short_since = models.DateTimeField(null=True, blank=True, help_text="Since when fewer are ready than wanted.")

    class Meta:
        db_table = "support_pool"
        ordering = ["fleet"]
        verbose_name = "warm gateways"
        verbose_name_plural = "warm gateways"

    def __str__(self) -> str:
        return f"{self.size} for {self.fleet}"
