"""Messages as tests post them, browsers as they subscribe, and senders as they run."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.db import transaction
from django.utils import timezone

from machines.models import User
from notifications import bell, outbox, subscriptions
from notifications.models import Delivery, PushDevice
from notifications.sender import Sender
from tests.fakes.push_service import Browser, encode
from tests.waiting import LONG_S

_KEY = ec.generate_private_key(ec.SECP256R1())
VAPID_PRIVATE_KEY = encode(_KEY.private_numbers().private_value.to_bytes(32, "big"))
VAPID_PUBLIC_KEY = encode(_KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def message(subject: uuid.UUID | None = None, **changes: Any) -> outbox.Message:
    subject = subject or uuid.uuid4()
    asked = outbox.Message(
        kind="asked",
        title="Help at Stazione Centrale",
        body="A1, Milano · E17 · 07:40 there",
        url=f"/sessions/{subject}/",
        tag=f"rescue-{subject.hex}",
        expires_at=timezone.now() + timedelta(minutes=10),
        fleet=None,
        subject=subject,
        actions=("claim", "open"),
    )
    return replace(asked, **changes)


def post(*people: User, key: str = "", now: datetime | None = None, **changes: Any) -> list[Delivery]:
    with transaction.atomic():
        return outbox.post(message(**changes), to=people, key=key or uuid.uuid4().hex, now=now or timezone.now())


def withdraw(subject: uuid.UUID, *, keep: tuple[int, ...] = (), words: str = "Bob has it.") -> int:
    silent = message(subject, kind="taken", title=words, body="", actions=(), is_silent=True)
    with transaction.atomic():
        return outbox.withdraw(subject, now=timezone.now(), replacement=silent, keep=keep)


def subscribe(user: User, browser: Browser, name: str = "phone") -> PushDevice:
    return subscriptions.subscribe(user, **browser.subscription, browser="Chrome", user_agent="Tests", name=name)


@contextmanager
def sending(name: str = "tests:1", **how: Any) -> Iterator[Sender]:
    """A sender at work; on leaving it has written everything down."""
    sender, stop = Sender(name, **how), threading.Event()
    thread = threading.Thread(target=sender.run_for_ever, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield sender
    finally:
        stop.set()
        bell.ring()
        # What it began for SNS, too: it would write into the next test's database.
        for one in [thread, *(one for one in threading.enumerate() if one.name.startswith("sns "))]:
            one.join(2 * LONG_S)
            assert not one.is_alive(), one.name
