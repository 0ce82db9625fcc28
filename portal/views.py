"""The operators' pages: each renders its template and the first state as JSON; its module takes it from there."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from machines import registration
from machines import selectors as fleet_selectors
from machines.models import Machine, User
from notifications import subscriptions
from portal.machine_now import now_context
from portal.machine_pages import alarm_context, vpn_context
from sessions import attachments, selectors
from sessions.errors import SupportError
from sessions.models import Attachment, SupportSession

MACHINES_A_PAGE = 50
RESCUES_A_PAGE = 20
# As many as the page itself asks for afterwards.
MISSED_SHOWN = 50
# What one may do at a desktop, the most first, and the role that one joins in for it.
_ROLES = {"control": Attachment.Role.CONTROLLER.value, "watch": Attachment.Role.WATCHER.value}


@login_required
@require_safe
def queue(request: HttpRequest) -> HttpResponse:
    """Who waits, and who has whom."""
    user = _person(request)
    operator = fleet_selectors.operator_of(user)
    if operator is None:
        return render(request, "portal/no_operator.html", status=403)
    state = _state(
        user,
        sessions=selectors.cards(selectors.open_sessions_for(user), viewer=user),
        # None for those who watch over nobody: their page does not ask.
        missed=selectors.cards(selectors.missed_sessions_for(user)[:MISSED_SHOWN], viewer=user)
        if operator.is_supervisor
        else None,
    )
    context = {
        "state": state,
        "fleets": fleet_selectors.fleets_of(user),
        "has_no_device": bool(settings.VAPID_PRIVATE_KEY)
        and not subscriptions.devices_of(user).filter(disabled_at=None).exists(),
        **alarm_context(user),
    }
    return render(request, "portal/queue.html", context)


@login_required
@require_safe
@never_cache
def rescue(request: HttpRequest, session_id: UUID) -> HttpResponse:
    """One rescue: the machine's desktop while it is open, its record afterwards."""
    user = _person(request)
    session = selectors.session_for(user, session_id)
    if session is None:
        raise Http404("No such rescue in your fleets.")
    card = selectors.card(session, viewer=user)
    operator = fleet_selectors.operator_of(user)
    state = _state(
        user,
        session=card,
        ticket=_first_ticket(request, session, card),
        watches_over=operator is not None and operator.is_supervisor,
    )
    return render(request, "portal/rescue.html", {"state": state})


@login_required
@require_safe
def machines(request: HttpRequest) -> HttpResponse:
    """The machines of one's fleets, searched by words."""
    user = _person(request)
    search = request.GET.get("q", "").replace("\x00", "").strip()[:100]
    page = Paginator(fleet_selectors.machines_for(user, search=search), MACHINES_A_PAGE).get_page(
        request.GET.get("page")
    )
    open_here = selectors.open_sessions_for(user).filter(machine__in=list(page))
    waiting = {session.machine_id: session for session in open_here}
    rows = [(machine, waiting.get(machine.pk)) for machine in page]
    context = {
        "page": page,
        "rows": rows,
        "search": search,
        "may_register": registration.may_register(user),
        **alarm_context(user),
    }
    return render(request, "portal/machines.html", context)


@login_required
@require_safe
def machine(request: HttpRequest, machine_id: int) -> HttpResponse:
    """One machine: what is known of it, and its rescues."""
    user = _person(request)
    found = fleet_selectors.machines_for(user).filter(pk=machine_id).first()
    if found is None:
        raise Http404("No such machine in your fleets.")
    open_session = selectors.open_sessions_for(user).filter(machine=found).first()
    state = _state(
        user, id=found.pk, open_session=selectors.card(open_session, viewer=user) if open_session is not None else None
    )
    history = Paginator(_ended_rescues(found), RESCUES_A_PAGE).get_page(request.GET.get("page"))
    context = {"state": state, "history": history, **vpn_context(found, user), **now_context(found, user)}
    return render(request, "portal/machine.html", context)


@login_required
@require_safe
def account(request: HttpRequest) -> HttpResponse:
    """The ways one signs in, and out."""
    user = _person(request)
    return render(request, "portal/account.html", {"operator": fleet_selectors.operator_of(user)})


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _apology(request, 400)


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _apology(request, 403)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return _apology(request, 404)


def server_error(request: HttpRequest) -> HttpResponse:
    """Touches neither the database nor the login: either may be what has failed."""
    return HttpResponse(render_to_string("500.html"), status=500)


def _person(request: HttpRequest) -> User:
    """The signed-in person; login_required has seen to that."""
    return cast(User, request.user)


def _state(user: User, **members: object) -> dict[str, Any]:
    """What a page's module begins with: the viewer, the server's clock, and the page's own members."""
    operator = fleet_selectors.operator_of(user)
    me = {
        "id": user.pk,
        "name": user.display_name,
        "role": operator.role if operator else None,
        "time_zone": operator.time_zone if operator else "UTC",
    }
    return {"me": me, "server_time": timezone.now().isoformat(), **members}


def _first_ticket(request: HttpRequest, session: SupportSession, card: dict[str, Any]) -> dict[str, str] | None:
    """A ticket for the desktop that comes with its page, which then need not ask: a fifth of the way to the picture.

    It is like any other: for this person, this rescue and this role, once, for 30 s. None where nobody can join now or
    nobody looks: a page fetched ahead of time would use up tickets.
    """
    if request.method != "GET" or not card["desktop"] or "Sec-Purpose" in request.headers:
        return None
    role = next((role for verb, role in _ROLES.items() if verb in card["may"]), None)
    if role is None:
        return None
    try:
        return {"role": role, "ticket": attachments.issue_ticket(session, user=_person(request), role=role)}
    except SupportError:
        return None  # it changed in this moment: the page hears how from the server


def _ended_rescues(machine: Machine) -> Any:
    return (
        SupportSession.objects.filter(machine=machine, fleet_id=machine.fleet_id, closing_at__isnull=False)
        .select_related("operator", "closed_by")
        .order_by("-requested_at")
    )


def _apology(request: HttpRequest, status: int) -> HttpResponse:
    return render(request, f"{status}.html", status=status)
