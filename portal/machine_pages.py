"""Registering a machine, and its part of the VPN: what an operator does on a phone beside it.

All of it is for operators of the machine's fleet; for others the machine does not exist. Ending an identity and
unfreezing are for supervisors. Where a secret is in an answer, nothing on the way may keep it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import segno
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.cache import add_never_cache_headers
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from machines import enrolment, identities, registration, selectors
from machines.api.authentication import peer_address
from machines.api.documents import MAX_ID
from machines.errors import FleetError, RegistrationRefused
from machines.models import Machine, User, VpnIdentity
from machines.profile_passes import request_profile
from machines.telemetry import builtin
from machines.vpn.base import has_vpn
from machines.vpn_standing import standing_of
from portal.machine_forms import ReasonForm, RegisterForm
from sessions import bell

FROZEN_SHOWN = 5
OVPN = "application/x-openvpn-profile"


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def register(request: HttpRequest) -> HttpResponse:
    """A form for one machine; afterwards one stands on its page."""
    user = _person(request)
    if not registration.may_register(user):
        return render(request, "portal/no_operator.html", status=403)
    form = RegisterForm(request.POST if request.method == "POST" else None, user=user)
    if request.method == "POST" and form.is_valid():
        try:
            made = registration.register(**form.cleaned_data, user=user)
        except RegistrationRefused as error:
            form.refuse(error.errors)
        except FleetError as error:
            form.add_error(None, str(error))
        else:
            words = f"{made.serial} is registered, with the address {made.vpn_address}."
            if has_vpn():
                words += " Next, at the machine: make an enrolment code."
            messages.success(request, words)
            return redirect("machine", made.pk)
    return render(request, "portal/machine_new.html", {"form": form}, status=400 if form.errors else 200)


@login_required
@require_safe
def vpn(request: HttpRequest, machine_id: int) -> HttpResponse:
    """The VPN's part of the machine's page by itself: the page fetches it again and again."""
    machine = _machine(request, machine_id)
    response = render(request, "portal/machine_vpn.html", vpn_context(machine, _person(request)))
    add_never_cache_headers(response)
    return response


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def code(request: HttpRequest, machine_id: int) -> HttpResponse:
    """A new enrolment code, shown this once; whoever comes by a link or reloads finds the machine's page."""
    machine = _machine(request, machine_id)
    if request.method != "POST":
        return redirect("machine", machine.pk)
    try:
        issued = enrolment.issue_code(machine, user=_person(request))
    except FleetError as error:
        messages.error(request, str(error))
        return redirect("machine", machine.pk)
    context = {
        "machine": machine,
        "groups": issued.text.split("-"),
        "command": f"python3 -m agent enrol {issued.address.partition('/enrol/')[0]}",
        "code": issued.text,
        "qr": _qr(issued.address),
        "expires_at": issued.expires_at,
        "minutes": int(enrolment.CODE_LIFE.total_seconds() // 60),
        "state": {
            "id": machine.pk,
            "expires_at": issued.expires_at.isoformat(),
            "server_time": timezone.now().isoformat(),
        },
    }
    response = render(request, "portal/machine_code.html", context)
    response["Cache-Control"] = "no-store"
    return response


@login_required
@require_POST
def profile(request: HttpRequest, machine_id: int) -> HttpResponse:
    """The wish for a new profile; the worker makes it within a moment."""

    def ask(machine: Machine) -> str:
        request_profile(machine, user=_person(request))
        bell.ring()
        return ""

    return _do(request, machine_id, ask)


@login_required
@require_POST
def download(request: HttpRequest, machine_id: int) -> HttpResponse:
    """The profile as a file, for the first who asks."""
    machine = _machine(request, machine_id)
    try:
        found = builtin.download(machine, user=_person(request), address=peer_address(request.META))
    except FleetError as error:
        messages.error(request, str(error))
        return redirect("machine", machine.pk)
    response = HttpResponse(found.text, content_type=OVPN)
    response["Content-Disposition"] = f'attachment; filename="{machine.serial}.ovpn"'
    response["Cache-Control"] = "no-store"
    return response


@login_required
@require_POST
def freeze(request: HttpRequest, machine_id: int) -> HttpResponse:
    """Admits the machine nowhere, for a reason."""
    reason = _reason(request)

    def do(machine: Machine) -> str:
        if reason is None:
            raise FleetError("Say in a few words why it is to be frozen: up to 80 characters.")
        identities.freeze(machine, f"By {_person(request).display_name}: {reason}", user=_person(request))
        return f"{machine.serial} is frozen: it is admitted neither to the VPN nor to the API."

    return _do(request, machine_id, do)


@login_required
@require_POST
def unfreeze(request: HttpRequest, machine_id: int) -> HttpResponse:
    """Admits the machine again."""

    def do(machine: Machine) -> str:
        _require_supervisor(machine, request)
        identities.unfreeze(machine, _person(request))
        return f"{machine.serial} is admitted again."

    return _do(request, machine_id, do)


@login_required
@require_POST
def revoke(request: HttpRequest, machine_id: int, identity_id: int) -> HttpResponse:
    """Ends an identity of the machine for good."""
    reason = _reason(request)

    def do(machine: Machine) -> str:
        _require_supervisor(machine, request)
        found = VpnIdentity.objects.select_related("machine__fleet").defer("private_key", "tls_crypt_key")
        identity = found.filter(pk=identity_id, machine=machine).first()
        if identity is None:
            raise Http404("No such identity of this machine.")
        if reason is None:
            raise FleetError("Say in a few words why it is to be revoked: up to 80 characters.")
        identities.revoke(identity, reason=reason, user=_person(request))
        return "That identity is revoked: its tunnel ends within seconds, and it is never admitted again."

    return _do(request, machine_id, do)


@login_required
@require_safe
def alarms(request: HttpRequest) -> HttpResponse:
    """Which machines are frozen, for a page that stays open: it asks again and again."""
    response = render(request, "portal/alarms.html", alarm_context(_person(request)))
    add_never_cache_headers(response)
    return response


def alarm_context(user: User) -> dict[str, Any]:
    """Frozen machines that this person can unfreeze, the newest first: somebody has to look at them."""
    operator = selectors.operator_of(user)
    if operator is None or not operator.is_supervisor:
        return {"watches_alarms": False, "frozen": []}
    frozen = selectors.machines_for(user).filter(frozen_at__isnull=False).order_by("-frozen_at")
    return {"watches_alarms": True, "frozen": list(frozen[:FROZEN_SHOWN])}


def vpn_context(machine: Machine, user: User) -> dict[str, Any]:
    """What the VPN's part of the page is rendered from."""
    is_behind_vpn = has_vpn()
    return {
        "machine": machine,
        "has_vpn": is_behind_vpn,
        "vpn": standing_of(machine) if is_behind_vpn else None,
        "may_supervise": identities.may_unfreeze(machine, user),
        "kept_days": builtin.KEPT_FOR.days,
    }


def _do(request: HttpRequest, machine_id: int, do: Callable[[Machine], str]) -> HttpResponse:
    """Does it and goes back to the machine's page, which says what was done or why not."""
    machine = _machine(request, machine_id)
    try:
        words = do(machine)
    except FleetError as error:
        messages.error(request, str(error))
    else:
        if words:
            messages.success(request, words)
    return redirect("machine", machine.pk)


def _machine(request: HttpRequest, machine_id: int) -> Machine:
    found = selectors.machines_for(_person(request)).filter(pk=machine_id).first() if machine_id <= MAX_ID else None
    if found is None:
        raise Http404("No such machine in your fleets.")
    return found


def _require_supervisor(machine: Machine, request: HttpRequest) -> None:
    if not identities.may_unfreeze(machine, _person(request)):
        raise PermissionDenied("This is for a supervisor of the machine's fleet.")


def _reason(request: HttpRequest) -> str | None:
    form = ReasonForm(request.POST)
    return str(form.cleaned_data["reason"]) if form.is_valid() else None


def _person(request: HttpRequest) -> User:
    """The signed-in person; login_required has seen to that."""
    return cast(User, request.user)


def _qr(text: str) -> dict[str, str | int]:
    """A QR picture as the numbers of an SVG: `size` of its square with the quiet zone, `path` of its dark fields."""
    rows = list(segno.make(text, error="m", micro=False).matrix_iter(border=4))
    dark = [f"M{x} {y}h1v1h-1z" for y, row in enumerate(rows) for x, is_dark in enumerate(row) if is_dark]
    return {"size": len(rows), "path": "".join(dark)}
