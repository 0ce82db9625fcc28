"""Messages in the admin: a record to look at. Browsers' keys and addresses are on no page."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.apps import apps
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from machines.admin import RecordAdmin
from notifications.models import Delivery, PushDevice

# django-webpush's own page shows keys and sends to any address, within the request.
admin.site.unregister(apps.get_model("webpush", "PushInformation"))


@admin.register(Delivery)
class DeliveryAdmin(RecordAdmin):
    list_display = [
        "created_at", "kind", "title", "to", "channel", "device_name", "state", "tries", "sent_at", "outcome",
    ]  # fmt: skip
    list_filter = ["state", "channel", "kind", "fleet", "is_silent"]
    list_select_related = ["recipient", "fleet"]
    search_fields = ["title", "recipient__username", "address", "outcome", "subject"]
    date_hierarchy = "created_at"
    exclude = ["device", "key"]

    @admin.display(description="To", ordering="recipient__username")
    def to(self, delivery: Delivery) -> str:
        return delivery.recipient.display_name if delivery.recipient else delivery.address


@admin.register(PushDevice)
class PushDeviceAdmin(RecordAdmin):
    fleet_path = "user__operator__fleets"
    list_display = ["name", "user", "push_service", "created_at", "last_sent_at", "failures", "last_problem"]
    list_filter = [("disabled_at", admin.EmptyFieldListFilter), "user__operator__fleets"]
    search_fields = ["name", "user__username"]
    date_hierarchy = "created_at"
    fields = readonly_fields = (
        *("name", "user", "push_service", "created_at", "last_sent_at"),
        *("failures", "last_problem", "disabled_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[PushDevice]:
        return super().get_queryset(request).select_related("user", "subscription")

    @admin.display(description="Push service")
    def push_service(self, device: PushDevice) -> str:
        """The host alone: the rest of the address is what lets one send."""
        return urlsplit(device.subscription.endpoint).hostname or ""


# At the end, as with the rows.
from notifications import sns_admin  # noqa: E402, F401
