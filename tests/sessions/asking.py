"""People with devices, a telemetry that says what the test wants, and what was asked of whom."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from webpush.models import SubscriptionInfo

from machines.models import Machine, User
from machines.telemetry.base import Candidate, Duty, TelemetryError
from notifications.models import Delivery, PushDevice
from sessions import selectors
from sessions.models import Asked, Escalation, SessionEvent, SupportSession
from sessions.worker import Asker
from tests.sessions.rescues import Clock, person

_numbers = itertools.count(1)


def device(user: User, name: str = "phone") -> PushDevice:
    """A browser of theirs that takes messages; nothing is sent in these tests."""
    endpoint = f"https://push.example/{next(_numbers)}"
    subscription = SubscriptionInfo.objects.create(browser="chrome", endpoint=endpoint, auth="a", p256dh="b")
    digest = hashlib.sha256(endpoint.encode()).hexdigest()
    return PushDevice.objects.create(user=user, subscription=subscription, endpoint_sha256=digest, name=name)


def reachable(name: str, **kwargs: str) -> User:
    """Somebody with a device."""
    user = person(name, **kwargs)
    if not PushDevice.objects.filter(user=user).exists():
        device(user)
    return user


class Telemetry:
    """Names whom the test says, in that order, and counts how often it is asked."""

    def __init__(self, *names: str) -> None:
        self.names: Sequence[str] = names
        self.next_at: datetime | None = None
        self.stood_in = ""
        self.asked = 0
        self.meanwhile: Callable[[], object] = lambda: None

    def __call__(self, machines: Sequence[Machine], *, now: datetime) -> dict[int, Duty]:
        self.asked += len(machines)
        self.meanwhile()
        candidates = tuple(Candidate(name, "on the rota here") for name in self.names)
        duty = Duty(candidates, "builtin", next_at=self.next_at, stood_in=self.stood_in)
        return {machine.pk: duty for machine in machines}


def asker(telemetry: Telemetry, clock: Clock, name: str = "asker") -> Asker:
    return Asker(name, now=clock, ask_all=telemetry)


def asked(session: SupportSession, round: int | None = None) -> list[str]:
    """Who was asked, in order; the last resort by its address."""
    rows = Asked.objects.filter(session=session).select_related("user")
    if round is not None:
        rows = rows.filter(round=round)
    return [row.user.username if row.user else row.address for row in rows]


def told(session: SupportSession, kind: str, *, state: str | None = None) -> list[str]:
    """Whom messages of a kind are for, each once, in order; those of one moment by name."""
    rows = (
        Delivery.objects.filter(subject=session.pk, kind=kind)
        .select_related("recipient")
        .order_by("created_at", "recipient__username")
    )
    if state is not None:
        rows = rows.filter(state=state)
    return list(dict.fromkeys(row.recipient.username if row.recipient else row.address for row in rows))


def send_all(clock: Clock, *, to: Iterable[str] = (), outcome: str = Delivery.State.SENT) -> None:
    """What the sender does with all that is pending, or with that to some people."""
    rows = Delivery.objects.filter(state=Delivery.State.PENDING)
    if to:
        rows = rows.filter(recipient__username__in=list(to))
    values: dict[str, Any] = {"sent_at": clock()} if outcome == Delivery.State.SENT else {}
    rows.update(state=outcome, ended_at=clock(), tries=1, **values)


def escalation(session: SupportSession) -> Escalation:
    return Escalation.objects.get(session=session)


def fresh(session: SupportSession) -> SupportSession:
    return SupportSession.objects.select_related("fleet", "machine__site", "operator", "escalation").get(pk=session.pk)


def kinds(session: SupportSession) -> list[str]:
    return list(SessionEvent.objects.filter(session=session).values_list("kind", flat=True))


def card_of(session: SupportSession, viewer: str = "Alice") -> dict[str, Any]:
    found = selectors.session_for(person(viewer), session.pk)
    assert found is not None
    return selectors.card(found, viewer=person(viewer))


class HangingTelemetry:
    """A driver that answers nobody until the test lets it go; for the setting TELEMETRY, by its path."""

    let_go = threading.Event()

    def who_is_responsible(self, machine: Machine, *, now: datetime) -> Duty:
        self.let_go.wait(100)
        raise TelemetryError("The telemetry was switched off.")
