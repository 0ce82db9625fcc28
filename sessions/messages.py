"""What people are told about a rescue outside its pages; the outbox brings it to them, the pages have the rest.

Each goes into the outbox in the transaction of what causes it. No message ever holds a login or a way in: its address
opens for those who may see the rescue anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from machines.models import User
from notifications import outbox, wording
from notifications.models import Delivery
from sessions.models import SupportSession
from sessions.states import EndReason

ASKED, LAST_RESORT, TAKEN, HANDED_OVER, OVER, MISSED = (
    "asked", "last_resort", "taken", "handed_over", "over", "missed",
)  # fmt: skip

# What replaces a message on a screen is worth nothing later; a missed rescue is for the morning.
_REPLACEMENT_LIFE = timedelta(hours=1)
_HANDED_OVER_LIFE = timedelta(hours=1)
_MISSED_LIFE = timedelta(days=2)
# Of what the machine says is wrong; it may say 500, and where it is comes after.
_MAX_PROBLEM_CHARS = 80

_OVER_WORDS = {
    EndReason.UNANSWERED: "Nobody came in time.",
    EndReason.CANCELLED: "The person there no longer needs help.",
}


def ask(session: SupportSession, people: Iterable[User], *, round: int, now: datetime) -> list[Delivery]:
    """Asks people to take the rescue. In the caller's transaction; asking again in the same round changes nothing."""
    message = _message(
        session, ASKED, title=_title(session), body=f"{_where(session)}\n{_until(session)} Claim it if you can come.",
        expires_at=session.answer_due_at, actions=("claim", "open"),
    )  # fmt: skip
    return outbox.post(message, to=people, key=f"asked:{session.pk.hex}:{round}", now=now)


def ask_last_resort(session: SupportSession, *, round: int, now: datetime) -> list[Delivery]:
    """Tells the fleet's address of last resort that nobody has answered. In the caller's transaction.

    Who reads it may have no login: it has all that is needed for a call.
    """
    site = session.machine.site
    body = (
        f"{_where(session)}\n{', '.join(part for part in (site.name, site.address, site.city, site.country) if part)}\n"
        f"Nobody of {session.fleet.name} has answered yet. {_until(session)} "
        "Call the site, or somebody who can sign in and claim it:"
    )
    message = _message(
        session, LAST_RESORT, title=_title(session, "No answer yet at"), body=body, expires_at=session.answer_due_at
    )
    return outbox.post_to_address(
        message,
        email=session.fleet.last_resort_email,
        phone=session.fleet.last_resort_phone,
        key=f"last_resort:{session.pk.hex}:{round}",
        now=now,
    )


def withdraw_since_taken(session: SupportSession, *, now: datetime) -> int:
    """Takes back what was asked: somebody has the rescue. Their own screens stay as they are."""
    assert session.operator is not None
    who = session.operator.display_name
    message = _message(
        session, TAKEN, title=_title(session), body=f"{who} has it. {_where(session)}",
        expires_at=now + _REPLACEMENT_LIFE, is_silent=True, urgency="normal",
    )  # fmt: skip
    return outbox.withdraw(session.pk, now=now, replacement=message, keep=[session.operator.pk])


def withdraw_since_over(session: SupportSession, *, now: datetime) -> int:
    """Takes back whatever was said of a rescue that is over."""
    message = _message(
        session, OVER, title=_title(session), body=f"{_over(session)} {_where(session)}",
        expires_at=now + _REPLACEMENT_LIFE, is_silent=True, urgency="normal",
    )  # fmt: skip
    return outbox.withdraw(session.pk, now=now, replacement=message)


def tell_missed(session: SupportSession, supervisors: Iterable[User], *, now: datetime) -> list[Delivery]:
    """Tells supervisors of a rescue that nobody came to: by e-mail, and on their screens without a sound."""
    message = _message(
        session, MISSED, title=_title(session, "Nobody came to"),
        body=f"{_where(session)}. Look at it, and mark it as looked at.", expires_at=now + _MISSED_LIFE,
        actions=("open",), is_silent=True, urgency="normal", tag="missed",
    )  # fmt: skip
    # Beside "Nobody came in time", which goes at the same moment: whichever comes last, neither takes this one's place.
    return outbox.post(message, to=supervisors, key=f"missed:{session.pk.hex}", now=now, channels=("web_push", "email"))


def tell_new_operator(session: SupportSession, to: User, *, by: User, now: datetime) -> list[Delivery]:
    """Tells somebody that a colleague gave them the rescue. In the transaction of the hand-over."""
    message = _message(
        session, HANDED_OVER, title=f"{by.display_name} gave you a rescue",
        body=f"{_title(session)}\n{_where(session)}", expires_at=now + _HANDED_OVER_LIFE, actions=("open",),
    )  # fmt: skip
    # Each hand-over is one of its own: its moment tells them apart.
    return outbox.post(message, to=[to], key=f"handed_over:{session.pk.hex}:{now.timestamp():.6f}", now=now)


def _message(
    session: SupportSession,
    kind: str,
    *,
    title: str,
    body: str,
    expires_at: datetime,
    actions: tuple[str, ...] = (),
    urgency: str = "high",
    is_silent: bool = False,
    tag: str = "rescue",
) -> outbox.Message:
    return outbox.Message(
        kind=kind,
        title=title,
        body=body,
        url=f"/sessions/{session.pk}/",
        # The same for all that is said of a rescue while it is open: the newest takes the place of the one before.
        tag=f"{tag}-{session.pk.hex}",
        expires_at=expires_at,
        fleet=session.fleet,
        subject=session.pk,
        actions=actions,
        urgency=urgency,
        is_silent=is_silent,
    )


def _title(session: SupportSession, opening: str = "Help at") -> str:
    """Where, and what is wrong there as the ticket names it."""
    problem = _problem(session)
    return f"{opening} {session.machine.site.name}{f': {problem}' if problem else ''}"


def _problem(session: SupportSession) -> str:
    """The machine's words for it, else its code; empty for a press without a reason."""
    words = wording.shorten(wording.one_line(session.problem_text), max_chars=_MAX_PROBLEM_CHARS)
    return words or (f"Fault {session.problem_code}" if session.problem_code else "")


def _where(session: SupportSession) -> str:
    machine, site = session.machine, session.machine.site
    name = f"{machine.name} ({machine.serial})" if machine.name else machine.serial
    # Where there are no words for it the title has the code.
    code = session.problem_code if session.problem_text.strip() else ""
    parts = [f"{name}, {site.city}", code, f"{_there(session, session.requested_at)} there"]
    return " · ".join(part for part in parts if part)


def _until(session: SupportSession) -> str:
    return f"It waits until {_there(session, session.answer_due_at)} there."


def _over(session: SupportSession) -> str:
    return _OVER_WORDS.get(EndReason(session.end_reason), "It is over.") if session.end_reason else "It is over."


def _there(session: SupportSession, at: datetime) -> str:
    """A time of day by the clock at the machine."""
    return f"{at.astimezone(ZoneInfo(session.machine.site.time_zone)):%H:%M}"
