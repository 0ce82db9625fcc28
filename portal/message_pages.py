"""What was told to whom, and what did not arrive: for supervisors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from machines import selectors
from machines.models import User
from notifications import outbox, sns_health
from notifications.models import Delivery
from portal.message_words import advice, who

A_PAGE = 50
# What did not arrive and is older than this has been seen, or nobody minded.
TROUBLE = timedelta(days=3)
TROUBLES_READ = 500
TROUBLES_SHOWN = 12
FAILED = (Delivery.State.FAILED, Delivery.State.EXPIRED)
# They only take a message back from a screen.
QUIET = (Delivery.Kind.TAKEN, Delivery.Kind.OVER)


@dataclass(slots=True)
class Trouble:
    """What keeps failing in one way: who, why, what to do, how often, and when last."""

    who: str
    outcome: str
    advice: str
    at: datetime
    times: int = 1


@login_required
@require_safe
@never_cache
def told(request: HttpRequest) -> HttpResponse:
    """The messages of one's fleets, the newest first; before them what needs somebody."""
    user = cast(User, request.user)
    operator = selectors.operator_of(user)
    if operator is None:
        return render(request, "portal/no_operator.html", status=403)
    if not operator.is_supervisor:
        raise PermissionDenied("This is for supervisors.")
    now = timezone.now()
    fleets = list(selectors.fleets_of(user))
    show = "failed" if request.GET.get("show") == "failed" else ""
    rows = outbox.recent_for(fleets).exclude(kind__in=QUIET).select_related("recipient", "fleet", "device")
    failures = outbox.failures_for(fleets, since=now - TROUBLE).exclude(kind__in=QUIET)
    page = Paginator(rows.filter(state__in=FAILED) if show else rows, A_PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "show": show,
        "fleets": fleets,
        "troubles": _troubles(failures.select_related("recipient", "fleet", "device")[:TROUBLES_READ]),
        "days": TROUBLE.days,
        "wrong_ways": sns_health.sentences(now=now),
    }
    return render(request, "portal/told.html", context)


def _troubles(failures: Iterable[Delivery]) -> list[Trouble]:
    """What failed in the same way is one trouble; those of late come first."""
    found: dict[tuple[object, ...], Trouble] = {}
    for row in failures:
        key = (row.recipient_id, row.address, row.channel, row.device_name, row.outcome)
        if key in found:
            found[key].times += 1
        else:
            found[key] = Trouble(who(row), row.outcome, advice(row), row.ended_at or row.created_at)
    return list(found.values())[:TROUBLES_SHOWN]
