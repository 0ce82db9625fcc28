"""The public face's REST calls, under /api/v1/."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path
from django.views.decorators.csrf import csrf_exempt

from machines.api import problems, vpn
from portal.api import devices, machines, me
from sessions.api import public as rescues


@csrf_exempt
def nothing_here(request: HttpRequest) -> HttpResponse:
    """404 as programs read it; it changes nothing, so it asks for no CSRF token."""
    return problems.http_response(
        problems.Problem(404, "not_found", "There is no such call. /api/schema/ lists those that there are.")
    )


urlpatterns = [
    path("me/", me.MeView.as_view(), name="api-me"),
    path("devices/", devices.DevicesView.as_view(), name="api-devices"),
    path("devices/<int:device_id>/", devices.DeviceView.as_view(), name="api-device"),
    path("devices/<int:device_id>/test/", devices.DeviceTestView.as_view(), name="api-device-test"),
    path("causes/", rescues.CausesView.as_view(), name="api-causes"),
    path("machines/", machines.MachinesView.as_view(), name="api-machines"),
    path("machines/<int:machine_id>/", machines.MachineView.as_view(), name="api-machine"),
    path("machines/<int:machine_id>/vpn/", vpn.StandingView.as_view(), name="api-machine-vpn"),
    path("machines/<int:machine_id>/enrolment-codes/", vpn.CodesView.as_view(), name="api-machine-codes"),
    path("machines/<int:machine_id>/profile/", vpn.ProfileView.as_view(), name="api-machine-profile"),
    path("machines/<int:machine_id>/freeze/", vpn.FreezeView.as_view(), name="api-machine-freeze"),
    path("machines/<int:machine_id>/unfreeze/", vpn.UnfreezeView.as_view(), name="api-machine-unfreeze"),
    path("sessions/", rescues.SessionsView.as_view(), name="api-sessions"),
    path("sessions/missed/", rescues.MissedView.as_view(), name="api-missed"),
    path("sessions/<uuid:session_id>/", rescues.SessionView.as_view(), name="api-session"),
    path("sessions/<uuid:session_id>/claim/", rescues.ClaimView.as_view(), name="api-claim"),
    path("sessions/<uuid:session_id>/release/", rescues.ReleaseView.as_view(), name="api-release"),
    path("sessions/<uuid:session_id>/handover/", rescues.HandoverView.as_view(), name="api-handover"),
    path("sessions/<uuid:session_id>/close/", rescues.CloseView.as_view(), name="api-close"),
    path("sessions/<uuid:session_id>/looked-at/", rescues.LookedAtView.as_view(), name="api-looked-at"),
    path("sessions/<uuid:session_id>/attachments/", rescues.AttachmentsView.as_view(), name="api-attachments"),
    path("sessions/<uuid:session_id>/events/", rescues.EventsView.as_view(), name="api-events"),
    path("sessions/<uuid:session_id>/colleagues/", rescues.ColleaguesView.as_view(), name="api-colleagues"),
    re_path("", nothing_here),
]
