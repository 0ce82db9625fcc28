"""What reads rescues, always within the fleets of the asking person; a card is the shape pages and the API share."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, QuerySet

from machines import selectors as fleet_selectors
from machines.models import Fleet, Operator, User
from machines.passages import Passage
from sessions import asking_selectors, words
from sessions.models import Attachment, Gateway, GuacamoleConnection, SupportSession
from sessions.states import LIVE_GATEWAY_STATES, OPEN_STATES

CAUSES = [
    "Worn or jammed part",
    "Needs cleaning",
    "Out of supplies",
    "Wrong setting",
    "Payment terminal",
    "Network",
    "Software",
]
FIXES = [
    "Restarted it",
    "Ran a cleaning cycle",
    "Changed a setting",
    "Cleared the fault",
    "Guided the person there",
    "Visit planned",
]


def sessions_for(user: User) -> QuerySet[SupportSession]:
    """The rescues of the person's fleets, with all that a card needs, newest first."""
    return (
        SupportSession.objects.filter(fleet__in=fleet_selectors.fleets_of(user))
        .select_related(
            "machine__site", "machine__model", "fleet", "operator", "closed_by", "escalation__missed_looked_by"
        )
        .prefetch_related(
            asking_selectors.ASKED_NOW,
            Prefetch(
                "attachments",
                queryset=Attachment.objects.filter(attached_at__isnull=False, detached_at=None)
                .select_related("user")
                .order_by("attached_at"),
                to_attr="present",
            ),
            Prefetch("gateways", queryset=Gateway.objects.filter(state__in=[s.value for s in LIVE_GATEWAY_STATES])),
            Prefetch("connections", queryset=GuacamoleConnection.objects.filter(closed_at=None).defer("connection_id")),
        )
    )


def open_sessions_for(user: User) -> QuerySet[SupportSession]:
    """What is open in the person's fleets, the longest waiting first."""
    return sessions_for(user).filter(state__in=[s.value for s in OPEN_STATES]).order_by("requested_at")


def missed_sessions_for(user: User) -> QuerySet[SupportSession]:
    """The rescues that nobody came to and no supervisor has looked at yet, the newest first; for supervisors alone."""
    missed = sessions_for(user).filter(escalation__missed_at__isnull=False, escalation__missed_looked_at=None)
    operator = fleet_selectors.operator_of(user)
    return missed if operator and operator.is_supervisor else missed.none()


def session_for(user: User, session_id: UUID | str) -> SupportSession | None:
    """One rescue, or None if there is none or it belongs to a fleet the person does not work for."""
    return sessions_for(user).filter(pk=session_id).first()


def session_to_change(user: User, session_id: UUID | str) -> SupportSession | None:
    """As `session_for`, without what only a card needs: for calls that change it and read it again to answer."""
    return sessions_for(user).prefetch_related(None).filter(pk=session_id).first()


def card(session: SupportSession, *, viewer: User) -> dict[str, Any]:
    """One rescue as `viewer` may see it; JSON values only. `session` comes from `sessions_for`."""
    return cards([session], viewer=viewer)[0]


def cards(sessions: Iterable[SupportSession], *, viewer: User) -> list[dict[str, Any]]:
    """Several cards, the viewer looked up once."""
    operator = fleet_selectors.operator_of(viewer)
    sessions = list(sessions)
    standings = asking_selectors.standings(sessions)
    return [_card(session, viewer, operator, standings.get(session.pk, {})) for session in sessions]


def may(session: SupportSession, *, user: User, operator: Operator | None) -> list[str]:
    """What this person may do with this rescue now, as the services would allow it."""
    if operator is None or not session.is_open:
        return []
    mine = session.operator_id == user.pk
    allowed = ["watch"]
    if session.operator_id is None:
        allowed.append("claim")
    if mine:
        allowed.append("control")
    if (mine or operator.is_supervisor) and session.operator_id is not None:
        allowed += ["release", "handover"]
    if mine or operator.is_supervisor:
        allowed.append("close")
    if operator.is_supervisor and not mine and session.operator_id is not None:
        allowed.append("take_over")
    return allowed


def timeline(session: SupportSession) -> list[dict[str, Any]]:
    """The trail of a rescue in words, oldest first."""
    return [
        {
            "at": _iso(event.at),
            "kind": event.kind,
            "sentence": words.event_sentence(event),
            "actor": event.user.display_name if event.user else event.get_actor_display(),
        }
        for event in session.events.select_related("user")
    ]


