"""The accelerators in the admin: how they stand, and turning a dial or a weight, which the worker then does."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone

from backbone import words
from backbone.accelerator import Accelerator, Endpoint, EndpointGroup, Listener
from backbone.models import AcceleratorReading, DialWish
from backbone.passes import LOOK_EVERY, in_record, names
from machines import services
from machines.admin import LookedAtOnly
from machines.models import User

# Two looks missed and a half: the worker is not at it.
_STALE_AFTER = LOOK_EVERY * 2.5
_LAST_WISHES = 8
# While something is under way the page comes again by itself.
_AGAIN_S = 5


@admin.register(AcceleratorReading)
class AcceleratorReadingAdmin(LookedAtOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """One page instead of a list; it shows rows alone, and AWS is never asked for it."""

    def get_urls(self) -> list[URLPattern]:
        turn = self.admin_site.admin_view(self.turn_view)
        return [
            path("<int:reading_id>/turn/", turn, name="backbone_acceleratorreading_turn"),
            path("", self.admin_site.admin_view(self.status_view), name="backbone_acceleratorreading_changelist"),
        ]

    def has_module_permission(self, request: HttpRequest) -> bool:
        """In the index where there is an accelerator."""
        return bool(names()) and super().has_module_permission(request)

    def status_view(self, request: HttpRequest) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        now = timezone.now()
        readings = {reading.name: reading for reading in AcceleratorReading.objects.all()}
        shown = [_Shown.of(name, readings.get(name), now) for name in names()]
        wishes = list(DialWish.objects.select_related("user")[:_LAST_WISHES])
        is_under_way = any(wish.is_open for wish in wishes) or any(one.is_under_way for one in shown)
        context = {
            **self.admin_site.each_context(request),
            "title": "Global Accelerator",
            "opts": self.model._meta,
            "shown": shown,
            "wishes": wishes,
            "may_turn": _may_turn(request),
            "now": now,
            "again_s": _AGAIN_S if is_under_way else 0,
        }
        return TemplateResponse(request, "admin/backbone/accelerator.html", context)

    def turn_view(self, request: HttpRequest, reading_id: int) -> HttpResponse:
        """First asks to how much and why, then says what will happen, then writes the wish down."""
        if not _may_turn(request):
            raise PermissionDenied
        reading = AcceleratorReading.objects.filter(pk=reading_id, name__in=names()).first()
        accelerator = _read(reading)
        if reading is None or accelerator is None:
            raise Http404
        try:
            target = _Target.of(accelerator, request.GET.get("group", ""), request.GET.get("endpoint", ""))
        except LookupError:
            messages.error(request, "That is not there any more: this is what AWS says now.")
            return redirect("admin:backbone_acceleratorreading_changelist")
        is_asking = request.method != "POST" or "back" in request.POST
        if request.method == "POST" and request.POST.get("from_value") != str(target.value):
            is_asking = True
            messages.warning(request, f"It was turned meanwhile, to {target.shown(target.value)}. Look at it again.")
        initial = {"to": request.POST.get("to", f"{target.value:g}"), "reason": request.POST.get("reason", "")}
        form = TurnForm(None if is_asking else request.POST, initial=initial, target=target)
        is_sure = not is_asking and form.is_valid()
        if is_sure and "sure" in request.POST:
            return self._wish(request, reading, target, form)
        context = {
            **self.admin_site.each_context(request),
            "title": f"{target.verb} the {target.what}",
            "opts": self.model._meta,
            "accelerator": accelerator,
            "reading": reading,
            "target": target,
            "form": form,
            "is_sure": is_sure,
            "will_happen": target.what_will_happen(form.cleaned_data["to"]) if is_sure else [],
            "to": target.shown(form.cleaned_data["to"]) if is_sure else "",
            "stands_at": target.shown(target.value),
            "age": _age(reading, timezone.now()),
        }
        status = 400 if form.errors else 200
        return TemplateResponse(request, "admin/backbone/turn.html", context, status=status)

    def _wish(self, request: HttpRequest, reading: AcceleratorReading, target: _Target, form: TurnForm) -> HttpResponse:
        person = request.user
        assert isinstance(person, User)  # the admin lets nobody else in
        wish = DialWish(
            accelerator=reading.name,
            group_arn=target.group.arn,
            region=target.group.region,
            listener=target.listener.title,
            endpoint_id=target.endpoint.id if target.endpoint else "",
            # What the person saw, which may be older than what the worker has read since.
            from_value=form.cleaned_data["from_value"],
            to_value=form.cleaned_data["to"],
            reason=form.cleaned_data["reason"],
            user=person,
        )
        try:
            with transaction.atomic():
                wish.save()
                services.record_security_event(
                    "dial_wished", user=person, address=request.META.get("REMOTE_ADDR", ""), detail=in_record(wish)
                )
        except IntegrityError:
            other = DialWish.objects.filter(group_arn=target.group.arn, done_at=None, failed_at=None).first()
            who = f"{other.user.display_name} has just turned" if other else "Somebody has just turned"
            messages.error(request, f"{who} something in this group. Wait for that, and look again.")
        else:
            self.log_change(request, reading, f"Wished: {wish}.")
            messages.success(request, f"{wish}. The worker turns it now; this page shows what AWS says to it.")
        return redirect("admin:backbone_acceleratorreading_changelist")


@admin.register(DialWish)
class DialWishAdmin(LookedAtOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """The record of what was turned here."""

    list_display = ["requested_at", "__str__", "reason", "user", "done_at", "failed_at", "outcome"]
    list_filter = [("done_at", admin.EmptyFieldListFilter), ("failed_at", admin.EmptyFieldListFilter), "region"]
    list_select_related = ["user"]
    search_fields = ["reason", "outcome", "user__username", "region", "endpoint_id"]
    date_hierarchy = "requested_at"
    fields = (
        *("accelerator", "listener", "region", "group_arn", "endpoint_id", "from_value", "to_value", "reason"),
        *("user", "requested_at", "attempts", "done_at", "failed_at", "outcome"),
    )

    def has_module_permission(self, request: HttpRequest) -> bool:
        return (bool(names()) or DialWish.objects.exists()) and super().has_module_permission(request)


class TurnForm(forms.Form):
    """To how much, and why; `from_value` is what the person saw."""

    to = forms.IntegerField(min_value=0)
    reason = forms.CharField(max_length=200, widget=forms.TextInput(attrs={"size": 60, "autocomplete": "off"}))
    from_value = forms.FloatField(widget=forms.HiddenInput, localize=False)

    def __init__(self, *args: Any, target: _Target, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._target = target
        self.initial["from_value"] = str(target.value)
        # A field of whole numbers: its limits are known only now, and the browser asks for them, too.
        self.fields["to"] = forms.IntegerField(
            min_value=0,
            max_value=target.highest,
            error_messages={"invalid": f"Expected a whole number from 0 to {target.highest}."},
        )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("to") == cleaned.get("from_value"):
            self.add_error("to", f"It stands at {self._target.shown(cleaned['from_value'])} already.")
        return cleaned


@dataclass(frozen=True, slots=True)
class _Target:
    """What is to be turned: a group's dial, or an endpoint's weight."""

    listener: Listener
    group: EndpointGroup
    endpoint: Endpoint | None

    @classmethod
    def of(cls, accelerator: Accelerator, group_arn: str, endpoint_id: str) -> _Target:
        """Raises LookupError when it is not there."""
        for listener, group in accelerator.groups():
            if group.arn == group_arn:
                if not endpoint_id:
                    return cls(listener, group, None)
                for endpoint in group.endpoints:
                    if endpoint.id == endpoint_id:
                        return cls(listener, group, endpoint)
        raise LookupError(group_arn)

    @property
    def what(self) -> str:
        return "weight" if self.endpoint else "traffic dial"

    @property
    def verb(self) -> str:
        return "Change" if self.endpoint else "Turn"

    @property
    def name(self) -> str:
        where = f"{self.listener.title} in {self.group.region}"
        return f"{words.endpoint_name(self.endpoint.id)}, {where}" if self.endpoint else where

    @property
    def value(self) -> float:
        return self.endpoint.weight if self.endpoint else self.group.dial

    @property
    def highest(self) -> int:
        return 255 if self.endpoint else 100

    def shown(self, value: float) -> str:
        return words.shown(value, is_weight=self.endpoint is not None)

    def what_will_happen(self, to: int) -> list[str]:
        return words.what_will_happen(self.listener, self.group, self.endpoint, to)


@dataclass(frozen=True, slots=True)
class _Shown:
    """An accelerator as the page has it."""

    name: str
    reading: AcceleratorReading | None
    accelerator: Accelerator | None
    troubles: list[str]
    age: str
    is_stale: bool
    listeners: list[_ShownListener]

    @classmethod
    def of(cls, name: str, reading: AcceleratorReading | None, now: datetime) -> _Shown:
        accelerator = _read(reading)
        is_stale = reading is None or reading.read_at is None or now - reading.read_at > _STALE_AFTER
        troubles = []
        if reading is not None and reading.trouble:
            troubles.append(reading.trouble)
        elif is_stale:
            troubles.append("Nobody has looked lately: the worker does it. Is it running, with ACCELERATOR set?")
        if accelerator is not None:
            troubles += [trouble.words for trouble in words.troubles(accelerator)]
        open_groups = set(
            DialWish.objects.filter(done_at=None, failed_at=None, accelerator=name).values_list("group_arn", flat=True)
        )
        listeners = [_ShownListener.of(one, open_groups) for one in accelerator.listeners] if accelerator else []
        return cls(name, reading, accelerator, troubles, _age(reading, now), is_stale, listeners)

    @property
    def is_under_way(self) -> bool:
        return self.accelerator is not None and not self.accelerator.is_deployed and not self.is_stale


@dataclass(frozen=True, slots=True)
class _ShownListener:
    listener: Listener
    affinity: str
    groups: list[_ShownGroup]

    @classmethod
    def of(cls, listener: Listener, open_groups: set[str]) -> _ShownListener:
        affinity = {
            "NONE": "each connection finds an endpoint of its own",
            "SOURCE_IP": "one client address stays with one endpoint",
        }.get(listener.affinity, listener.affinity)
        return cls(listener, affinity, [_ShownGroup.of(group, group.arn in open_groups) for group in listener.groups])


@dataclass(frozen=True, slots=True)
class _ShownGroup:
    group: EndpointGroup
    check: str
    is_turning: bool
    overrides: str
    endpoints: list[_ShownEndpoint]

    @classmethod
    def of(cls, group: EndpointGroup, is_turning: bool) -> _ShownGroup:
        overrides = ", ".join(f"{listener} → {endpoint}" for listener, endpoint in group.port_overrides)
        endpoints = [_ShownEndpoint.of(group, one) for one in group.endpoints]
        return cls(group, words.check(group), is_turning, overrides, endpoints)


@dataclass(frozen=True, slots=True)
class _ShownEndpoint:
    endpoint: Endpoint
    name: str
    share: str
    health: str
    about_health: str

    @classmethod
    def of(cls, group: EndpointGroup, endpoint: Endpoint) -> _ShownEndpoint:
        about = "" if endpoint.health == "HEALTHY" else words.asked(group, endpoint)
        if endpoint.health_reason:
            about = f"AWS says: {endpoint.health_reason}. {about}".strip()
        health = words.HEALTH.get(endpoint.health, endpoint.health.lower())
        name = words.endpoint_name(endpoint.id)
        return cls(endpoint, name[0].upper() + name[1:], words.share(group, endpoint), health, about)


def _read(reading: AcceleratorReading | None) -> Accelerator | None:
    """What the row has; None where there is nothing, or another version wrote it: the next look writes it anew."""
    if reading is None or not reading.found:
        return None
    try:
        return Accelerator.from_json(reading.found)
    except (KeyError, TypeError, ValueError):
        return None


def _age(reading: AcceleratorReading | None, now: datetime) -> str:
    """As in: 12 s ago; more than a day as a date."""
    if reading is None or reading.read_at is None:
        return "never"
    age = max(now - reading.read_at, timedelta(0))
    if age < timedelta(minutes=2):
        return f"{age.seconds} s ago"
    if age < timedelta(hours=2):
        return f"{age.seconds // 60} min ago"
    if age < timedelta(days=2):
        return f"{age // timedelta(hours=1)} h ago"
    return f"on {reading.read_at:%d %B %Y}"


def _may_turn(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)
