"""What server-rendered pages say of a rescue; the same words as in static/js/words.js."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from django import template
from django.utils import timezone

from machines.models import Operator
from machines.own_rota import DAYS, Turn
from machines.rota_rows import zone_of
from portal import message_words
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


@register.filter
def moment_words(at: datetime, now: datetime | None = None) -> str:
    """A moment by the clock of the time zone in force: 18:00, tomorrow 07:00, Monday 07:00, 3 December 07:00."""
    there, here = timezone.localtime(at), timezone.localtime(now)
    days = (there.date() - here.date()).days
    if days == 0:
        return f"{there:%H:%M}"
    if days in {-1, 1}:
        return f"{'tomorrow' if days == 1 else 'yesterday'} {there:%H:%M}"
    if 1 < days < 7:
        return f"{there:%A %H:%M}"
    return f"{there.day} {there:%B}{'' if there.year == here.year else f' {there.year}'} {there:%H:%M}"


@register.filter
def away_words(operator: Operator | str) -> str:
    """What somebody's own switch says, by their own clock: "Away", "Away until 18:00"; empty: available, or nobody."""
    now = timezone.now()
    if (
        not isinstance(operator, Operator)
        or operator.is_available
        or (operator.away_until is not None and operator.away_until <= now)
    ):
        return ""
    if operator.away_until is None:
        return "Away"
    with timezone.override(zone_of(operator.time_zone)):
        return f"Away until {moment_words(operator.away_until, now)}"


@register.filter
def days_words(turns: Sequence[Turn]) -> str:
    """The days on which turns begin, by their own clock: Every day; Mon 24 to Fri 28 Nov; Mon 24, Wed 26 Nov."""
    days = sorted({turn.starts.date() for turn in turns})
    if len(days) >= DAYS:
        return "Every day"
    shown = [f"{day:%a} {day.day}" for day in days]
    months = [f"{day:%b}" for day in days]
    if len(days) > 2 and (days[-1] - days[0]).days == len(days) - 1:
        first = shown[0] if months[0] == months[-1] else f"{shown[0]} {months[0]}"
        return f"{first} to {shown[-1]} {months[-1]}"
    following = [*months[1:], ""]
    return ", ".join(
        day if month == after else f"{day} {month}" for day, month, after in zip(shown, months, following, strict=True)
    )


@register.filter
def hours_words(turn: Turn) -> str:
    """From when until when, by the turn's own clock: 08:00–18:00, all day, 24 hours from 08:00."""
    starts, ends = f"{turn.starts:%H:%M}", f"{turn.ends:%H:%M}"
    if starts != ends:
        return f"{starts}–{ends}"
    return "all day" if starts == "00:00" else f"24 hours from {starts}"


@register.filter
def hours_here(turn: Turn) -> str:
    """The same by the clock of the time zone in force; empty where both clocks agree."""
    starts, ends = timezone.localtime(turn.starts), timezone.localtime(turn.ends)
    if starts.utcoffset() == turn.starts.utcoffset():
        return ""
    return f"{starts:%H:%M}–{ends:%H:%M}"


register.filter("told_kind", message_words.kind_words)
register.filter("told_state", message_words.state_words)
register.filter("told_name", message_words.name_of)
register.filter("told_way", message_words.way_of)
register.filter("told_advice", message_words.advice)
