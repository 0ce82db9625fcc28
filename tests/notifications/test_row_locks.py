"""Claims and senders change the same rows at the same moment: none of them is broken off."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
import uuid
from collections.abc import Callable

import pytest
from django.db import connection, connections
from django.utils import timezone
from pytest_django.fixtures import Settings

from notifications import delivery_rows
from notifications.channels.base import lanes
from notifications.models import Delivery
from tests.fakes.push_service import Answer, Browser
from tests.notifications.posting import VAPID_PRIVATE_KEY, post, subscribe, withdraw
from tests.sessions.rescues import person
from tests.waiting import LONG_S

_LASTS_S = 3.0


@pytest.mark.django_db(transaction=True)
def test_claims_and_senders_meet_without_a_deadlock(settings: Settings) -> None:
    """Three senders and two who claim, over many devices; SQLite has one writer at a time and no deadlocks."""
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    settings.VAPID_PRIVATE_KEY, settings.PUSH_SERVICES = VAPID_PRIVATE_KEY, ["https://fcm.googleapis.com"]
    settings.NOTIFY_VIA = "direct"
    people = [person(f"Person{number}") for number in range(10)]
    for user in people:
        for number in range(6):
            subscribe(user, Browser(f"https://fcm.googleapis.com/{user.pk}/{number}", [], Answer()))
    ended = threading.Event()
    errors: list[str] = []
    subjects: queue.LifoQueue[uuid.UUID] = queue.LifoQueue()

    def send() -> None:
        owner, now = threading.current_thread().name, timezone.now()
        rows = delivery_rows.lease(lanes(), {"web_push": 64}, owner=owner, now=now)
        delivery_rows.settle([delivery_rows.Result(row) for row in rows], lanes(), owner=owner, now=now)

    def claim() -> None:
        with contextlib.suppress(queue.Empty):
            withdraw(subjects.get(timeout=0.05))

    def again_and_again(do: Callable[[], None]) -> None:
        try:
            while not ended.is_set():
                do()
        except Exception as error:
            errors.append(repr(error))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=again_and_again, args=(do,)) for do in (send, send, send, claim, claim)]
    for thread in threads:
        thread.start()
    begun = time.monotonic()
    try:
        while not errors and (time.monotonic() - begun < _LASTS_S or not have_met()):
            assert time.monotonic() - begun < LONG_S, "nothing was sent, or nothing that was sent was claimed"
            subject = uuid.uuid4()
            post(*people, subject=subject)
            subjects.put(subject)
    finally:
        ended.set()
        for thread in threads:
            thread.join(LONG_S)
    assert not any(thread.is_alive() for thread in threads)
    assert errors == []


def have_met() -> bool:
    return Delivery.objects.filter(state="sent").exists() and Delivery.objects.filter(is_silent=True).exists()
