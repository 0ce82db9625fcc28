"""When one is asked, and in what ways one is told: each operator's own page. It works without JavaScript."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, time, timedelta
from typing import Any, cast

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import SuspiciousOperation
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from machines import availability as services
from machines import own_rota, rota_rows, selectors
from machines.api.documents import MAX_ID
from machines.errors import AvailabilityRefused
from machines.models import Absence, Operator, User
from portal.availability_forms import AbsenceForm, AwayForm, HoursForm, WaysForm, language_names
from portal.templatetags.portal_words import moment_words


class _Page:
    """One visit: whose page it is, its forms, and what each of them does."""

    def __init__(self, request: HttpRequest, operator: Operator) -> None:
        self.request = request
        self.operator = operator
        self.now = timezone.now()
        self.away = AwayForm()
        self.hours = HoursForm(operator=operator)
        self.absence = AbsenceForm()
        self.ways = WaysForm(
            initial={name: getattr(operator, name) for name in ("languages", "wants_email", "wants_sms", "phone")}
        )

    @property
    def doings(self) -> dict[str, Callable[[], str | None]]:
        """By the name of the form; each gives what was done in words, or None if it was refused."""
        return {
            "back": self.come_back,
            "away": self.go_away,
            "hours": self.save_hours,
            "absence": self.add_absence,
            "remove-absence": self.remove_absence,
            "ways": self.save_ways,
        }

    def come_back(self) -> str:
        services.set_available(self.operator, is_available=True)
        return "You are available: you are asked again when it is your turn."

    def go_away(self) -> str | None:
        self.away = AwayForm(self.request.POST)
        wall = timezone.localtime(self.now).replace(tzinfo=None)
        match self.request.POST.get("away"):
            case "hour":
                until: datetime | None = self.now + timedelta(hours=1)
            case "day":
                until = self._moment(datetime.combine(wall.date() + timedelta(days=1), time()))
            case "open":
                until = None
            case _:
                if not self.away.is_valid():
                    return None
                if self.away.cleaned_data["until"] is None:
                    self.away.add_error("until", "Say until when, or choose one of the buttons above.")
                    return None
                until = self._moment(self.away.cleaned_data["until"])
        try:
            services.set_available(self.operator, is_available=False, until=until, now=self.now)
        except AvailabilityRefused as error:
            _refuse(self.away, error)
            return None
        return f"You are away{_until(until, self.now)}: nobody asks you. What you have claimed stays yours."

    def save_hours(self) -> str | None:
        self.hours = HoursForm(self.request.POST, operator=self.operator)
        if not self.hours.is_valid():
            return None
        rows = self.hours.hours
        try:
            with transaction.atomic():
                services.replace_working_hours(self.operator, rows)
                services.set_time_zone(self.operator, self.hours.cleaned_data["time_zone"])
        except AvailabilityRefused as error:
            _refuse(self.hours, error)
            return None
        return (
            "Your working hours are kept." if rows else "You may be asked at any time, since you have no working hours."
        )

    def add_absence(self) -> str | None:
        self.absence = AbsenceForm(self.request.POST)
        if not self.absence.is_valid():
            return None
        values = self.absence.cleaned_data
        starts_at, ends_at = self._moment(values["starts_at"]), self._moment(values["ends_at"])
        try:
            services.add_absence(self.operator, starts_at=starts_at, ends_at=ends_at, note=values["note"], now=self.now)
        except AvailabilityRefused as error:
            _refuse(self.absence, error)
            return None
        return f"You are away from {moment_words(starts_at, self.now)} until {moment_words(ends_at, self.now)}."

    def remove_absence(self) -> str | None:
        found = self.request.POST.get("absence", "")
        try:
            services.remove_absence(self.operator, int(found) if found.isdecimal() and int(found) <= MAX_ID else 0)
        except Absence.DoesNotExist:
            return "That absence is not there any more."
        return "The absence is removed."

    def save_ways(self) -> str | None:
        self.ways = WaysForm(self.request.POST)
        if not self.ways.is_valid():
            return None
        try:
            services.set_ways(self.operator, **self.ways.cleaned_data)
        except AvailabilityRefused as error:
            if self.ways.refused_language:
                error.errors["languages"] = [self.ways.refused_language]
            _refuse(self.ways, error)
            return None
        return "Kept: so you are told from now on."

    def context(self) -> dict[str, Any]:
        user = self.operator.user
        return {
            "operator": self.operator,
            "now": self.now,
            "standing": own_rota.standing(self.operator, now=self.now),
            "shifts": own_rota.shifts_ahead(self.operator, now=self.now),
            "absences": self.operator.absences.filter(ends_at__gt=self.now),
            "languages": language_names(self.operator.languages),
            "devices": user.push_devices.filter(disabled_at=None).count(),
            "sends_push": bool(settings.VAPID_PRIVATE_KEY),
            "sends_email": bool(settings.NOTIFY_EMAIL_URL),
            "sends_sms": settings.SMS != "none",
            "away": self.away,
            "hours": self.hours,
            "absence": self.absence,
            "ways": self.ways,
        }

    def _moment(self, wall: datetime) -> datetime:
        return services.moment_of(self.operator, wall)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def availability(request: HttpRequest) -> HttpResponse:
    """Available or away, working hours, absences, languages, and how to be told."""
    operator = selectors.operator_of(cast(User, request.user))
    if operator is None:
        return render(request, "portal/no_operator.html", status=403)
    # All times on this page are those of the person's own clock.
    with timezone.override(rota_rows.zone_of(operator.time_zone)):
        page = _Page(request, operator)
        status = 200
        if request.method == "POST":
            do = page.doings.get(request.POST.get("form", ""))
            if do is None:
                raise SuspiciousOperation("found no form of this page, expected one")
            if words := do():
                messages.success(request, words)
                return redirect(_next(request))
            status = 400
        return render(request, "portal/availability.html", page.context(), status=status)


def _refuse(form: forms.Form, error: AvailabilityRefused) -> None:
    """Puts the services' own words beside the fields."""
    for name, words in error.errors.items():
        for one in words:
            form.add_error(name if name in form.fields else None, one)


def _until(moment: datetime | None, now: datetime) -> str:
    return f" until {moment_words(moment, now)}" if moment else " until you say that you are back"


def _next(request: HttpRequest) -> str:
    """Where the menu's switch was pressed; else this page."""
    wanted = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(wanted, allowed_hosts={request.get_host()})
    return wanted if is_ours and wanted.startswith("/") else "availability"
