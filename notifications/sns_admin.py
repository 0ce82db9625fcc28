"""The way through SNS in the admin: to look at. No page has a token; what is wrong stands above the announcements."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from machines.admin import LookedAtOnly
from notifications import sns_health
from notifications.models import SnsAnnouncement, SnsCertificate, SnsConfirmation, SnsMessage


class _SnsAdmin(LookedAtOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Rows of the installation, not of a fleet: they say nothing of any rescue but its id."""


@admin.register(SnsAnnouncement)
class SnsAnnouncementAdmin(_SnsAdmin):
    list_display = ["created_at", "key", "published_at", "heard_at", "problem"]
    list_filter = [("published_at", admin.EmptyFieldListFilter), ("heard_at", admin.EmptyFieldListFilter)]
    search_fields = ["key", "subject", "message_id", "problem"]
    date_hierarchy = "created_at"
    fields = ("key", "subject", "created_at", "taken_at", "published_at", "message_id", "heard_at", "problem")

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        for sentence in sns_health.sentences():
            messages.warning(request, sentence)
        return super().changelist_view(request, extra_context)


@admin.register(SnsCertificate)
class SnsCertificateAdmin(_SnsAdmin):
    list_display = ["__str__", "noted_at", "fetched_at", "not_after", "tries", "problem"]
    list_filter = [("fetched_at", admin.EmptyFieldListFilter)]
    search_fields = ["url"]
    date_hierarchy = "noted_at"


@admin.register(SnsConfirmation)
class SnsConfirmationAdmin(_SnsAdmin):
    list_display = ["asked_at", "kind", "topic", "confirmed_at", "tries", "next_try_at", "problem"]
    list_filter = ["kind", ("confirmed_at", admin.EmptyFieldListFilter)]
    search_fields = ["topic", "message_id", "subscription"]
    date_hierarchy = "asked_at"
    fields = (
        *("kind", "topic", "message_id", "asked_at", "tries", "next_try_at"),
        *("confirmed_at", "subscription", "problem"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[SnsConfirmation]:
        return super().get_queryset(request).defer("token")


@admin.register(SnsMessage)
class SnsMessageAdmin(_SnsAdmin):
    list_display = ["heard_at", "message_id"]
    search_fields = ["message_id"]
    date_hierarchy = "heard_at"
