"""The rota's rows on the admin's pages of sites, fleets and operators."""

from __future__ import annotations

from django.contrib import admin

from machines.models import Absence, Closure, OpeningHours, WorkingHours


class _Inline(admin.TabularInline):  # type: ignore[type-arg]
    extra = 0


class OpeningHoursInline(_Inline):
    model = OpeningHours
    verbose_name_plural = "opening hours (none: always open)"


class SiteClosureInline(_Inline):
    model = Closure
    fields = ("name", "first_day", "last_day")
    verbose_name_plural = "closures of this site"


class FleetClosureInline(_Inline):
    model = Closure
    fields = ("name", "first_day", "last_day")
    verbose_name_plural = "closures of every site"


class WorkingHoursInline(_Inline):
    model = WorkingHours
    verbose_name_plural = (
        "working hours in their own time zone (none: at any time; outside of them not even on a shift)"
    )


class AbsenceInline(_Inline):
    model = Absence
    verbose_name_plural = "absences (times in UTC)"
