"""What people are told about a rescue outside its pages; the outbox brings it to them, the pages have the rest.

Each goes into the outbox in the transaction of what causes it. No message ever holds a login or a way in: its address
opens for those who may see the rescue anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from machines.models import User
from notifications import outbox
from notifications.models import Delivery
from sessions.models import SupportSession

ASKED, LAST_RESORT, TAKEN, HANDED_OVER, OVER, MISSED = (
    "asked", "last_resort", "taken", "handed_over", "over", "missed",
)  # fmt: skip

# What replaces a message on a screen is worth nothing later; a missed rescue is for the morning.
_REPLACEMENT_LIFE = timedelta(hours=1)
_HANDED_OVER_LIFE = timedelta(hours=1)
_MISSED_LIFE = timedelta(days=2)


def ask(session: SupportSession, people: Iterable[User], *, round: int, now: datetime) -> list[Delivery]:
    """Asks people to take the rescue. In the caller's transaction; asking again in the same round changes nothing."""
    message = _message(
        session, ASKED, title=_title(session), body=_where(session), expires_at=session.answer_due_at,
        actions=("claim", "open"),
    )  # fmt: skip
    return outbox.post(message, to=people, key=f"asked:{session.pk.hex}:{round}", now=now)


def ask_last_resort(session: SupportSession, *, round: int, now: datetime) -> list[Delivery]:
    """Tells the fleet's address of last resort that nobody has answered. In the caller's transaction."""
    body = f"Nobody has answered yet. {_where(session)}"
    message = _message(session, LAST_RESORT, title=_title(session), body=body, expires_at=session.answer_due_at)
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
        session, OVER, title=_title(session), body=f"It is over. {_where(session)}",
        expires_at=now + _REPLACEMENT_LIFE, is_silent=True, urgency="normal",
    )  # fmt: skip
    return outbox.withdraw(session.pk, now=now, replacement=message)


def tell_missed(session: SupportSession, supervisors: Iterable[User], *, now: datetime) -> list[Delivery]:
    """Tells supervisors of a rescue that nobody came to: by e-mail, and on their screens without a sound."""
    message = _message(
        session, MISSED, title=f"Nobody came: {session.machine.site.name}",
        body=f"{_where(session)}. Look at it, and mark it as looked at.", expires_at=now + _MISSED_LIFE,
        actions=("open",), is_silent=True, urgency="normal", tag="missed",
    )  # fmt: skip
    # Beside "It is over", which goes at the same moment: whichever comes last, neither takes this one's place.
    return outbox.post(message, to=supervisors, key=f"missed:{session.pk.hex}", now=now, channels=("web_push", "email"))


def tell_new_operator(session: SupportSession, to: User, *, by: User, now: datetime) -> list[Delivery]:
    """Tells somebody that a colleague gave them the rescue. In the transaction of the hand-over."""
    message = _message(
        session, HANDED_OVER, title=f"{by.display_name} gave you a rescue",
        body=f"{session.machine.site.name}: {_where(session)}", expires_at=now + _HANDED_OVER_LIFE, actions=("open",),
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


def _title(session: SupportSession) -> str:
    return f"Help at {session.machine.site.name}"


def _where(session: SupportSession) -> str:
    machine, site = session.machine, session.machine.site
    pressed_at = session.requested_at.astimezone(ZoneInfo(site.time_zone))
    parts = [f"{machine.serial}, {site.city}", session.problem_code, f"{pressed_at:%H:%M} there"]
    return " · ".join(part for part in parts if part)
