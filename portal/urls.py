"""The public face's addresses: pages, sign-in, admin, REST. The machines' face has its own (machine_urls.py)."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from machines.api.enrolment import EnrolView
from notifications import sns_hook
from portal import app_files, availability_pages, device_pages, health, machine_now, machine_pages, message_pages, views
from portal.api.schema import SchemaView

admin.site.site_header = admin.site.site_title = "Portafilter"
admin.site.index_title = "Fleets, people, rescues"
admin.site.site_url = "/"
# One login for everybody, with its second factors: the admin's own form knows none.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

handler400 = views.bad_request
handler403 = views.forbidden
handler404 = views.not_found
handler500 = views.server_error

urlpatterns = [
    path("", views.queue, name="queue"),
    path("sessions/<uuid:session_id>/", views.rescue, name="rescue"),
    path("machines/", views.machines, name="machines"),
    path("machines/<int:machine_id>/", views.machine, name="machine"),
    path("machines/new/", machine_pages.register, name="machine-new"),
    path("machines/alarms/", machine_pages.alarms, name="machine-alarms"),
    path("machines/<int:machine_id>/vpn/", machine_pages.vpn, name="machine-vpn"),
    path("machines/<int:machine_id>/now/", machine_now.now, name="machine-now"),
    path("machines/<int:machine_id>/enrolment/", machine_pages.code, name="machine-code"),
    path("machines/<int:machine_id>/profile/", machine_pages.profile, name="machine-profile"),
    path("machines/<int:machine_id>/profile/download/", machine_pages.download, name="machine-download"),
    path("machines/<int:machine_id>/freeze/", machine_pages.freeze, name="machine-freeze"),
    path("machines/<int:machine_id>/unfreeze/", machine_pages.unfreeze, name="machine-unfreeze"),
    path("machines/<int:machine_id>/identities/<int:identity_id>/revoke/", machine_pages.revoke, name="machine-revoke"),
    path("messages/", message_pages.told, name="messages"),
    path("account/", RedirectView.as_view(pattern_name="account")),
    path("account/devices/", device_pages.devices, name="devices"),
    path("account/availability/", availability_pages.availability, name="availability"),
    path("enrol/", EnrolView.as_view(), name="enrol"),
    path("accounts/", views.account, name="account"),
    # Without mail nobody could follow a reset: the sign-in page says whom to ask.
    path("accounts/password/reset/", RedirectView.as_view(pattern_name="account_login")),
    path("accounts/", include("allauth.urls")),
    path("admin/", admin.site.urls),
    path("api/v1/", include("portal.api.urls")),
    path("api/schema/", SchemaView.as_view(), name="api-schema"),
    path("sw.js", app_files.service_worker, name="service-worker"),
    path("manifest.webmanifest", app_files.manifest, name="manifest"),
    path("offline/", app_files.offline, name="offline"),
    path("hooks/sns/", sns_hook.receive, name="sns-hook"),
    path("healthz", health.healthz),
    path("favicon.ico", RedirectView.as_view(url="/static/img/mark.svg", permanent=False)),
]
