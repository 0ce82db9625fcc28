"""The machines' face: what its own listener on the VPN serves, and nothing else (T21)."""

from __future__ import annotations

from django.urls import path
from drf_spectacular.views import SpectacularJSONAPIView

from machines.api.base import JsonOnly
from portal import health
from sessions.api import machine

urlpatterns = [
    path("api/v1/support-requests/", machine.SupportRequests.as_view()),
    path("api/v1/support-requests/<uuid:request_id>/", machine.SupportRequest.as_view()),
    path("api/v1/support-requests/<uuid:request_id>/cancel/", machine.Cancel.as_view()),
    path("api/v1/heartbeat/", machine.Heartbeat.as_view()),
    path(
        "api/schema/",
        SpectacularJSONAPIView.as_view(
            urlconf="portal.machine_urls",
            authentication_classes=[],
            permission_classes=[],
            content_negotiation_class=JsonOnly,
            custom_settings={
                "TITLE": "Portafilter, the machines' face",
                "POSTPROCESSING_HOOKS": ["sessions.api.documents.complete"],
            },
        ),
    ),
    path("healthz", health.healthz),
]
