"""The rota's rows: when a site is open, who is on duty where, when people work and when they are away.

Times are wall-clock times. What they mean in UTC, across midnight and daylight saving, is for machines.rota alone.
"""

from __future__ import annotations

import re
from datetime import time
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

phone_validator = RegexValidator(
    re.compile(r"\A\+[1-9][0-9]{6,14}\Z"), "A phone number is international, as in +390212345678: no blanks, no 00."
)
weekdays_validator = RegexValidator(
    re.compile(r"\A0?1?2?3?4?5?6?(?<=[0-6])\Z"),
    "Weekdays are the digits 0 (Monday) to 6 (Sunday), in order and each once.",
)


class Weekday(models.IntegerChoices):
    """As Python counts them."""

    MONDAY = 0
    TUESDAY = 1
    WEDNESDAY = 2
    THURSDAY = 3
    FRIDAY = 4
    SATURDAY = 5
    SUNDAY = 6


class WeekdaysFormField(forms.MultipleChoiceField):
    """Boxes to tick, for a text of digits."""

    widget = forms.CheckboxSelectMultiple

    def prepare_value(self, value: Any) -> Any:
        return list(value) if isinstance(value, str) else value

    def clean(self, value: Any) -> Any:
        return "".join(sorted(super().clean(value)))

    def has_changed(self, initial: Any, data: Any) -> bool:
        return super().has_changed(list(initial or ""), data)


