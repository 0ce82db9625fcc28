"""Tickets let one browser in, once; the session's state follows who is at the desktop."""

from __future__ import annotations

import pytest
from django.utils import timezone

from machines.models import User
from sessions import attachments, selectors, services
from sessions.errors import NotAllowed, SessionClosed, TicketRefused
from sessions.models import Attachment, SupportSession
from sessions.states import EndReason, State
from tests.sessions.rescues import Clock, person, press

pytestmark = pytest.mark.django_db


def _ready(alice: User) -> SupportSession:
    session = services.claim(press(), user=alice)
    session = services.begin_starting(session, now=timezone.now())
    return services.desktop_ready(session)


def test_ticket_lets_its_owner_in_once() -> None:
    alice = person("Alice")
    session = _ready(alice)
    ticket = attachments.issue_ticket(session, user=alice, role="controller")

    attachment = attachments.redeem_ticket(ticket, session_id=session.pk, user=alice)

    assert attachment.attached_at is not None
    with pytest.raises(TicketRefused, match="unknown, used or too old"):
        attachments.redeem_ticket(ticket, session_id=session.pk, user=alice)


def test_ticket_is_kept_only_as_a_hash() -> None:
    alice = person("Alice")
    ticket = attachments.issue_ticket(_ready(alice), user=alice, role="watcher")

    row = Attachment.objects.get()

    assert ticket not in {str(value) for value in vars(row).values()}


def test_ticket_is_too_old_after_half_a_minute() -> None:
    alice, clock = person("Alice"), Clock()
    session = _ready(alice)
    ticket = attachments.issue_ticket(session, user=alice, role="controller", now=clock())

    with pytest.raises(TicketRefused):
        attachments.redeem_ticket(ticket, session_id=session.pk, user=alice, now=clock.tick(31))


def test_ticket_of_another_person_or_session_opens_nothing() -> None:
    alice, bob = person("Alice"), person("Bob")
    session, other = _ready(alice), press("A2")
    ticket = attachments.issue_ticket(session, user=alice, role="controller")

    for session_id, user in ((session.pk, bob), (other.pk, alice)):
        with pytest.raises(TicketRefused):
            attachments.redeem_ticket(ticket, session_id=session_id, user=user)


def test_only_the_operator_may_control_and_a_stranger_not_even_watch() -> None:
    alice, bob, charlie = person("Alice"), person("Bob"), person("Charlie", of="South")
    session = _ready(alice)

    attachments.issue_ticket(session, user=bob, role="watcher")
    with pytest.raises(NotAllowed, match="You can watch"):
        attachments.issue_ticket(session, user=bob, role="controller")
    with pytest.raises(NotAllowed):
        attachments.issue_ticket(session, user=charlie, role="watcher")


def test_closed_session_gives_no_tickets() -> None:
    alice = person("Alice")
    session = services.close(_ready(alice), user=alice, outcome=EndReason.RESOLVED)

    with pytest.raises(SessionClosed):
        attachments.issue_ticket(session, user=alice, role="watcher")


def test_session_is_active_while_its_operator_is_at_the_desktop_and_ready_after() -> None:
    alice = person("Alice")
    session = _ready(alice)
    two_devices = [
        attachments.redeem_ticket(
            attachments.issue_ticket(session, user=alice, role="controller"), session_id=session.pk, user=alice
        )
        for _ in range(2)
    ]

    session.refresh_from_db()
    assert (session.state, session.unattended_since) == (State.ACTIVE, None)
    attachments.detach(two_devices[0])
    session.refresh_from_db()
    assert session.state == State.ACTIVE
    attachments.detach(two_devices[1])
    session.refresh_from_db()
    assert session.state == State.READY
    assert session.unattended_since is not None


def test_watcher_does_not_make_a_session_active() -> None:
    alice, bob = person("Alice"), person("Bob")
    session = _ready(alice)
    ticket = attachments.issue_ticket(session, user=bob, role="watcher")

    attachments.redeem_ticket(ticket, session_id=session.pk, user=bob)

    session.refresh_from_db()
    assert session.state == State.READY
    card = selectors.card(selectors.sessions_for(alice).get(), viewer=alice)
    assert [(one["name"], one["role"]) for one in card["attached"]] == [("Bob", "watcher")]


def test_tunnel_that_is_not_heard_of_is_taken_away() -> None:
    alice, clock = person("Alice"), Clock()
    session = _ready(alice)
    ticket = attachments.issue_ticket(session, user=alice, role="controller", now=clock())
    attachment = attachments.redeem_ticket(ticket, session_id=session.pk, user=alice, now=clock())
    attachments.heard([attachment.pk], now=clock.tick(20))

    assert attachments.detach_stale(now=clock.tick(20)) == 0
    assert attachments.detach_stale(now=clock.tick(11)) == 1
    assert attachments.heard([attachment.pk], now=clock()) == 0, "it is told that it has to join again"

    session.refresh_from_db()
    assert session.state == State.READY
