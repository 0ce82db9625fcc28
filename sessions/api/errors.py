"""How the support services' errors read over HTTP. Import it wherever a view calls such a service."""

from __future__ import annotations

from typing import Any

from machines.api.problems import Problem, problem_of
from machines.models import User
from sessions.errors import AlreadyClaimed, NotAllowed, SessionClosed, SupportError


@problem_of.register
def _(error: SupportError) -> Problem:
    # A conflict with what is there already, unless a narrower error says otherwise.
    return Problem(409, error.code, str(error))


@problem_of.register
def _(error: NotAllowed) -> Problem:
    return Problem(403, error.code, str(error))


@problem_of.register
def _(error: AlreadyClaimed) -> Problem:
    session = error.session
    return Problem(409, error.code, str(error), operator=_person(session.operator), claimed_at=_iso(session.claimed_at))


@problem_of.register
def _(error: SessionClosed) -> Problem:
    session = error.session
    return Problem(
        409,
        error.code,
        str(error),
        closed_at=_iso(session.closing_at or session.closed_at),
        closed_by=_person(session.closed_by),
        end_reason=session.end_reason,
    )


def _person(user: User | None) -> dict[str, Any] | None:
    return {"id": user.pk, "name": user.display_name} if user else None


def _iso(at: Any) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
