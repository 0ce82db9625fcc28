"""Presses of the help button: which rescue a press is for, and how one that arrives twice is told from a new one.

Every press is kept with its key, whether it made a rescue or found one open: only so can a late copy of it be known
for what it is. A session's own row is written by services.py alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import datetime

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from machines.models import Machine
from sessions import services
from sessions.errors import IdempotencyConflict, StateConflict
from sessions.models import OPEN_STATES, Press, SupportSession
from sessions.services import RdpLogin

# Each try but the last is lost to somebody else's commit: another press, or the end of the rescue that was found.
_TRIES = 5


def request_support(
    machine: Machine,
    *,
    login: RdpLogin,
    idempotency_key: str,
    problem_code: str = "",
    problem_text: str = "",
    now: datetime | None = None,
) -> tuple[SupportSession, bool]:
    """The session for a press, and whether this press made it.

    A key seen before, with the same body, gives the same session, closed or not, and changes nothing: the network may
    deliver an old press when its login is worthless. With another body it raises IdempotencyConflict.
    A new key while a session is open gives that one, and its login replaces the old: a restarted agent has made that
    one worthless. Presses at the same moment make one session; StateConflict if it kept changing meanwhile.
    """
    now = now or timezone.now()
    digest = _digest(login, problem_code, problem_text)
    for _ in range(_TRIES):
        replayed = _replayed(machine, idempotency_key, digest)
        if replayed is not None:
            return replayed, False
        try:
            with transaction.atomic():
                found = _open_session(machine)
                if found is None:
                    session = services.begin(
                        machine, login=login, problem_code=problem_code, problem_text=problem_text, now=now
                    )
                else:
                    session = services.renew_login(found, login, now=now)
                Press.objects.create(
                    machine=machine, idempotency_key=idempotency_key, request_digest=digest, session=session, at=now
                )
        except (IntegrityError, StateConflict):
            continue  # another press was faster, or the rescue found has ended: see what there is now
        return session, found is None
    raise StateConflict(f"Machine {machine.serial} pressed several times at once. Try again.")


def _replayed(machine: Machine, idempotency_key: str, digest: str) -> SupportSession | None:
    press = (
        Press.objects.select_related(
            "session__machine__site", "session__fleet", "session__operator", "session__escalation"
        )
        .filter(machine=machine, idempotency_key=idempotency_key)
        .first()
    )
    if press is None:
        return None
    if not hmac.compare_digest(press.request_digest, digest):
        raise IdempotencyConflict(
            "This Idempotency-Key was used before with another body. Send the same body, or a new key."
        )
    return press.session


def _open_session(machine: Machine) -> SupportSession | None:
    return (
        SupportSession.objects.select_related("machine__site", "fleet", "operator", "escalation")
        .filter(machine=machine, state__in=OPEN_STATES)
        .first()
    )


def _digest(login: RdpLogin, problem_code: str, problem_text: str) -> str:
    """Keyed, so that the stored digest of a body gives nobody a way to try passwords."""
    body = json.dumps(
        [login.username, login.password, login.port, login.domain, login.security, problem_code, problem_text]
    )
    return hmac.new(settings.SECRET_KEY.encode(), body.encode(), hashlib.sha256).hexdigest()
