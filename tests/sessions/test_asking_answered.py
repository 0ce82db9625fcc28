"""Somebody comes: who hears of it, whose screens are replaced, and the round that a release begins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from machines.models import Operator
from notifications.models import Delivery
from notifications.outbox import is_wanted
from sessions import services
from sessions.models import SupportSession
from sessions.states import EndReason
from sessions.worker import Asker
from tests.sessions.asking import (
    Telemetry,
    asked,
    asker,
    card_of,
    escalation,
    fresh,
    reachable,
    send_all,
    told,
)
from tests.sessions.rescues import Clock, person, press

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("web_push_alone")]


def shown(telemetry: Telemetry, clock: Clock) -> tuple[SupportSession, Asker]:
    """A press that is on the screens of those who were asked first."""
    session, worker = press(now=clock()), asker(telemetry, clock)
    worker.run_pass()
    send_all(clock)
    return session, worker


def test_claim_withdraws_what_is_pending_and_replaces_what_was_sent(cast: None, clock: Clock) -> None:
    session, worker = shown(Telemetry("alice", "bob"), clock)
    clock.tick(45)
    worker.run_pass()
    assert told(session, "asked", state="pending") == ["bob"]
    services.claim(fresh(session), user=reachable("Eve"), now=clock.tick(1))
    worker.run_pass()
    assert told(session, "asked", state="withdrawn") == ["bob"]
    (replacement,) = Delivery.objects.filter(subject=session.pk, kind="taken")
    assert replacement.recipient == person("Alice") and replacement.is_silent
    assert replacement.body.startswith("Eve has it.")
    assert card_of(session)["asking"] is None
    clock.tick(600)
    worker.run_pass()
    assert len(asked(session)) == 2 and escalation(session).settled_as == "taken"


def test_operators_own_screens_stay_until_it_is_over(cast: None, clock: Clock) -> None:
    session, worker = shown(Telemetry("alice"), clock)
    services.claim(fresh(session), user=person("Alice"), now=clock.tick(1))
    worker.run_pass()
    assert told(session, "taken") == []
    services.close(fresh(session), user=person("Alice"), outcome=EndReason.RESOLVED, now=clock.tick(1))
    worker.run_pass()
    assert told(session, "over") == ["alice"]
    before = Delivery.objects.count()
    worker.run_pass()
    assert Delivery.objects.count() == before and escalation(session).settled_as == "over"


def test_claim_before_anybody_was_asked_asks_nobody(cast: None, clock: Clock) -> None:
    session = press(now=clock())
    services.claim(session, user=person("Alice"), now=clock())
    telemetry = Telemetry("bob")
    asker(telemetry, clock).run_pass()
    assert (asked(session), telemetry.asked, Delivery.objects.count()) == ([], 0, 0)


@pytest.mark.parametrize("end", ["claim", "cancel"])
def test_claim_or_cancel_in_the_moment_of_a_step_asks_nobody_else(cast: None, clock: Clock, end: str) -> None:
    session = press(now=clock())
    telemetry = Telemetry("alice")
    acts: dict[str, Callable[[], object]] = {
        "claim": lambda: services.claim(fresh(session), user=person("Bob"), now=clock()),
        "cancel": lambda: services.cancel(fresh(session), now=clock()),
    }
    telemetry.meanwhile = acts[end]
    worker = asker(telemetry, clock)
    worker.run_pass()
    assert asked(session) == [] and not Delivery.objects.exists()
    worker.run_pass()
    assert escalation(session).settled_as == ("taken" if end == "claim" else "over")


def test_release_begins_a_round_with_the_releaser_last(cast: None, clock: Clock) -> None:
    telemetry = Telemetry("alice", "bob")
    session, worker = shown(telemetry, clock)
    services.claim(fresh(session), user=person("Alice"), now=clock.tick(1))
    worker.run_pass()
    services.release(fresh(session), user=person("Alice"), now=clock.tick(100))
    worker.run_pass()
    assert (asked(session, 1), asked(session, 2), telemetry.asked) == (["alice"], ["bob"], 2)
    send_all(clock)
    clock.tick(45)
    worker.run_pass()
    assert asked(session, 2) == ["bob", "alice"]
    # A claim of this round replaces what this round put on screens, also where the round before had its replacement.
    send_all(clock)
    services.claim(fresh(session), user=person("Sue"), now=clock.tick(1))
    worker.run_pass()
    assert sorted(told(session, "taken", state="pending")) == ["alice", "bob"]


def test_release_that_the_asker_sees_late_is_a_round_too(cast: None, clock: Clock) -> None:
    """Claimed and given back between two looks: the rows look as before, but for the end of the wait."""
    session = press(now=clock())
    worker = asker(Telemetry("alice", "bob"), clock)
    worker.run_pass()
    services.claim(fresh(session), user=person("Alice"), now=clock.tick(1))
    services.release(fresh(session), user=person("Alice"), now=clock.tick(1))
    worker.run_pass()
    assert (escalation(session).round, asked(session, 2)) == (2, ["bob"])


def test_screens_of_who_gave_it_back_are_replaced_when_another_had_it_at_once(cast: None, clock: Clock) -> None:
    session, worker = shown(Telemetry("alice"), clock)
    services.claim(fresh(session), user=person("Alice"), now=clock.tick(1))
    worker.run_pass()
    services.release(fresh(session), user=person("Alice"), now=clock.tick(1))
    services.claim(fresh(session), user=person("Bob"), now=clock.tick(1))
    worker.run_pass()
    assert told(session, "taken") == ["alice"]


def test_what_arrived_in_an_earlier_round_reaches_nobody_in_this_one(cast: None, clock: Clock) -> None:
    session, worker = shown(Telemetry("alice"), clock)
    services.claim(fresh(session), user=person("Bob"), now=clock.tick(1))
    services.release(fresh(session), user=person("Bob"), now=clock.tick(1))
    worker.run_pass()
    assert asked(session, 2) == ["alice"]
    send_all(clock, to=["alice"], outcome=Delivery.State.FAILED)
    clock.tick(1)
    worker.run_pass()
    assert asked(session, 2) == ["alice", "sue"]


def test_expired_claim_begins_a_round_too(cast: None, clock: Clock) -> None:
    session = press(now=clock())
    worker = asker(Telemetry("alice", "bob"), clock)
    worker.run_pass()
    session = services.claim(fresh(session), user=person("Alice"), now=clock.tick(1))
    worker.run_pass()
    services.expire_claim(session, now=clock.tick(900))
    worker.run_pass()
    assert asked(session, 2) == ["bob"]


def test_new_operator_is_told_of_a_hand_over_and_oneself_of_none(cast: None, clock: Clock) -> None:
    session, worker = shown(Telemetry("alice"), clock)
    services.claim(fresh(session), user=person("Alice"), now=clock.tick(1))
    services.hand_over(fresh(session), to=person("Bob"), user=person("Alice"), now=clock.tick(1))
    (message,) = Delivery.objects.filter(subject=session.pk, kind="handed_over")
    assert (message.recipient, message.title) == (person("Bob"), "Alice gave you a rescue")
    worker.run_pass()
    assert told(session, "handed_over", state="pending") == ["bob"]
    assert is_wanted(message)
    services.hand_over(fresh(session), to=person("Sue"), user=person("Sue"), now=clock.tick(1))
    assert told(session, "handed_over") == ["bob"], "who takes over knows"
    assert not is_wanted(message)


def test_screens_of_who_had_it_are_replaced_when_it_is_handed_on(cast: None, clock: Clock) -> None:
    session, worker = shown(Telemetry("alice"), clock)
    services.claim(fresh(session), user=person("Alice"), now=clock.tick(1))
    for giver, taker in (("Alice", "Bob"), ("Bob", "Sue")):
        worker.run_pass()
        send_all(clock)
        services.hand_over(fresh(session), to=person(taker), user=person(giver), now=clock.tick(1))
        silent = Delivery.objects.filter(state="pending", is_silent=True)
        assert [(row.recipient, row.body.partition(".")[0]) for row in silent] == [(person(giver), f"{taker} has it")]
        assert told(session, "handed_over", state="pending") == [taker.lower()]


def test_who_has_left_the_fleet_meanwhile_is_told_nothing_of_it(cast: None, clock: Clock) -> None:
    session = press(now=clock())
    asker(Telemetry("alice"), clock).run_pass()
    (message,) = Delivery.objects.filter(subject=session.pk)
    assert is_wanted(message)
    Operator.objects.get(user=person("Alice")).fleets.clear()
    assert not is_wanted(message)


def test_judge_knows_what_is_still_true(cast: None, clock: Clock) -> None:
    session = press(now=clock())
    worker = asker(Telemetry("alice"), clock)
    worker.run_pass()
    (message,) = Delivery.objects.filter(subject=session.pk)
    assert is_wanted(message)
    send_all(clock)
    services.claim(fresh(session), user=person("Bob"), now=clock.tick(1))
    assert not is_wanted(message), "before the asker has looked"
    worker.run_pass()
    taken = Delivery.objects.get(subject=session.pk, kind="taken")
    assert is_wanted(taken)
    services.release(fresh(session), user=person("Bob"), now=clock.tick(1))
    assert is_wanted(message) and not is_wanted(taken)
    services.cancel(fresh(session), now=clock.tick(1))
    assert not is_wanted(message) and is_wanted(taken)
