"""Which changes wake worker and keeper at once."""

from __future__ import annotations

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


def test_lost_desktop_and_an_end_wake_the_worker_at_once(held: SupportSession) -> None:
    rung = bell.count()
    held = services.desktop_lost(held, detail="gone", notice="", now=timezone.now())
    assert bell.count() == rung + 1
    services.end(held, EndReason.GATEWAY_FAILED)
    assert bell.count() == rung + 2
