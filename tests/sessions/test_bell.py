"""Which changes wake worker and keeper at once."""

from __future__ import annotations

import asyncio
from unittest.mock import Mock

import pytest
from django.utils import timezone

from sessions import attachments, bell, services
from sessions.models import SupportSession
from sessions.states import EndReason, State
from tests.sessions.rescues import person, press

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def held() -> SupportSession:
    """A rescue whose desktop is ready."""
    return services.desktop_ready(services.begin_starting(press(), now=timezone.now()))


def test_changes_between_people_wake_no_worker(held: SupportSession) -> None:
    alice, bob = person("Alice"), person("Bob")
    rung = bell.count()
    held = services.claim(held, user=alice)
    held = services.hand_over(held, to=bob, user=alice)
    ticket = attachments.issue_ticket(held, user=bob, role="controller")
    attachment = attachments.redeem_ticket(ticket, session_id=held.pk, user=bob)
    held.refresh_from_db()
    assert held.state == State.ACTIVE
    attachments.detach(attachment)
    held.refresh_from_db()
    services.release(held, user=bob)
    assert bell.count() == rung


def test_loop_that_ends_as_the_bell_rings_is_no_matter_of_whoever_rings(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Mock(asyncio.AbstractEventLoop)
    loop.is_closed.return_value = False  # it was not, when it was looked at
    loop.call_soon_threadsafe.side_effect = RuntimeError("Event loop is closed")
    monkeypatch.setattr(bell, "_listeners", {(loop, asyncio.Event())})
    bell.ring()
    assert loop.call_soon_threadsafe.called


def test_lost_desktop_and_an_end_wake_the_worker_at_once(held: SupportSession) -> None:
    rung = bell.count()
    held = services.desktop_lost(held, detail="gone", notice="", now=timezone.now())
    assert bell.count() == rung + 1
    services.end(held, EndReason.GATEWAY_FAILED)
    assert bell.count() == rung + 2
