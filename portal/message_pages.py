"""What was told to whom, and what did not arrive: for supervisors."""

from __future__ import annotations

from typing import cast

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from machines import selectors
from machines.models import User
from notifications import sns_health


@login_required
@require_safe
@never_cache
def told(request: HttpRequest) -> HttpResponse:
    """The messages of one's fleets, the newest first."""
    operator = selectors.operator_of(cast(User, request.user))
    if operator is None:
        return render(request, "portal/no_operator.html", status=403)
    if not operator.is_supervisor:
        raise PermissionDenied("This is for supervisors.")
    return render(request, "portal/told.html", {"operator": operator, "troubles": sns_health.sentences()})
