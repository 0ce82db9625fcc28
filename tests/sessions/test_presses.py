"""Presses of the help button: new ones, replayed ones, late ones, and many at the same moment."""

from __future__ import annotations

import pytest
from django.db import DatabaseError, connection, transaction

from sessions import presses, services
from sessions.errors import IdempotencyConflict, StateConflict
from sessions.models import Press, RdpCredential, SessionEvent, SupportSession
from sessions.services import RdpLogin
from tests.sessions.rescues import Clock, machine

pytestmark = pytest.mark.django_db

FIRST = RdpLogin(username="once", password="canary", port=3390)
SECOND = RdpLogin(username="twice", password="other", port=3391)


def press(
    key: str, login: RdpLogin = FIRST, *, on: str = "A1", problem_text: str = "", clock: Clock | None = None
) -> tuple[SupportSession, bool]:
    return presses.request_support(
        machine(on), login=login, idempotency_key=key, problem_text=problem_text, now=clock() if clock else None
    )


def kept(session: SupportSession) -> RdpLogin:
    """The login that the next gateway would use."""
    row = RdpCredential.objects.get(session=session)
    return RdpLogin(row.username, row.password, row.port, row.domain, row.security)


def renewals(session: SupportSession) -> int:
    return SessionEvent.objects.filter(session=session, kind="login_renewed").count()


def test_same_key_and_body_give_the_same_session_even_when_it_is_over() -> None:
    first, made = press("k")
    services.cancel(first)

    again, made_again = press("k")

    assert (made, made_again) == (True, False)
    assert again.pk == first.pk
    assert SupportSession.objects.count() == Press.objects.count() == 1


def test_same_key_with_another_body_is_refused_without_a_secret_in_the_words() -> None:
    press("k")

    with pytest.raises(IdempotencyConflict) as caught:
        press("k", problem_text="another")
    assert "canary" not in str(caught.value)


def test_press_while_a_session_is_open_gives_that_one_and_renews_its_login() -> None:
    first, _ = press("k1")

    second, made = press("k2", SECOND)

    assert (second.pk, made) == (first.pk, False)
    assert kept(first) == SECOND
    assert renewals(first) == 1
    assert second.version == first.version + 1, "the machine hears of the session as it is now"
    assert list(Press.objects.values_list("idempotency_key", "session")) == [("k1", first.pk), ("k2", first.pk)]


def test_press_with_the_login_that_is_kept_changes_nothing_but_is_remembered() -> None:
    first, _ = press("k1")

    second, _ = press("k2")

    assert second.version == first.version
    assert renewals(first) == 0
    assert Press.objects.filter(session=first).count() == 2


def test_key_of_a_press_that_found_an_open_session_is_refused_with_another_body() -> None:
    first, _ = press("k1")
    press("k2", SECOND)

    with pytest.raises(IdempotencyConflict):
        press("k2", FIRST)
    assert kept(first) == SECOND


def test_late_replay_of_the_first_press_does_not_bring_its_dead_login_back() -> None:
    first, _ = press("k1", FIRST)
    press("k2", SECOND)

    late, made = press("k1", FIRST)

    assert (late.pk, made) == (first.pk, False)
    assert kept(first) == SECOND
    assert renewals(first) == 1


def test_replay_of_a_press_that_found_a_session_gives_that_one_after_its_end_too() -> None:
    first, _ = press("k1")
    press("k2", SECOND)
    services.cancel(first)
    newer, made = press("k3")

    replayed, made_again = press("k2", SECOND)

    assert (made, made_again) == (True, False)
    assert newer.pk != first.pk == replayed.pk
    assert kept(newer) == FIRST


def test_two_machines_may_use_the_same_key() -> None:
    one, _ = press("k", on="A1")
    other, made = press("k", SECOND, on="A2")

    assert made
    assert other.pk != one.pk


@pytest.mark.parametrize("login", [FIRST, SECOND], ids=["same login", "new login"])
def test_press_that_finds_a_session_just_as_it_ends_makes_a_new_one(
    login: RdpLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = press("k1")
    as_read = SupportSession.objects.get(pk=first.pk)
    services.cancel(first)
    look, before_the_end = presses._open_session, iter([as_read])
    monkeypatch.setattr(presses, "_open_session", lambda machine: next(before_the_end, None) or look(machine))

    second, made = press("k2", login)

    assert made and second.pk != first.pk
    assert kept(second) == login
    assert Press.objects.get(idempotency_key="k2").session == second


def test_renewed_login_has_time_to_be_tried_before_the_rescue_ends() -> None:
    clock = Clock()
    session, _ = press("k1", clock=clock)
    session = services.begin_starting(session, now=clock())
    late = clock.tick((session.gateway_due_at - clock()).total_seconds() - 1)

    renewed, _ = press("k2", SECOND, clock=clock)

    assert (renewed.gateway_due_at - late).total_seconds() >= 60


def test_presses_are_only_added() -> None:
    session, _ = press("k1")
    for sql in ("UPDATE support_press SET idempotency_key = 'k2'", "DELETE FROM support_press"):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql)
    assert Press.objects.get().session == session


def test_ended_session_takes_no_login() -> None:
    session, _ = press("k1")
    stale = SupportSession.objects.get(pk=session.pk)
    services.cancel(session)

    with pytest.raises(StateConflict):
        services.renew_login(stale, SECOND, now=Clock()())
    assert not RdpCredential.objects.exists()
