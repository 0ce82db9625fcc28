"""The VPN in the admin: who may join, who has joined, and what ends soon. No page has a key, nor a code's digest."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse

from machines import identities
from machines.admin import LookedAtOnly, RecordAdmin
from machines.models import (
    EnrolmentCode,
    GatewayIdentity,
    KeptProfile,
    ProfileDelivery,
    TunnelEnding,
    User,
    VpnAddress,
    VpnAuthority,
    VpnConnection,
    VpnIdentity,
)


@admin.register(VpnAuthority)
class VpnAuthorityAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = ["__str__", "ends_on", "server_ends_on", "crl_number", "crl_next_update", "created_at"]
    fields = readonly_fields = (
        *("certificate", "ends_on", "server_certificate", "server_ends_on"),
        *("crl_number", "crl_next_update", "created_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[VpnAuthority]:
        return super().get_queryset(request).defer("key", "tls_crypt_key", "server_key")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        for sentence in identities.health():
            messages.warning(request, sentence)
        return super().changelist_view(request, extra_context)

    @admin.display(description="Ends on")
    def ends_on(self, authority: VpnAuthority) -> str:
        return _end_of(authority.certificate)

    @admin.display(description="Server's ends on")
    def server_ends_on(self, authority: VpnAuthority) -> str:
        return _end_of(authority.server_certificate)


class _OfMachineAdmin(RecordAdmin):
    fleet_path = "machine__fleet"
    list_select_related = ["machine__fleet"]
    search_fields = ["machine__serial", "machine__name"]


@admin.register(VpnIdentity)
class VpnIdentityAdmin(_OfMachineAdmin):
    list_display = ["serial", "machine", "issued_at", "expires_at", "handed_over_at", "proven_at", "revoked_at"]
    list_filter = [
        ("revoked_at", admin.EmptyFieldListFilter),
        ("proven_at", admin.EmptyFieldListFilter),
        "machine__fleet",
    ]
    search_fields = [*_OfMachineAdmin.search_fields, "serial", "sha256"]
    date_hierarchy = "issued_at"
    fields = (
        *("machine", "serial", "sha256", "certificate", "issued_at", "expires_at"),
        *("handed_over_at", "proven_at", "revoked_at", "revoke_reason"),
    )
    actions = ["revoke"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("private_key", "tls_crypt_key")

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("machines.change_vpnidentity")

    @admin.action(description="Revoke the chosen identities", permissions=["revoke"])
    def revoke(self, request: HttpRequest, chosen: QuerySet[VpnIdentity]) -> None:
        assert isinstance(request.user, User)  # the admin lets nobody else in
        for identity in chosen:
            identities.revoke(identity, reason="revoked by hand", user=request.user)
            self.log_change(request, identity, "Revoked.")
        messages.success(request, "These identities are no longer admitted. Their machines need other ones to join.")


@admin.register(GatewayIdentity)
class GatewayIdentityAdmin(LookedAtOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """Of no fleet, since an attempt is known by its name alone here: for superusers."""

    list_display = [
        *("attempt_id", "address", "issued_at", "expires_at", "remote_address", "connected_at", "left_at"),
        *("revoked_at", "released_at"),
    ]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter), ("released_at", admin.EmptyFieldListFilter)]
    search_fields = ["attempt_id", "address", "serial", "sha256"]
    date_hierarchy = "issued_at"
    fields = (
        *("attempt_id", "address", "serial", "sha256", "key_sha256", "certificate", "issued_at", "expires_at"),
        *("revoked_at", "revoke_reason", "released_at"),
        *("remote_address", "remote_port", "client_id", "connected_at", "left_at", "left_detail"),
    )

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.is_superuser)


@admin.register(VpnConnection)
class VpnConnectionAdmin(_OfMachineAdmin):
    list_display = [
        *("machine", "remote_address", "remote_port", "since", "heard_at"),
        *("bytes_received", "bytes_sent", "ended_at", "end_detail"),
    ]
    list_filter = [("ended_at", admin.EmptyFieldListFilter), "machine__fleet"]
    search_fields = [*_OfMachineAdmin.search_fields, "remote_address"]
    date_hierarchy = "since"
    fields = (
        *("machine", "identity", "client_id", "remote_address", "remote_port", "since", "heard_at"),
        *("bytes_received", "bytes_sent", "ended_at", "end_detail"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("identity__private_key", "identity__tls_crypt_key")


@admin.register(VpnAddress)
class VpnAddressAdmin(_OfMachineAdmin):
    list_display = ["address", "machine", "allocated_at"]
    list_filter = ["machine__fleet"]
    search_fields = [*_OfMachineAdmin.search_fields, "address"]
    fields = ("address", "machine", "allocated_at")


@admin.register(TunnelEnding)
class TunnelEndingAdmin(_OfMachineAdmin):
    list_display = ["machine", "reason", "requested_at", "done_at"]
    list_filter = [("done_at", admin.EmptyFieldListFilter), "machine__fleet"]
    date_hierarchy = "requested_at"


@admin.register(EnrolmentCode)
class EnrolmentCodeAdmin(_OfMachineAdmin):
    list_display = ["machine", "created_by", "created_at", "expires_at", "used_at", "used_from"]
    list_filter = [("used_at", admin.EmptyFieldListFilter), "machine__fleet"]
    list_select_related = ["machine__fleet", "created_by"]
    date_hierarchy = "created_at"
    fields = ("machine", "created_by", "created_at", "expires_at", "used_at", "used_from", "identity")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("answer")


@admin.register(ProfileDelivery)
class ProfileDeliveryAdmin(_OfMachineAdmin):
    list_display = ["machine", "requested_by", "requested_at", "attempts", "delivered_at", "failed_at", "last_error"]
    list_filter = [
        ("delivered_at", admin.EmptyFieldListFilter),
        ("failed_at", admin.EmptyFieldListFilter),
        "machine__fleet",
    ]
    list_select_related = ["machine__fleet", "requested_by"]
    date_hierarchy = "requested_at"
    fields = (
        *("machine", "requested_by", "requested_at", "attempts", "next_try_at"),
        *("delivered_at", "failed_at", "last_error"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("profile")


@admin.register(KeptProfile)
class KeptProfileAdmin(_OfMachineAdmin):
    list_display = ["machine", "identity_serial", "kept_at", "ended_at", "downloaded_by"]
    list_filter = [("ended_at", admin.EmptyFieldListFilter), "machine__fleet"]
    list_select_related = ["machine__fleet", "downloaded_by"]
    search_fields = [*_OfMachineAdmin.search_fields, "identity_serial"]
    date_hierarchy = "kept_at"
    fields = ("machine", "identity_serial", "kept_at", "ended_at", "downloaded_by")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).defer("profile")


def _end_of(certificate: str) -> str:
    return f"{x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc:%Y-%m-%d}"