def suggestions(fleets: Iterable[Fleet]) -> dict[str, list[str]]:
    """Causes and fixes to choose from: those used most in these fleets lately, then the built-in ones."""
    recent = SupportSession.objects.filter(fleet__in=list(fleets), state="closed").order_by("-closed_at")
    rows = list(recent.values_list("cause", "fix")[:500])
    return {
        "causes": _most_used((cause for cause, _ in rows), CAUSES),
        "fixes": _most_used((fix for _, fix in rows), FIXES),
    }


def request_document(session: SupportSession) -> dict[str, Any]:
    """A support request as its own machine sees it; never a credential."""
    return {
        "id": str(session.pk),
        "version": session.version,
        "state": session.state,
        "end_reason": session.end_reason,
        "message": words.message_for_machine(session),
        "operator_name": (session.operator.first_name or session.operator.display_name) if session.operator else None,
        "created_at": _iso(session.requested_at),
        "updated_at": _iso(session.updated_at),
    }


def passages() -> list[Passage]:
    """Which gateway may reach which machine now: the live gateways of open rescues, each its machine's RDP port.

    What has neither a user nor an address that the VPN's firewall can know gets none, and reaches nothing.
    """
    rows = Gateway.objects.filter(
        state__in=[s.value for s in LIVE_GATEWAY_STATES], session__state__in=[s.value for s in OPEN_STATES]
    ).values_list("handle", "host", "session__machine__vpn_address", "session__credential__port")
    found = []
    for handle, host, machine_address, port in rows:
        # One with an address in the VPN comes from there, whatever its host is.
        source = f"uid:{handle['uid']}" if "uid" in handle else str(handle.get("vpn_address", host))
        # A gateway on loopback that somebody else runs, by a host's name, or one that is not there yet.
        with contextlib.suppress(ValueError):
            found.append(Passage(source, machine_address, port or 3389))
    return found


def live_attempts() -> list[str]:
    """The attempts at gateways that may have an identity in the VPN, by the names that drivers know them by."""
    live = Gateway.objects.filter(state__in=[s.value for s in LIVE_GATEWAY_STATES]).order_by()
    return [str(attempt) for attempt in live.values_list("pk", flat=True)]


def _card(
    session: SupportSession, viewer: User, operator: Operator | None, standing: asking_selectors.Standing
) -> dict[str, Any]:
    machine, site = session.machine, session.machine.site
    present = getattr(session, "present", None)
    if present is None:
        present = session.attachments.filter(attached_at__isnull=False, detached_at=None).select_related("user")
    held = [connection for connection in session.connections.all() if connection.closed_at is None]
    return {
        "id": str(session.pk),
        "version": session.version,
        "state": session.state,
        "state_label": words.state_label(session),
        "end_reason": session.end_reason,
        "sentence": words.sentence(session),
        "machine": {"id": machine.pk, "serial": machine.serial, "name": machine.name, "model": machine.model.name},
        "site": {
            "id": site.pk, "name": site.name, "city": site.city, "country": site.country, "time_zone": site.time_zone,
        },
        "fleet": {"id": session.fleet_id, "name": session.fleet.name},
        "problem": {"code": session.problem_code, "text": session.problem_text},
        "operator": _person(session.operator),
        "requested_at": _iso(session.requested_at),
        "claimed_at": _iso(session.claimed_at),
        "ready_at": _iso(session.ready_at),
        "closing_at": _iso(session.closing_at),
        "closed_at": _iso(session.closed_at),
        "updated_at": _iso(session.updated_at),
        "attached": [
            {"id": a.user_id, "name": a.user.display_name, "role": a.role, "since": _iso(a.attached_at)}
            for a in present
        ],
        "desktop": bool(held),
        "clipboard": {
            "copy": all(connection.parameters.get("disable-copy") != "true" for connection in held),
            "paste": all(connection.parameters.get("disable-paste") != "true" for connection in held),
        },
        "attempt": session.attempts,
        "notice": session.notice,
        "cause": session.cause,
        "fix": session.fix,
        "note": session.note,
        "closed_by": _person(session.closed_by),
        "asking": asking_selectors.asking(session, standing),
        "missed": asking_selectors.missed(session),
        "may": may(session, user=viewer, operator=operator),
    }  # fmt: skip


def _person(user: User | None) -> dict[str, Any] | None:
    return {"id": user.pk, "name": user.display_name} if user else None


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _most_used(used: Iterable[str], built_in: list[str]) -> list[str]:
    counted = Counter(text for text in used if text)
    return list(dict.fromkeys([*(text for text, _ in counted.most_common(8)), *built_in]))[:12]
