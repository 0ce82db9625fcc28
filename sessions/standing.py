"""Whether a person may still be where a WebSocket let them in: logins end, rights go, rescues close (T8).

A handshake is checked once, but a WebSocket lives for hours. These look at the database again, as a request would.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from uuid import UUID

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.utils.crypto import constant_time_compare

from machines import selectors as fleet_selectors
from machines.models import User
from sessions import words
from sessions.guacamole import Role, Status
from sessions.models import GuacamoleConnection, SupportSession


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a tunnel ends: the protocol's status, and the sentence that the operator reads."""

    status: Status
    sentence: str


LOST = Ending(Status.UPSTREAM_NOT_FOUND, "The machine's screen went away. It is being brought back.")
_SIGNED_OUT = Ending(Status.CLIENT_UNAUTHORIZED, "You are signed out. Sign in again to go on.")
_NOT_YOURS = Ending(Status.CLIENT_UNAUTHORIZED, "You no longer work for this machine's fleet.")
_SWITCHED_OFF = Ending(Status.CLIENT_UNAUTHORIZED, "This machine was switched off for remote help by a manager.")


def person_of(login_key: str | None) -> User | None:
    """The active person whose login this still is: not ended, not expired, the password not changed since."""
    if not login_key:
        return None
    login = import_module(settings.SESSION_ENGINE).SessionStore(login_key).load()
    user = User.objects.filter(pk=login.get(SESSION_KEY), is_active=True).first()
    if user is None:
        return None
    kept = str(login.get(HASH_SESSION_KEY, ""))
    hashes = [user.get_session_auth_hash(), *user.get_session_auth_fallback_hash()]
    return user if any(constant_time_compare(kept, current) for current in hashes) else None


def tunnel_ending(
    *, login_key: str | None, user_id: int, session_id: UUID, role: Role, connection: int | None
) -> Ending | None:
    """Why this tunnel must end now, or None. `connection` is the GuacamoleConnection it has joined."""
    user = person_of(login_key)
    if user is None or user.pk != user_id:
        return _SIGNED_OUT
    session = SupportSession.objects.select_related("machine", "fleet", "operator", "closed_by").get(pk=session_id)
    if not fleet_selectors.fleets_of(user).filter(pk=session.fleet_id).exists():
        return _NOT_YOURS
    if not session.is_open:
        return Ending(Status.SESSION_CLOSED, words.sentence(session))
    if not session.machine.is_active:
        return _SWITCHED_OFF
    if role is Role.CONTROLLER and session.operator_id != user.pk:
        who = session.operator.display_name if session.operator else "Nobody"
        return Ending(Status.SESSION_CONFLICT, f"{who} has this rescue now. You can watch.")
    if connection is not None and not GuacamoleConnection.objects.filter(pk=connection, closed_at=None).exists():
        return LOST
    return None
