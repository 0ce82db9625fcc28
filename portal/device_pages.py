"""The devices that one gets messages on: a page that its module fills."""

from __future__ import annotations

from typing import cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from machines.models import User
from notifications import subscriptions
from portal.api.devices import document


@login_required
@require_safe
@never_cache
def devices(request: HttpRequest) -> HttpResponse:
    """One's own, and the way to make this browser one."""
    user = cast(User, request.user)
    state = {
        "me": {"id": user.pk, "name": user.display_name},
        "server_time": timezone.now().isoformat(),
        "vapid_public_key": subscriptions.vapid_public_key(),
        "devices": [document(one) for one in subscriptions.devices_of(user)],
    }
    return render(request, "portal/devices.html", {"state": state})
