"""The worker keeps every time limit, and whoever was there in the last moment wins over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from sessions import attachments, keeper_rows, services
from sessions.gateway_passes import BUSY
from sessions.models import SessionEvent, SupportSession
from sessions.states import EndReason, GatewayState, State
from sessions.worker import Worker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.rescues import Clock, fleet, person, press
from tests.sessions.working import FakeVpn, fresh, gateway_of, hold_desktop

pytestmark = pytest.mark.django_db


def _why(session: SupportSession) -> tuple[str | None, str]:
    """The reason, and the words that the record has with it."""
    ended = SessionEvent.objects.get(session=session, kind="ended")
    return fresh(session).end_reason, ended.detail.get("detail", "")


def reach(limit_s: float, *, worker: Worker, clock: Clock, not_before: Callable[[], object]) -> None:
    """Comes to a limit, where the worker looks again; one second before it, the worker has looked and this held."""
    clock.tick(limit_s - 1)
    worker.run_pass()
    assert not_before(), f"the worker acted a second before {limit_s} s were over"
    clock.tick(1)
    worker.run_pass()


def test_no_desktop_in_time_with_a_gateway_means_the_machine_is_out_of_reach(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    reach(settings.GATEWAY_DEADLINE_S, worker=worker, clock=clock, not_before=lambda: fresh(session).is_open)
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE


@pytest.mark.parametrize("said", ["Another computer is being started.", ""])
def test_rescue_whose_gateway_waits_until_its_time_is_over_ends_with_what_was_said_last(
    worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock, said: str
) -> None:
    driver.starts.extend([Start.FAILED] if said else [])
    driver.starts.append(Start.WAITING)
    session = press(now=clock())
    worker.run_pass()
    worker.run_pass()
    clock.tick(2)
    worker.run_pass()
    pk = str(gateway_of(session).pk)
    driver.alive[pk] = replace(driver.alive[pk], detail=said)
    clock.tick(2)
    worker.run_pass()
    clock.tick(settings.GATEWAY_DEADLINE_S)
    worker.run_pass()
    assert _why(session) == (
        EndReason.GATEWAY_FAILED,
        said or "The gateway was still starting when the time was over.",
    )


@pytest.mark.parametrize("next_is_tried", [True, False])
def test_lost_desktop_that_finds_no_room_is_not_blamed_on_the_machine(
    worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock, next_is_tried: bool
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    clock.tick(60)
    driver.die()
    driver.starts.extend([Start.NO_ROOM] * 100)
    for _ in range(3):
        worker.run_pass()
    assert fresh(session).is_open
    if not next_is_tried:
        clock.tick(settings.MACHINE_GONE_S - 1)
        worker.run_pass()
        worker.run_pass()
        assert gateway_of(session).state == GatewayState.WANTED
    clock.tick(settings.MACHINE_GONE_S if next_is_tried else 1)
    worker.run_pass()
    assert _why(session) == (EndReason.GATEWAY_FAILED, "No room.")


def test_press_beyond_the_cap_waits_as_long_as_for_an_answer(worker: Worker, settings: Settings, clock: Clock) -> None:
    full = fleet()
    full.max_open_sessions = 0
    full.save()
    claimed, waiting = press("A1", now=clock()), press("A2", now=clock())
    services.claim(claimed, user=person("Alice"), now=clock())
    reach(
        settings.ANSWER_DEADLINE_S, worker=worker, clock=clock,
        not_before=lambda: fresh(claimed).is_open and fresh(waiting).is_open,
    )  # fmt: skip
    assert _why(claimed) == (EndReason.GATEWAY_FAILED, BUSY)
    assert fresh(waiting).end_reason == EndReason.UNANSWERED


def test_gateway_that_comes_free_late_still_has_its_whole_time(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    full = fleet()
    full.max_open_sessions = 1
    full.save()
    first = press("A1", now=clock())
    worker.run_pass()
    hold_desktop(first, clock)
    second = press("A2", now=clock())
    clock.tick(settings.GATEWAY_DEADLINE_S + 5)
    worker.run_pass()
    services.cancel(fresh(first), now=clock())
    worker.run_pass()
    worker.run_pass()
    assert fresh(second).state == State.STARTING
    assert fresh(second).gateway_due_at == clock() + timedelta(seconds=settings.GATEWAY_DEADLINE_S)


def test_refused_login_is_the_reason_when_it_was_the_last_failure(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    services.note_attempt(
        fresh(session),
        detail="The machine refused the one-off login (status 769).",
        notice="",
        due_at=None,
        now=clock(),
    )
    clock.tick(settings.GATEWAY_DEADLINE_S)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.CREDENTIALS_REFUSED


def test_gateway_that_hangs_is_replaced_and_never_blamed_on_the_machine(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    first = gateway_of(session)
    assert keeper_rows.take("a keeper", now=clock()) == {first.pk}
    keeper_rows.give_up(first.pk, "a keeper", detail="The gateway does not answer: it was silent.", now=clock())
    worker.run_pass()
    clock.tick(2)
    worker.run_pass()
    assert (gateway_of(session).attempt, gateway_of(session).state) == (2, GatewayState.READY)
    assert fresh(session).notice == "The gateway hangs. A new one is starting."
    clock.tick(settings.GATEWAY_DEADLINE_S)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.GATEWAY_FAILED


@pytest.mark.parametrize("had_desktop", [True, False])
def test_minutes_without_any_keeper_are_no_part_of_the_time_for_a_desktop(
    worker: Worker, settings: Settings, clock: Clock, had_desktop: bool
) -> None:
    session = press(now=clock())
    worker.run_pass()
    gateway = gateway_of(session)
    keeper_rows.take("old", now=clock())
    if had_desktop:
        hold_desktop(session, clock)
    keeper_rows.let_go(gateway.pk, "old", detail="told to stop", notice=keeper_rows.RESTARTING, now=clock())
    clock.tick(settings.MACHINE_GONE_S * 3)
    worker.run_pass()
    assert fresh(session).state == State.STARTING
    keeper_rows.take("new", now=clock())
    for left in (settings.MACHINE_GONE_S, 10):
        assert keeper_rows.prepare(gateway.pk, "new", now=clock()), "it is tried"
        assert fresh(session).gateway_due_at == clock() + timedelta(seconds=left), "each try has the same deadline"
        clock.tick(settings.MACHINE_GONE_S - 10 if left > 10 else 10)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE


def test_rescue_whose_keeper_never_comes_back_ends(worker: Worker, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    keeper_rows.take("old", now=clock())
    hold_desktop(session, clock)
    keeper_rows.let_go(gateway_of(session).pk, "old", detail="told to stop", notice=keeper_rows.RESTARTING, now=clock())
    services.claim(fresh(session), user=person("Alice"), now=clock())
    clock.tick(keeper_rows.NO_KEEPER_DEADLINE.total_seconds())
    worker.run_pass()
    assert not fresh(session).is_open


def test_lost_desktop_that_does_not_come_back_ends_as_out_of_reach(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    clock.tick(3600 // 4)
    services.desktop_lost(fresh(session), detail="no instruction for 15 s", notice="The machine is gone.", now=clock())
    reach(settings.MACHINE_GONE_S, worker=worker, clock=clock, not_before=lambda: fresh(session).is_open)
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE


def test_request_that_nobody_claims_ends(worker: Worker, settings: Settings, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    reach(settings.ANSWER_DEADLINE_S, worker=worker, clock=clock, not_before=lambda: fresh(session).is_open)
    assert fresh(session).end_reason == EndReason.UNANSWERED


def test_claim_in_the_last_moment_wins_over_the_deadline(
    worker: Worker, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    clock.tick(settings.ANSWER_DEADLINE_S)
    real = services.end

    def end(overdue: SupportSession, *args: object, **kwargs: object) -> SupportSession:
        services.claim(fresh(session), user=person("Alice"), now=clock())
        return real(overdue, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "end", end)
    worker.run_pass()
    assert fresh(session).is_open
    assert fresh(session).operator == person("Alice")


def test_desktop_in_the_last_moment_wins_over_the_deadline(
    worker: Worker, settings: Settings, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = press(now=clock())
    worker.run_pass()
    clock.tick(settings.GATEWAY_DEADLINE_S)
    real = services.end

    def end(overdue: SupportSession, *args: object, **kwargs: object) -> SupportSession:
        hold_desktop(session, clock)
        return real(overdue, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "end", end)
    worker.run_pass()
    assert fresh(session).state == State.READY


def test_claim_of_an_absent_operator_goes_back_to_the_queue(worker: Worker, settings: Settings, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    services.claim(fresh(session), user=person("Alice"), now=clock())
    reach(
        settings.ABANDONED_AFTER_S, worker=worker, clock=clock, not_before=lambda: fresh(session).operator is not None
    )
    session = fresh(session)
    assert session.operator is None
    assert session.is_open
    assert session.answer_due_at > clock(), "the queue has its full time again"


def test_operator_at_the_desktop_keeps_the_claim(worker: Worker, settings: Settings, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    services.claim(fresh(session), user=person("Alice"), now=clock())
    ticket = attachments.issue_ticket(fresh(session), user=person("Alice"), role="controller", now=clock())
    attached = attachments.redeem_ticket(ticket, session_id=session.pk, user=person("Alice"), now=clock())
    clock.tick(settings.ABANDONED_AFTER_S * 3)
    attachments.heard([attached.pk], now=clock())
    worker.run_pass()
    assert fresh(session).operator == person("Alice")


def test_tunnel_that_has_been_told_is_asked_after_with_each_pass(
    worker: Worker, vpn: FakeVpn, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    vpn.lingering = 2
    session = press(now=clock())
    services.cancel(session, now=clock())
    services.machine_told(fresh(session), now=clock())
    for _ in range(2):
        worker.run_pass()
        assert fresh(session).state == State.CLOSING
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert not caplog.records
