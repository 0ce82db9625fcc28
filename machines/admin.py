"""The fleet in the admin: fleets, sites, machines and their tokens, people, and the security record."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.utils import get_fields_from_path
from django.contrib.auth.admin import UserAdmin
from django.db.models import Count, Model, Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from machines import identities, services
from machines.csv_admin import CsvMixin
from machines.errors import NotAllowed
from machines.models import Fleet, Machine, MachineModel, MachineToken, Operator, SecurityEvent, Site, User
from machines.rota_inlines import (
    AbsenceInline,
    FleetClosureInline,
    OpeningHoursInline,
    SiteClosureInline,
    WorkingHoursInline,
)
from machines.selectors import fleets_of

# What a person may do anywhere: a change of it is for the security record.
_RIGHTS = ("is_active", "is_staff", "is_superuser", "groups", "user_permissions", "password")


class FleetScopedAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """A manager sees, chooses and changes only what belongs to their own fleets; a superuser all (T22)."""

    # The lookup from a row to its fleet.
    fleet_path = "fleet"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        rows: QuerySet[Any] = super().get_queryset(request)
        if not _person(request).is_superuser:
            rows = rows.filter(pk__in=self.own_rows(_person(request)))
        return rows

    def own_rows(self, person: User) -> QuerySet[Any]:
        """Keys of the rows of the person's fleets; a subquery, since one row may belong to several of them."""
        rows: QuerySet[Any] = self.model._default_manager.filter(**{f"{self.fleet_path}__in": fleets_of(person)})
        return rows.values("pk")

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        """Filters by a relation offer only what the rows in sight have."""
        return [self._scoped_filter(one) for one in super().get_list_filter(request)]

    def _scoped_filter(self, one: Any) -> Any:
        if isinstance(one, str) and get_fields_from_path(self.model, one)[-1].is_relation:
            return (one, admin.RelatedOnlyFieldListFilter)
        return one

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return super().formfield_for_foreignkey(db_field, request, **self._choices(db_field, request), **kwargs)

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        return super().formfield_for_manytomany(db_field, request, **self._choices(db_field, request), **kwargs)

    def _choices(self, db_field: Any, request: HttpRequest) -> dict[str, Any]:
        related = self.admin_site._registry.get(db_field.remote_field.model)
        return {"queryset": related.get_queryset(request)} if isinstance(related, FleetScopedAdmin) else {}


