"""kill -9 of the sender, in a process of its own: nothing is lost, at most one is doubled, and that one replaces the
first on the screen."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.db import transaction
from django.utils import timezone

from notifications import outbox
from notifications.models import Delivery
from tests.fakes.push_service import PushService
from tests.machines.authorisation.bed import database_url
from tests.notifications.posting import VAPID_PRIVATE_KEY, post, sending, subscribe
from tests.sessions.rescues import person
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

ROOT = Path(__file__).parents[2]


@contextmanager
def sender_process(where: str, push_service: PushService) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "DATABASE_URL": database_url(),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "VAPID_PRIVATE_KEY": VAPID_PRIVATE_KEY,
        "PUSH_SERVICES": push_service.origin,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.notifications.dying_sender", where, "dead:1:sender"], cwd=ROOT, env=environment
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def test_death_between_commit_and_send_loses_nothing(push_service: PushService) -> None:
    alice = person("Alice")
    phone, desk = push_service.browser(), push_service.browser()
    subscribe(alice, phone), subscribe(alice, desk, "desk")
    post(alice)
    with sender_process("leased", push_service) as process:
        assert process.wait(60) == 137
    assert push_service.pushes == []
    assert Delivery.objects.filter(state="pending", lease_owner="dead:1:sender", tries=1).count() == 2
    with transaction.atomic():
        outbox.release("dead:1")  # as the others of its computer do; elsewhere the lease runs out
    with sending():
        until(lambda: Delivery.objects.filter(state="sent").count() == 2, "both are sent")
    assert (len(phone.pushes), len(desk.pushes)) == (1, 1)


def test_death_between_send_and_commit_doubles_one_that_replaces_the_first(push_service: PushService) -> None:
    alice = person("Alice")
    phone = push_service.browser()
    subscribe(alice, phone)
    (row,) = post(alice)
    push_service.hold()
    with sender_process("never", push_service) as process:
        push_service.wait_for(1, timeout_s=60)
        process.kill()
        process.wait(60)
    push_service.let_go()
    row.refresh_from_db()
    assert (row.state, row.lease_owner, row.tries) == ("pending", "dead:1:sender", 1)
    # Nobody buries it: its lease runs out.
    Delivery.objects.update(lease_until=timezone.now())
    with sending():
        until(lambda: Delivery.objects.filter(state="sent").exists(), "it is sent")
    first, second = phone.pushes
    assert second.topic == first.topic
    assert second.payload == first.payload
