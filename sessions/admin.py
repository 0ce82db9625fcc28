"""Rescues in the admin: a record to look at, the one action being to end one; connection profiles to manage.

One-off logins are not registered, and a connection's id is read by no page here (T2, T10).
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.options import InlineModelAdmin
from django.db.models import Exists, Model, OuterRef, QuerySet
from django.http import HttpRequest

from machines.admin import FleetAdmin, FleetScopedAdmin, LookedAtOnly, RecordAdmin
from machines.models import User
from sessions import pool_rows, services
from sessions.errors import SupportError
from sessions.models import (
    Asked,
    Attachment,
    ConnectionProfile,
    Escalation,
    Gateway,
    GuacamoleConnection,
    Pool,
    Press,
    RdpCredential,
    SessionEvent,
    SupportSession,
)
from sessions.states import EndReason
from sessions.words import event_sentence


class _RecordInline(LookedAtOnly, InlineModelAdmin):  # type: ignore[type-arg]
    template = "admin/edit_inline/tabular.html"
    extra = 0
    can_delete = False
    show_change_link = True


class _EventInline(_RecordInline):
    model = SessionEvent
    fields = readonly_fields = ("at", "words")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SessionEvent]:
        return super().get_queryset(request).select_related("user")

    @admin.display(description="What happened")
    def words(self, event: SessionEvent) -> str:
        return event_sentence(event)


class _EscalationInline(_RecordInline):
    model = Escalation
    verbose_name_plural = "who is asked"
    fields = readonly_fields = (
        "round", "rung", "source", "stood_in", "next_at", "nobody_at", "next_duty_at", "settled_as", "missed_at",
        "missed_looked_at", "missed_looked_by",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[Escalation]:
        return super().get_queryset(request).select_related("missed_looked_by")


class _AskedInline(_RecordInline):
    model = Asked
    fields = readonly_fields = ("at", "round", "rung", "user", "address", "why", "is_reachable")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Asked]:
        return super().get_queryset(request).select_related("user")


class _PressInline(_RecordInline):
    model = Press
    fields = readonly_fields = ("at", "idempotency_key")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Press]:
        return super().get_queryset(request).select_related("machine").defer("request_digest")


class _GatewayInline(_RecordInline):
    model = Gateway
    fields = readonly_fields = (
        "attempt", "driver", "born_warm", "state", "wanted_at", "ready_at", "claimed_at", "stopped_at", "failure",
    )  # fmt: skip


class _ConnectionInline(_RecordInline):
    model = GuacamoleConnection
    fields = readonly_fields = ("protocol", "hostname", "port", "opened_at", "closed_at", "status", "detail")

    def get_queryset(self, request: HttpRequest) -> QuerySet[GuacamoleConnection]:
        return super().get_queryset(request).defer("connection_id")


class _AttachmentInline(_RecordInline):
    model = Attachment
    fields = readonly_fields = ("user", "role", "attached_at", "detached_at", "address", "end_detail")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attachment]:
        return super().get_queryset(request).select_related("user")


@admin.register(SupportSession)
class SupportSessionAdmin(RecordAdmin):
    list_display = [
        "requested_at", "machine", "fleet", "state", "end_reason", "problem_code", "problem_text", "operator",
        "login_kept",
    ]  # fmt: skip
    list_filter = ["state", "end_reason", "fleet", "machine__model", "operator"]
    list_select_related = ["machine", "fleet", "operator"]
    search_fields = [
        "machine__serial", "machine__name", "problem_code", "problem_text", "cause", "fix", "operator__username",
    ]  # fmt: skip
    date_hierarchy = "requested_at"
    readonly_fields = ["id", "version", "login_kept"]
    inlines = [
        _EventInline, _EscalationInline, _AskedInline, _PressInline, _GatewayInline, _ConnectionInline,
        _AttachmentInline,
    ]  # fmt: skip
    actions = ["end_by_force"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[SupportSession]:
        kept = RdpCredential.objects.filter(session=OuterRef("pk"))
        rescues: QuerySet[SupportSession] = super().get_queryset(request)
        return rescues.annotate(_login_kept=Exists(kept))

    @admin.display(description="One-off login kept", boolean=True)
    def login_kept(self, session: Any) -> bool:
        return bool(session._login_kept)

    def has_end_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("support.change_supportsession")

    @admin.action(description="End by force", permissions=["end"])
    def end_by_force(self, request: HttpRequest, sessions: QuerySet[SupportSession]) -> None:
        """Through the services, so by their rules: the person must be a supervisor."""
        assert isinstance(request.user, User)
        for session in sessions.select_related("closed_by"):
            try:
                services.close(session, user=request.user, outcome=EndReason.FORCED, note="Ended in the admin.")
            except SupportError as error:
                messages.error(request, f"{session}: {error}")
            else:
                self.log_change(request, session, "Ended by force.")
                messages.success(request, f"{session}: ending. Gateway, tunnel and login go within seconds.")


@admin.register(SessionEvent)
class SessionEventAdmin(RecordAdmin):
    fleet_path = "session__fleet"
    list_display = ["at", "session", "kind", "words", "actor", "user"]
    list_filter = ["kind", "actor", "session__fleet"]
    list_select_related = ["session__machine", "user"]
    search_fields = ["kind", "session__machine__serial", "user__username"]
    date_hierarchy = "at"

    @admin.display(description="What happened")
    def words(self, event: SessionEvent) -> str:
        return event_sentence(event)


@admin.register(Press)
class PressAdmin(RecordAdmin):
    fleet_path = "session__fleet"
    list_display = ["at", "machine", "session", "idempotency_key"]
    list_filter = ["session__fleet", "machine__model"]
    list_select_related = ["machine", "session__machine"]
    search_fields = ["machine__serial", "machine__name", "idempotency_key"]
    date_hierarchy = "at"
    exclude = ["request_digest"]


@admin.register(Gateway)
class GatewayAdmin(RecordAdmin):
    list_display = ["wanted_at", "whose", "fleet", "attempt", "driver", "state", "host", "port", "ready_at", "failure"]
    list_filter = ["state", ("session", admin.EmptyFieldListFilter), "born_warm", "driver", "fleet"]
    list_select_related = ["session__machine", "fleet"]
    search_fields = ["session__machine__serial", "host", "failure"]
    date_hierarchy = "wanted_at"

    @admin.display(description="Session", ordering="session")
    def whose(self, gateway: Gateway) -> str:
        if gateway.session is None:
            return "warm"
        return f"{gateway.session}, was warm" if gateway.born_warm else str(gateway.session)


class _PoolInline(_RecordInline):
    """On the fleet's page, below its own number of gateways kept ready."""

    model = Pool
    verbose_name_plural = "gateways kept ready"
    show_change_link = False
    fields = readonly_fields = ("size", "reason", "standing", "short_since")

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Who may look at a fleet: it is a part of that."""
        return any(request.user.has_perm(f"machines.{right}_fleet") for right in ("view", "change"))

    @admin.display(description="Now")
    def standing(self, row: Pool) -> str:
        return pool_rows.standing(row)


FleetAdmin.inlines = [_PoolInline, *FleetAdmin.inlines]


@admin.register(GuacamoleConnection)
class GuacamoleConnectionAdmin(RecordAdmin):
    fleet_path = "session__fleet"
    list_display = ["opened_at", "session", "protocol", "hostname", "port", "closed_at", "status", "detail"]
    list_filter = ["protocol", "status", ("closed_at", admin.EmptyFieldListFilter), "session__fleet"]
    list_select_related = ["session__machine"]
    search_fields = ["session__machine__serial", "hostname", "detail"]
    date_hierarchy = "opened_at"
    exclude = ["connection_id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[GuacamoleConnection]:
        return super().get_queryset(request).defer("connection_id")


@admin.register(ConnectionProfile)
class ConnectionProfileAdmin(FleetScopedAdmin):
    list_display = ["name", "fleet", "machine_model", "security", "color_depth", "width", "height", "allow_paste"]
    list_filter = ["security", "fleet", "machine_model"]
    list_select_related = ["fleet", "machine_model"]
    search_fields = ["name", "fleet__name", "machine_model__name"]
    autocomplete_fields = ["fleet", "machine_model"]
    fieldsets = [
        (None, {"fields": ["name", "fleet", "machine_model"]}),
        ("Signing in", {"fields": ["security", "ignore_certificate"]}),
        ("Screen", {"fields": [("width", "height", "dpi"), "color_depth", "disable_gfx"]}),
        ("Looks", {"fields": ["enable_wallpaper", "enable_font_smoothing"]}),
        ("Keyboard and clipboard", {"fields": ["server_layout", "allow_copy", "allow_paste"]}),
    ]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """A profile without a fleet is for every tenant: only a superuser makes one."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "fleet":
            field.required = not request.user.is_superuser
        return field


@admin.register(Attachment)
class AttachmentAdmin(RecordAdmin):
    fleet_path = "session__fleet"
    list_display = ["attached_at", "session", "user", "role", "detached_at", "address", "end_detail"]
    list_filter = ["role", ("detached_at", admin.EmptyFieldListFilter), "session__fleet"]
    list_select_related = ["session__machine", "user"]
    search_fields = ["session__machine__serial", "user__username", "address"]
    date_hierarchy = "attached_at"
    exclude = ["ticket_sha256"]
