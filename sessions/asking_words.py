"""What people read about who is asked to take a rescue, and from when somebody will be there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from sessions.models import Rung

NOBODY = "Nobody is on duty at this moment."
# For the person at the machine, where no message can go to anybody who might come.
UNTOLD = (
    "Your request is here, but nobody can be called to it just now. Whoever looks at their screen next will see it."
)
UNANSWERED = "Nobody has answered yet."
_MOST_NAMED = 5


def for_machine(next_duty_at: datetime | None, *, time_zone: str, now: datetime, opening: str) -> str:
    """For the person at a machine that nobody is left to ask about: from when somebody will look, by the clock there.

    `opening` says why: NOBODY, or UNANSWERED.
    """
    if next_duty_at is None or next_duty_at <= now:
        return f"{opening} Your request is kept, and somebody will look at this machine."
    return f"{opening} Somebody will look at this machine from {moment(next_duty_at, time_zone=time_zone, now=now)}."


def nobody(next_duty_at: datetime | None, *, time_zone: str, now: datetime) -> str:
    """The same for those who look after the machine."""
    if next_duty_at is None or next_duty_at <= now:
        return f"{NOBODY} There is nobody to ask."
    return f"{NOBODY} Somebody will be from {moment(next_duty_at, time_zone=time_zone, now=now)}, by the clock there."


def moment(at: datetime, *, time_zone: str, now: datetime) -> str:
    """A moment to come as people there say it: 07:00, tomorrow 07:00, Monday 07:00, 3 December 07:00."""
    there, today = at.astimezone(ZoneInfo(time_zone)), now.astimezone(ZoneInfo(time_zone)).date()
    if there.date() == today:
        return f"{there:%H:%M}"
    if there.date() == today + timedelta(days=1):
        return f"tomorrow {there:%H:%M}"
    if there.date() < today + timedelta(days=7):
        return f"{there:%A %H:%M}"
    return f"{there.day} {there:%B %H:%M}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: Alice, Bob and Carol; of many the first few."""
    shown = list(names[:_MOST_NAMED])
    if len(names) > _MOST_NAMED:
        shown.append(f"{len(names) - _MOST_NAMED} more")
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else "".join(shown)


def progress(asked: Sequence[str], *, following: str) -> str:
    """Who was asked so far, and who is next (empty: nobody): Alice was asked; Bob is next."""
    if not asked:
        return ""
    verb = "were" if len(asked) > 1 else "was"
    said = listed(asked)
    if asked[0] == LAST_RESORT:
        said = said[0].upper() + said[1:]
    return f"{said} {verb} asked{_and_next(following)}."


def failed(asked: Sequence[str], *, following: str) -> str:
    """The same where none of what was sent to them has arrived, and nothing of it is on its way any more."""
    return f"No message got through to {listed(asked)}{_and_next(following)}."


def unreached(names: Sequence[str]) -> str:
    """Those who were to be asked, when there is no way to tell any of them."""
    return f"No message could be sent to {listed(names)}: they have no device, and no e-mail or SMS goes out to them."


def _and_next(following: str) -> str:
    return f"; {following} {'are' if following == SUPERVISORS else 'is'} next" if following else ""


SUPERVISORS = "the supervisors"
LAST_RESORT = "the address of last resort"
# Whom a rung is called when no name is known yet.
RUNG_NAMES = {Rung.SUPERVISORS: SUPERVISORS, Rung.LAST_RESORT: LAST_RESORT}


def event_sentence(kind: str, detail: Mapping[str, Any], *, at: datetime) -> str:
    """An event of the asking in words; empty for one of another kind."""
    names = [str(name) for name in detail.get("names", [])]
    match kind:
        case "asked":
            why = f": {detail['why']}" if detail.get("why") else ""
            return f"{listed(names)} was asked{why}."
        case "supervisors_asked":
            return f"The supervisors were asked: {listed(names)}."
        case "not_reached":
            return unreached(names)
        case "last_resort_asked":
            if detail.get("is_told") is False:
                return "The address of last resort could not be told: no e-mail or SMS goes out from here."
            return "The address of last resort was told that nobody has answered."
        case "telemetry_stood_in":
            return str(detail.get("detail", ""))
        case "nobody_asked":
            since = detail.get("next_duty_at")
            next_duty_at = datetime.fromisoformat(since) if since else None
            return nobody(next_duty_at, time_zone=detail.get("time_zone", "UTC"), now=at)
        case "missed":
            return "It ended without anybody having come. The supervisors find it among the missed ones."
    return ""
