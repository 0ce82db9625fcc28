"""When one is asked, and in what ways one is told: each operator's own page. It works without JavaScript."""

from __future__ import annotations

from typing import cast

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from machines import selectors
from machines.models import User


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def availability(request: HttpRequest) -> HttpResponse:
    """Available or away, working hours, absences, languages, and how to be told."""
    operator = selectors.operator_of(cast(User, request.user))
    if operator is None:
        return render(request, "portal/no_operator.html", status=403)
    return render(request, "portal/availability.html", {"operator": operator})
