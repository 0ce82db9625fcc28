"""Presses, claims, hand-overs and closes, as the faces call them."""

from __future__ import annotations

import pytest

from sessions import selectors, services
from sessions.errors import AlreadyClaimed, NotAllowed, SessionClosed
from sessions.models import RdpCredential, SupportSession
from sessions.services import RdpLogin
from sessions.states import EndReason, State
from tests.sessions.rescues import person, press

pytestmark = pytest.mark.django_db
LOGIN = RdpLogin(username="once", password="canary", port=3390)


def test_login_shows_no_secret_when_printed() -> None:
    assert "canary" not in repr(LOGIN)
    assert "once" not in repr(LOGIN)


def test_login_leaves_with_the_commit_that_begins_the_closing() -> None:
    alice = person("Alice")
    session = services.claim(press(), user=alice)

    services.close(session, user=alice, outcome=EndReason.RESOLVED, cause="Jam", fix="Rinsed")

    assert not RdpCredential.objects.exists()


def test_cancel_that_comes_as_somebody_closes_is_no_error() -> None:
    alice = person("Alice")
    read_before = services.claim(press(), user=alice)
    services.close(SupportSession.objects.get(pk=read_before.pk), user=alice, outcome=EndReason.RESOLVED)

    assert services.cancel(read_before).end_reason == EndReason.RESOLVED


def test_loser_of_a_claim_is_told_who_won_and_the_winner_may_ask_again() -> None:
    alice, bob = person("Alice"), person("Bob")
    session = press()
    services.claim(session, user=alice)

    with pytest.raises(AlreadyClaimed, match="Alice has already claimed"):
        services.claim(session, user=bob)
    assert services.claim(session, user=alice).operator == alice


def test_claim_of_a_closed_session_says_who_closed_it() -> None:
    alice, bob = person("Alice"), person("Bob")
    session = services.claim(press(), user=alice)
    closed = services.close(session, user=alice, outcome=EndReason.RESOLVED)

    with pytest.raises(SessionClosed, match="closed by Alice"):
        services.claim(closed, user=bob)
    assert services.close(closed, user=alice, outcome=EndReason.RESOLVED).pk == session.pk


def test_only_the_holder_or_a_supervisor_closes_and_only_a_supervisor_by_force() -> None:
    alice, bob, sue = person("Alice"), person("Bob"), person("Sue", role="supervisor")
    session = services.claim(press(), user=alice)

    with pytest.raises(NotAllowed):
        services.close(session, user=bob, outcome=EndReason.RESOLVED)
    with pytest.raises(NotAllowed):
        services.close(session, user=alice, outcome=EndReason.FORCED)
    assert services.close(session, user=sue, outcome=EndReason.FORCED).end_reason == EndReason.FORCED


def test_close_by_who_lost_the_claim_a_moment_ago_ends_nothing() -> None:
    alice, bob = person("Alice"), person("Bob")
    session = services.claim(press(), user=alice)
    as_alice_read_it = SupportSession.objects.select_related("fleet").get(pk=session.pk)
    services.hand_over(session, to=bob, user=alice)

    with pytest.raises(NotAllowed):
        services.close(as_alice_read_it, user=alice, outcome=EndReason.RESOLVED)

    assert SupportSession.objects.get(pk=session.pk).is_open


def test_hand_over_goes_to_colleagues_only() -> None:
    alice, bob, charlie = person("Alice"), person("Bob"), person("Charlie", of="South")
    session = services.claim(press(), user=alice)

    with pytest.raises(NotAllowed, match="does not work for"):
        services.hand_over(session, to=charlie, user=alice)
    assert services.hand_over(session, to=bob, user=alice).operator == bob


def test_rescues_of_another_fleet_do_not_exist() -> None:
    session = press()
    charlie = person("Charlie", of="South")

    assert selectors.session_for(charlie, session.pk) is None
    assert not selectors.open_sessions_for(charlie).exists()


def test_release_gives_it_back_to_the_queue() -> None:
    alice, bob = person("Alice"), person("Bob")
    session = services.claim(press(), user=alice)

    released = services.release(session, user=alice)

    assert released.operator is None
    assert services.claim(released, user=bob).operator == bob


def test_card_of_a_page_costs_few_queries_whatever_the_queue_is_long(django_assert_max_num_queries: object) -> None:
    alice = person("Alice")
    for number in range(8):
        press(f"M{number}")

    with django_assert_max_num_queries(8):  # type: ignore[operator]
        cards = selectors.cards(selectors.open_sessions_for(alice), viewer=alice)
    assert len(cards) == 8


def test_every_event_and_end_has_words() -> None:
    alice = person("Alice")
    session = services.claim(press(), user=alice)
    session = services.close(session, user=alice, outcome=EndReason.NOT_RESOLVED, cause="Pump")

    trail = [entry["sentence"] for entry in selectors.timeline(session)]

    assert trail == ["Help was pressed at the machine.", "Alice claimed the rescue.", "Alice closed it: not resolved."]
    assert session.state == State.CLOSING