class LookedAtOnly:
    """Rows that are the record of what happened; for admins and their inlines, before their own class."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class RecordAdmin(LookedAtOnly, FleetScopedAdmin):
    """A page a row, to look at."""


@admin.register(Fleet)
class FleetAdmin(FleetScopedAdmin):
    fleet_path = "pk"
    list_display = ["name", "slug", "machines_active", "people", "max_open_sessions", "answer_deadline_s"]
    search_fields = ["name", "slug"]
    prepopulated_fields = {"slug": ["name"]}
    fieldsets = [
        (None, {"fields": ["name", "slug", "max_open_sessions", "warm_gateways", "answer_deadline_s", "vpn_network"]}),
        (
            "Who is asked, and how soon",
            {
                "fields": [
                    *("ask_next_after_s", "ask_supervisors_after_s", "ask_last_resort_after_s"),
                    *("last_resort_email", "last_resort_phone"),
                ]
            },
        ),
    ]
    inlines = [FleetClosureInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Fleet]:
        fleets: QuerySet[Fleet] = super().get_queryset(request)
        return fleets.annotate(
            _machines=Count("machines", filter=Q(machines__is_active=True), distinct=True),
            _people=Count("operators", distinct=True),
        )

    @admin.display(description="Active machines", ordering="_machines")
    def machines_active(self, fleet: Any) -> int:
        return int(fleet._machines)

    @admin.display(description="People", ordering="_people")
    def people(self, fleet: Any) -> int:
        return int(fleet._people)


@admin.register(Site)
class SiteAdmin(FleetScopedAdmin):
    list_display = ["name", "city", "country", "time_zone", "fleet"]
    list_filter = ["fleet", "country"]
    list_select_related = ["fleet"]
    search_fields = ["name", "city", "address"]
    autocomplete_fields = ["fleet"]
    inlines = [OpeningHoursInline, SiteClosureInline]


@admin.register(MachineModel)
class MachineModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["name", "manufacturer"]
    list_filter = ["manufacturer"]
    search_fields = ["name", "manufacturer"]


@admin.register(Machine)
class MachineAdmin(CsvMixin, FleetScopedAdmin):
    list_display = ["serial", "name", "site", "fleet", "model", "vpn_address", "is_active", "frozen_at", "last_seen_at"]
    list_filter = ["is_active", ("frozen_at", admin.EmptyFieldListFilter), "fleet", "model", "site__country"]
    list_select_related = ["site", "fleet", "model"]
    search_fields = ["serial", "name", "vpn_address", "site__name", "site__city"]
    autocomplete_fields = ["fleet", "site", "model"]
    date_hierarchy = "created_at"
    readonly_fields = [
        *("frozen_at", "frozen_reason", "last_seen_at", "software", "faults", "rtt_ms", "created_at"),
    ]
    actions = ["issue_tokens", "freeze", "unfreeze", "export_csv"]

    def save_model(self, request: HttpRequest, obj: Machine, form: ModelForm[Machine], change: bool) -> None:
        super().save_model(request, obj, form, change)
        watched = [name for name in ("is_active", "vpn_address", "fleet") if name in form.changed_data]
        if change and watched:
            kind = "machine_changed"
            if "is_active" in watched:
                kind = "machine_activated" if obj.is_active else "machine_deactivated"
            _record(request, kind, machine=obj, detail={"changed": watched})

    def has_issue_tokens_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("machines.add_machinetoken")

    @admin.action(description="Issue a token (shown once)", permissions=["issue_tokens"])
    def issue_tokens(self, request: HttpRequest, machines: QuerySet[Machine]) -> HttpResponse:
        """Answers with the page itself: a message would leave the secret in a cookie or a session's row."""
        issued = []
        for machine in machines:
            issued.append((machine, services.issue_token(machine, user=_person(request))))
            self.log_change(request, machine, "Issued a token.")
        context = {**self.admin_site.each_context(request), "title": "Tokens, shown once", "issued": issued}
        return TemplateResponse(request, "admin/machines/machine/tokens_issued.html", context)

    @admin.action(description="Freeze (admitted nowhere)", permissions=["change"])
    def freeze(self, request: HttpRequest, machines: QuerySet[Machine]) -> None:
        for machine in machines:
            identities.freeze(machine, "by hand", user=_person(request))
            self.log_change(request, machine, "Frozen.")
        messages.success(request, "These machines are admitted neither to the VPN nor to the API.")

    @admin.action(description="Unfreeze", permissions=["change"])
    def unfreeze(self, request: HttpRequest, machines: QuerySet[Machine]) -> None:
        for machine in machines:
            try:
                identities.unfreeze(machine, _person(request))
            except NotAllowed as error:
                messages.error(request, f"{machine}: {error}")
            else:
                self.log_change(request, machine, "Unfrozen.")