class WeekdaysField(models.CharField):  # type: ignore[type-arg]
    """Some days of the week as digits: "01234" is Monday to Friday."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_length"] = 7
        super().__init__(*args, **kwargs)
        self.validators = [*self.default_validators, weekdays_validator]

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["max_length"]
        return name, path, args, kwargs

    def formfield(self, **kwargs: Any) -> Any:
        choices = [(str(day.value), day.label) for day in Weekday]
        return WeekdaysFormField(
            choices=choices,
            required=not self.blank,
            label=str(self.verbose_name).capitalize(),
            help_text=self.help_text,
        )


def hours_words(starts: time, ends: time) -> str:
    """Wall-clock times as people say them: 08:00–18:00, all day, 24 hours from 08:00."""
    if starts != ends:
        return f"{starts:%H:%M}–{ends:%H:%M}"
    return "all day" if starts == time(0) else f"24 hours from {starts:%H:%M}"


class OpeningHours(models.Model):
    """When a site is open, in its own time zone; a site with no rows is always open."""

    site = models.ForeignKey("machines.Site", on_delete=models.CASCADE, related_name="opening_hours")
    weekday = models.PositiveSmallIntegerField(choices=Weekday)
    opens = models.TimeField()
    closes = models.TimeField(help_text="At or before the opening: on the next day. 00:00 to 00:00: the whole day.")

    class Meta:
        verbose_name_plural = "opening hours"
        ordering = ["weekday", "opens"]
        constraints = [
            models.CheckConstraint(condition=Q(weekday__lte=6), name="opening_hours_weekday"),
            models.UniqueConstraint(fields=["site", "weekday", "opens"], name="one_opening_a_moment"),
        ]

    def __str__(self) -> str:
        return f"{Weekday(self.weekday).label} {hours_words(self.opens, self.closes)}"


class Closure(models.Model):
    """Days on which a site, or every site of a fleet, does not open. What opened the evening before closes as ever."""

    site = models.ForeignKey("machines.Site", null=True, blank=True, on_delete=models.CASCADE, related_name="closures")
    fleet = models.ForeignKey(
        "machines.Fleet", null=True, blank=True, on_delete=models.CASCADE, related_name="closures"
    )
    name = models.CharField(max_length=80)
    first_day = models.DateField()
    last_day = models.DateField()

    class Meta:
        ordering = ["first_day", "name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(site=None, fleet__isnull=False) | Q(site__isnull=False, fleet=None),
                name="closure_of_site_or_fleet",
                violation_error_message="A closure belongs to a site or to a fleet.",
            ),
            models.CheckConstraint(
                condition=Q(last_day__gte=F("first_day")),
                name="closure_has_days",
                violation_error_message="The last day is before the first.",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name}, {self.first_day:%Y-%m-%d} to {self.last_day:%Y-%m-%d}"


class Shift(models.Model):
    """A person's duty, week by week, at one site or at all of the fleet; its times are those of the machine's site."""

    fleet = models.ForeignKey("machines.Fleet", on_delete=models.CASCADE, related_name="shifts")
    site = models.ForeignKey(
        "machines.Site",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="shifts",
        help_text="Empty: every site of the fleet, each by its own clock.",
    )
    operator = models.ForeignKey("machines.Operator", on_delete=models.CASCADE, related_name="shifts")
    weekdays = WeekdaysField(help_text="The days on which it begins.")
    starts = models.TimeField()
    ends = models.TimeField(help_text="Before the start: on the next day. The same as the start: 24 hours.")
    first_day = models.DateField(null=True, blank=True, help_text="Empty: since ever.")
    last_day = models.DateField(null=True, blank=True, help_text="The last day on which it begins; empty: for ever.")
    every_weeks = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(8)],
        help_text="1: each week. 2: every second one, counted from the week of the first day.",
    )
    rank = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(9)],
        help_text="1 is asked first, 2 next, and so on.",
    )

    class Meta:
        ordering = ["fleet", "site", "rank", "weekdays", "starts"]
        constraints = [
            models.CheckConstraint(
                condition=Q(first_day=None) | Q(last_day=None) | Q(last_day__gte=F("first_day")),
                name="shift_has_days",
                violation_error_message="The last day is before the first.",
            ),
            models.CheckConstraint(
                condition=Q(every_weeks=1) | Q(every_weeks__gt=1, first_day__isnull=False),
                name="shift_of_some_weeks_has_a_first",
                violation_error_message="Weeks are counted from the first day's; say which day that is.",
            ),
            models.CheckConstraint(condition=Q(rank__gte=1), name="shift_has_a_rank"),
        ]

    def __str__(self) -> str:
        days = " ".join(Weekday(int(day)).label[:2] for day in self.weekdays)
        return f"{self.operator}, {days} {hours_words(self.starts, self.ends)}"

    def clean(self) -> None:
        super().clean()
        errors: dict[str, str] = {}
        if self.site_id and self.fleet_id and self.site and self.site.fleet_id != self.fleet_id:
            errors["site"] = f"{self.site} belongs to {self.site.fleet}, the shift to {self.fleet}."
        if self.operator_id and self.fleet_id and not self.operator.fleets.filter(pk=self.fleet_id).exists():
            errors["operator"] = f"{self.operator} does not work for {self.fleet}."
        if errors:
            raise ValidationError(errors)


class WorkingHours(models.Model):
    """When a person works, in their own time zone; outside of them they are never asked, not even on a shift.

    With no rows a person may be asked at any time.
    """

    operator = models.ForeignKey("machines.Operator", on_delete=models.CASCADE, related_name="working_hours")
    weekday = models.PositiveSmallIntegerField(choices=Weekday)
    starts = models.TimeField()
    ends = models.TimeField(help_text="Before the start: on the next day. The same as the start: 24 hours.")

    class Meta:
        verbose_name_plural = "working hours"
        ordering = ["weekday", "starts"]
        constraints = [
            models.CheckConstraint(condition=Q(weekday__lte=6), name="working_hours_weekday"),
            models.UniqueConstraint(fields=["operator", "weekday", "starts"], name="one_start_of_work_a_moment"),
        ]

    def __str__(self) -> str:
        return f"{Weekday(self.weekday).label} {hours_words(self.starts, self.ends)}"


class Absence(models.Model):
    """A while in which a person is not asked."""

    operator = models.ForeignKey("machines.Operator", on_delete=models.CASCADE, related_name="absences")
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(db_index=True)
    note = models.CharField(max_length=120, blank=True)

    class Meta:
        ordering = ["starts_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(ends_at__gt=F("starts_at")),
                name="absence_lasts",
                violation_error_message="The end is not after the start.",
            )
        ]

    def __str__(self) -> str:
        return f"{self.starts_at:%Y-%m-%d %H:%M} to {self.ends_at:%Y-%m-%d %H:%M} UTC"


class KeptAnswer(models.Model):
    """The last good answer of a telemetry that is elsewhere to who is responsible for a machine."""

    machine = models.OneToOneField("machines.Machine", on_delete=models.CASCADE, related_name="kept_answer")
    source = models.CharField(max_length=32, editable=False)
    answer: Any = models.JSONField(editable=False)
    at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-at"]

    def __str__(self) -> str:
        return f"{self.source} at {self.at:%Y-%m-%d %H:%M:%S}"
