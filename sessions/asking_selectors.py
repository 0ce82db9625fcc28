"""What a card says of the asking: who was asked, how far that has got, who is next; and of a missed rescue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from django.db.models import F, Prefetch
from django.utils import timezone

from machines.models import User
from notifications.models import Delivery
from sessions import asking_words, messages
from sessions.models import Asked, Escalation, Rung, SupportSession

# How far the messages to each person have got; None stands for the address of last resort.
Standing = Mapping[int | None, str]

_RANKS = ("none", "failed", "trying", "reached")
_STANDING_OF = {
    Delivery.State.SENT: "reached",
    Delivery.State.PENDING: "trying",
    Delivery.State.FAILED: "failed",
    Delivery.State.EXPIRED: "failed",
}

# Those of the round that runs, as `session.asked_now`.
ASKED_NOW = Prefetch(
    "asked",
    queryset=Asked.objects.filter(round=F("session__escalation__round")).select_related("user"),
    to_attr="asked_now",
)


def standings(sessions: Iterable[SupportSession]) -> dict[UUID, dict[int | None, str]]:
    """How far the messages of the round that runs have got, by rescue and person; in one query for all, or none.

    `reached`: one has arrived over some channel. `trying`, `failed`; `none`: there is no way to send one.
    """
    began = {session.pk: session.escalation.began_at for session in sessions if _is_told(session)}
    found: dict[UUID, dict[int | None, str]] = {subject: {} for subject in began}
    if not began:
        return found
    rows = Delivery.objects.filter(subject__in=began, kind__in=[messages.ASKED, messages.LAST_RESORT])
    for subject, recipient, state, at in rows.values_list("subject", "recipient_id", "state", "created_at"):
        if subject is not None and at >= began[subject]:
            of = found[subject]
            standing = _STANDING_OF.get(Delivery.State(state), "none")
            of[recipient] = max(of.get(recipient, "none"), standing, key=_RANKS.index)
    return found


def asking(session: SupportSession, standing: Standing) -> dict[str, Any] | None:
    """Who is asked to take a rescue that waits, or was for one that nobody came to; None for all others."""
    if not _is_told(session):
        return None
    row: Escalation = session.escalation
    asked = _asked(session)
    return {
        "sentence": _sentence(session, row, asked, standing),
        "people": [
            {
                "id": one.user_id,
                "name": _name(one),
                "at": one.at.isoformat(),
                "rung": one.rung,
                "reached": standing.get(one.user_id, "none"),
            }
            for one in asked
        ],
        "next": _following(row, asked) if session.is_open and row.next_at else "",
        "next_at": row.next_at.isoformat() if row.next_at and session.is_open else None,
        "stood_in": row.stood_in,
    }


def missed(session: SupportSession) -> dict[str, Any] | None:
    """That nobody came, and which supervisor has looked at it; None where that is not so."""
    row: Escalation | None = getattr(session, "escalation", None)
    if row is None or row.missed_at is None:
        return None
    by = row.missed_looked_by
    return {
        "at": row.missed_at.isoformat(),
        "looked_at": row.missed_looked_at.isoformat() if row.missed_looked_at else None,
        "looked_by": {"id": by.pk, "name": by.display_name} if by else None,
    }


def _is_told(session: SupportSession) -> bool:
    row: Escalation | None = getattr(session, "escalation", None)
    if row is None or row.duty_at is None:
        return False
    return row.missed_at is not None or (session.is_open and session.operator_id is None and row.settled_as == "")


def _asked(session: SupportSession) -> list[Asked]:
    now: list[Asked] | None = getattr(session, "asked_now", None)
    if now is None:
        now = list(session.asked.filter(round=session.escalation.round).select_related("user"))
    return now


def _sentence(session: SupportSession, row: Escalation, asked: list[Asked], standing: Standing) -> str:
    tried = [one for one in asked if one.is_reachable]
    # Who has got nothing was not asked, whatever was meant for them.
    names = [_name(one) for one in tried if standing.get(one.user_id) != "failed"]
    people = [_name(one) for one in asked if one.user]
    following = _following(row, asked) if session.is_open else ""
    so_far = asking_words.progress(names, following=following)
    if tried and not names:
        so_far = asking_words.failed([_name(one) for one in tried], following=following)
    elif people and not names:
        so_far = asking_words.unreached(people)
    if not session.is_open:
        return f"{so_far} Nobody came.".strip()
    if row.nobody_at is not None or not so_far:
        zone = session.machine.site.time_zone
        return asking_words.nobody(row.next_duty_at, time_zone=zone, now=timezone.now())
    return so_far


def _following(row: Escalation, asked: list[Asked]) -> str:
    """Who is next, in words; empty: nobody."""
    if row.rung == Rung.OPERATORS:
        already = {one.user.get_username() for one in asked if one.user}
        names = [str(one.get("name", "")) for one in row.duty if one.get("username") not in already]
        if names:
            return names[0]
    return asking_words.RUNG_NAMES.get(Rung(row.rung), asking_words.SUPERVISORS if row.rung != Rung.DONE else "")


def _name(one: Asked) -> str:
    user: User | None = one.user
    return user.display_name if user else asking_words.LAST_RESORT
