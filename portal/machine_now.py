"""The part of a machine's page that goes with the time: what it last said, and who would be asked about it now."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.views.decorators.http import require_safe

from machines import rota_rows, selectors
from machines.api.documents import MAX_ID
from machines.models import Fleet, Machine, Operator, User
from machines.telemetry import asking
from notifications import outbox
from portal.templatetags.portal_words import moment_words


@dataclass(frozen=True, slots=True)
class Asked:
    """Somebody who would be asked; `is_reachable`: a message can be sent to them at all."""

    name: str
    why: str
    is_reachable: bool
    is_viewer: bool


@login_required
@require_safe
def now(request: HttpRequest, machine_id: int) -> HttpResponse:
    """That part by itself: the page fetches it again and again."""
    user = cast(User, request.user)
    found = selectors.machines_for(user).filter(pk=machine_id).first() if machine_id <= MAX_ID else None
    if found is None:
        raise Http404("No such machine in your fleets.")
    response = render(request, "portal/machine_now.html", now_context(found, user))
    add_never_cache_headers(response)
    return response


def now_context(machine: Machine, viewer: User) -> dict[str, Any]:
    """What that part is rendered from; nothing outside is asked for it."""
    at = timezone.now()
    duty = asking.preview(machine, at)
    fleet = machine.fleet
    there = selectors.present(selectors.colleagues(fleet), now=at).select_related("operator")
    people = {user.get_username(): user for user in there}
    named = [(people[one.username], one.why) for one in duty.candidates if one.username in people]
    supervisors = [
        user
        for user in people.values()
        if user.operator.role == Operator.Role.SUPERVISOR
        and user.get_username() not in {one.username for one in duty.candidates}
    ]
    reachable = outbox.reachable([user for user, _ in named] + supervisors)

    def asked(user: User, why: str) -> Asked:
        return Asked(user.display_name, why, user.pk in reachable, user == viewer)

    context: dict[str, Any] = {
        "asked": [asked(user, why) for user, why in named],
        "supervisors": [asked(user, "") for user in supervisors],
        "has_last_resort": bool(fleet.last_resort_email or fleet.last_resort_phone),
        "is_last_resort_told": outbox.is_address_reachable(
            email=fleet.last_resort_email, phone=fleet.last_resort_phone
        ),
        "next_after_s": _next_after_s(fleet),
        "somebody_from": _there(machine, duty.next_at, at),
        "stood_in": duty.stood_in,
        "word": asking.last_word(machine),
    }
    version = hashlib.sha256(repr(sorted(context.items())).encode()).hexdigest()[:16]
    return {**context, "now_version": version, "machine": machine}


def _next_after_s(fleet: Fleet) -> int:
    own = fleet.ask_next_after_s
    return int(settings.ASK_NEXT_AFTER_S) if own is None else own


def _there(machine: Machine, moment: datetime | None, at: datetime) -> str:
    """A moment to come by the clock at the machine."""
    if moment is None:
        return ""
    with timezone.override(rota_rows.zone_of(machine.site.time_zone)):
        return moment_words(moment, at)
