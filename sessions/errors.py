"""What the support services raise; `code` is what a program branches on, the text is what a person reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessions.models import SupportSession


class SupportError(Exception):
    """Base of this app's errors."""

    code = "support_error"


class StateConflict(SupportError):
    """Somebody else got there first: the session is no longer in the state it was read in."""

    code = "state_conflict"


class AlreadyClaimed(SupportError):
    """Another operator has this session; `session` is as it is now."""

    code = "already_claimed"

    def __init__(self, session: SupportSession) -> None:
        who = session.operator.display_name if session.operator else "Another operator"
        super().__init__(f"{who} has already claimed this rescue. You can watch.")
        self.session = session


class SessionClosed(SupportError):
    """The session is closing or closed; `session` is as it is now."""

    code = "session_closed"

    def __init__(self, session: SupportSession) -> None:
        who = session.closed_by.display_name if session.closed_by else "the system"
        at = session.closing_at or session.closed_at
        when = f" at {at:%H:%M} UTC" if at else ""
        super().__init__(f"This rescue was closed by {who}{when}. A new one begins when help is pressed again.")
        self.session = session


class NotAllowed(SupportError):
    """The person may see the session but not do this with it."""

    code = "not_allowed"


class IdempotencyConflict(SupportError):
    """The idempotency key was used before, with another body."""

    code = "idempotency_conflict"


class NotMissed(SupportError):
    """The rescue was not missed: somebody came, or it is still open."""

    code = "not_missed"


class TicketRefused(SupportError):
    """A tunnel ticket is unknown, used, expired, or not this person's."""

    code = "ticket_refused"
