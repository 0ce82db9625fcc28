"""What server-rendered pages say of a rescue; the same words as in static/js/words.js."""

from __future__ import annotations

from typing import Any

from django import template

from sessions.models import SupportSession
from sessions.states import EndReason

register = template.Library()

_ENDINGS: dict[str, str] = {
    EndReason.RESOLVED: "Resolved",
    EndReason.NOT_RESOLVED: "Not resolved",
    EndReason.CANCELLED: "Cancelled at the machine",
    EndReason.UNANSWERED: "Nobody answered",
    EndReason.MACHINE_UNREACHABLE: "Machine out of reach",
    EndReason.GATEWAY_FAILED: "No gateway",
    EndReason.CREDENTIALS_REFUSED: "Sign-in refused",
    EndReason.FORCED: "Ended by a supervisor",
    EndReason.MACHINE_WITHDRAWN: "Machine switched off",
}

_REVOCATIONS = {
    "superseded": "A newer one took its place",
    "replaced by an enrolment": "The machine was enrolled anew",
    "replaced by a newer profile": "A newer profile took its place",
}


@register.filter
def problem_words(session: SupportSession) -> str:
    """What the machine said is wrong; a press without a reason has words too."""
    if session.problem_text:
        return session.problem_text
    return f"Fault {session.problem_code}" if session.problem_code else "Help was pressed"


@register.filter
def ending_words(session: SupportSession) -> str:
    """How a rescue ended."""
    return _ENDINGS.get(session.end_reason or "", "Ended")


@register.filter
def duration_words(session: SupportSession) -> str:
    """From the press to the end: 45 s, 3 min, 2 h 5 min."""
    if session.closing_at is None:
        return "still open"
    return seconds_words(max(0, round((session.closing_at - session.requested_at).total_seconds())))


@register.filter
def seconds_words(seconds: int) -> str:
    """So many seconds: 45 s, 3 min, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


@register.filter
def fault_words(fault: Any) -> str:
    """A fault as the machine reported it: its own words, or the members of what it sent."""
    if isinstance(fault, dict):
        return " · ".join(str(value) for value in fault.values() if isinstance(value, (str, int, float)))
    return str(fault)


@register.filter
def revoke_words(reason: str) -> str:
    """Why an identity was revoked: our own reasons as sentences, people's as they wrote them."""
    return _REVOCATIONS.get(reason, reason[:1].upper() + reason[1:])
