"""The rota in the admin: shifts; and what telemetry elsewhere last said of who is responsible, to look at."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.utils.safestring import SafeString

from machines.admin import FleetScopedAdmin, RecordAdmin
from machines.models import KeptAnswer, Shift
from machines.rota_models import Weekday, hours_words


class _SitesOrEvery(admin.RelatedOnlyFieldListFilter):
    """A shift without a site is one of every site."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.empty_value_display = SafeString("every site")  # words of our own


@admin.register(Shift)
class ShiftAdmin(FleetScopedAdmin):
    list_display = [
        "operator",
        "where",
        "days",
        "hours",
        "rank",
        "every_weeks",
        "first_day",
        "last_day",
        "fleet",
    ]
    list_filter = ["fleet", ("site", _SitesOrEvery), "operator", "rank"]
    list_select_related = ["fleet", "site", "operator__user"]
    search_fields = [
        *("site__name", "site__city"),
        *("operator__user__username", "operator__user__first_name", "operator__user__last_name"),
    ]
    autocomplete_fields = ["fleet", "site", "operator"]
    fieldsets = [
        (None, {"fields": ["fleet", "site", "operator", "rank"]}),
        ("When, by the clock at the site", {"fields": ["weekdays", "starts", "ends"]}),
        ("From, until and how often", {"fields": ["first_day", "last_day", "every_weeks"]}),
    ]
    save_as = True

    @admin.display(description="Site", ordering="site__name", empty_value="every site")
    def where(self, shift: Shift) -> str | None:
        return str(shift.site) if shift.site else None

    @admin.display(description="Begins on", ordering="weekdays")
    def days(self, shift: Shift) -> str:
        return ", ".join(Weekday(int(day)).label[:3] for day in shift.weekdays)

    @admin.display(description="Hours", ordering="starts")
    def hours(self, shift: Shift) -> str:
        return hours_words(shift.starts, shift.ends)


@admin.register(KeptAnswer)
class KeptAnswerAdmin(RecordAdmin):
    fleet_path = "machine__fleet"
    list_display = ["machine", "source", "at"]
    list_filter = ["source", "machine__fleet"]
    list_select_related = ["machine"]
    search_fields = ["machine__serial", "machine__name"]
    fields = ("machine", "source", "answer", "at")