@admin.register(MachineToken)
class MachineTokenAdmin(FleetScopedAdmin):
    """Tokens are issued on the machines' list, and revoked here; neither is ever changed by hand."""

    fleet_path = "machine__fleet"
    list_display = ["prefix", "machine", "created_at", "last_used_at", "revoked_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter), "machine__fleet"]
    list_select_related = ["machine"]
    search_fields = ["prefix", "machine__serial"]
    date_hierarchy = "created_at"
    fields = readonly_fields = ("prefix", "machine", "created_at", "last_used_at", "revoked_at")
    actions = ["revoke"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    @admin.action(description="Revoke the chosen tokens", permissions=["change"])
    def revoke(self, request: HttpRequest, tokens: QuerySet[MachineToken]) -> None:
        for token in tokens.select_related("machine__fleet"):
            services.revoke_token(token, user=_person(request))
            self.log_change(request, token, "Revoked.")
        messages.success(request, "These tokens no longer work. Their machines need other ones to ask for help.")


@admin.register(Operator)
class OperatorAdmin(FleetScopedAdmin):
    fleet_path = "fleets"
    list_display = ["user", "role", "works_for", "time_zone", "phone", "is_available", "may_sign_in"]
    list_filter = ["role", "fleets", "is_available", "user__is_active"]
    list_select_related = ["user"]
    search_fields = ["user__username", "user__first_name", "user__last_name", "user__email", "phone"]
    autocomplete_fields = ["user", "fleets", "skills"]
    fieldsets = [
        (None, {"fields": ["user", "fleets", "role"]}),
        ("What they can", {"fields": ["languages", "skills"]}),
        ("How they are told", {"fields": ["wants_email", "wants_sms", "phone"]}),
        ("When they may be asked", {"fields": ["time_zone", "is_available", "away_until"]}),
    ]
    inlines = [WorkingHoursInline, AbsenceInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Operator]:
        return super().get_queryset(request).prefetch_related("fleets")

    def save_related(self, request: HttpRequest, form: ModelForm[Operator], formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if watched := [name for name in ("role", "fleets", "user") if name in form.changed_data]:
            operator = form.instance
            fleets = [fleet.slug for fleet in operator.fleets.all()]
            detail: dict[str, object] = {
                "operator": operator.user.username,
                "role": operator.role,
                "fleets": fleets,
                "changed": watched,
            }
            _record(request, "operator_changed" if change else "operator_added", detail=detail)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or _may_manage(request, obj.user))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or _may_manage(request, obj.user))

    def delete_model(self, request: HttpRequest, obj: Operator) -> None:
        _record(request, "operator_removed", detail={"operator": obj.user.username})
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Operator]) -> None:
        for operator in queryset:
            self.delete_model(request, operator)

    @admin.display(description="Fleets")
    def works_for(self, operator: Operator) -> str:
        return ", ".join(fleet.name for fleet in operator.fleets.all())

    @admin.display(description="May sign in", boolean=True, ordering="user__is_active")
    def may_sign_in(self, operator: Operator) -> bool:
        return operator.user.is_active


@admin.register(User)
class PersonAdmin(FleetScopedAdmin, UserAdmin):  # type: ignore[type-arg]
    """People of one's fleets, and those who work for none yet; only a superuser gives rights or touches superusers."""

    fleet_path = "operator__fleets"
    list_display = ["username", "first_name", "last_name", "email", "is_active", "is_staff", "last_login"]
    date_hierarchy = "date_joined"

    def own_rows(self, person: User) -> QuerySet[Any]:
        new = User.objects.filter(operator=None, is_staff=False, is_superuser=False).values("pk")
        return User.objects.filter(Q(pk__in=super().own_rows(person)) | Q(pk__in=new)).values("pk")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        if _person(request).is_superuser:
            return super().get_readonly_fields(request, obj)
        return ["is_staff", "is_superuser", "groups", "user_permissions"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and (obj is None or _may_manage(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and (obj is None or _may_manage(request, obj))

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if watched := [name for name in _RIGHTS if name in form.changed_data]:
            person = form.instance
            kind = "user_changed" if change else "user_added"
            if change and "is_active" in watched:
                kind = "user_activated" if person.is_active else "user_deactivated"
            _record(request, kind, detail={"user": person.username, "changed": watched})

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        response = super().user_change_password(request, id, form_url)
        if request.method == "POST" and response.status_code == 302:
            person = User.objects.get(pk=id)
            _record(request, "user_changed", detail={"user": person.username, "changed": ["password"]})
        return response


@admin.register(SecurityEvent)
class SecurityEventAdmin(RecordAdmin):
    list_display = ["at", "kind", "fleet", "machine", "user", "address"]
    list_filter = ["kind", "fleet"]
    list_select_related = ["fleet", "machine", "user"]
    search_fields = ["kind", "address", "machine__serial", "user__username"]
    date_hierarchy = "at"


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # the admin lets nobody else in
    return request.user


def _may_manage(request: HttpRequest, person: User) -> bool:
    """Whoever signs in as somebody reaches all of their fleets: so a manager needs all of them (T22)."""
    manager = _person(request)
    if manager.is_superuser:
        return True
    if person.is_superuser or person.is_staff:
        return False
    return not Fleet.objects.filter(operators__user=person).exclude(pk__in=fleets_of(manager)).exists()


def _record(
    request: HttpRequest, kind: str, *, machine: Machine | None = None, detail: dict[str, object] | None = None
) -> None:
    address = request.META.get("REMOTE_ADDR", "")
    services.record_security_event(kind, machine=machine, user=_person(request), address=address, detail=detail)


# At the end, since it builds on what is above.
from machines import rota_admin, vpn_admin  # noqa: E402, F401
