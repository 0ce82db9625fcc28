"""The worker brings a rescue from the press to the end, whatever changes under it meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from pytest_django.fixtures import Settings

from machines import identities
from sessions import attachments, services
from sessions.models import Attachment, RdpCredential, SessionEvent, SupportSession
from sessions.states import EndReason, GatewayState, State
from sessions.worker import Worker
from tests.fakes.gateway_driver import FakeGateways
from tests.sessions.rescues import Clock, fleet, machine, person, press
from tests.sessions.working import FakeVpn, fresh, gateway_of, hold_desktop, kinds

pytestmark = pytest.mark.django_db


# --- from the press to the end ---------------------------------------------------------------------------------------


def test_press_has_its_gateway_after_one_pass(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    gateway = gateway_of(session)
    assert (gateway.state, gateway.host, gateway.port) == (GatewayState.READY, "127.0.0.1", 40000)
    assert gateway.attempt == 1
    assert list(driver.alive) == [str(gateway.pk)]
    assert fresh(session).state == State.STARTING
    (request,) = driver.requests
    assert (request.machine_address, request.machine_port) == (session.machine.vpn_address, 3390)


def test_more_passes_change_nothing(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    before = (kinds(session), fresh(session).version, driver.started)
    for _ in range(5):
        worker.run_pass()
        clock.tick(2)
    assert (kinds(session), fresh(session).version, driver.started) == before


def test_idle_pass_writes_nothing(
    worker: Worker, clock: Clock, django_assert_max_num_queries: Callable[..., object]
) -> None:
    press(now=clock())
    worker.run_pass()
    with django_assert_max_num_queries(12) as queries:  # type: ignore[attr-defined]
        worker.run_pass()
    assert all(query["sql"].startswith("SELECT") for query in queries.captured_queries)


@pytest.mark.parametrize("pressed_again", [False, True])
def test_pass_over_a_rescue_whose_gateway_will_not_stop_writes_nothing(
    worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock, pressed_again: bool,
    django_assert_max_num_queries: Callable[..., object],
) -> None:  # fmt: skip
    session = press(now=clock())
    worker.run_pass()
    driver.stops_refused = 1000
    services.cancel(fresh(session), now=clock())
    if pressed_again:
        press(key="again", now=clock())
    clock.tick(settings.MACHINE_TELL_DEADLINE_S)
    for _ in range(3):
        worker.run_pass()
    assert fresh(session).state == State.CLOSING and kinds(session).count("machine_not_told") == 1
    with django_assert_max_num_queries(20) as queries:  # type: ignore[attr-defined]
        worker.run_pass()
    assert all(query["sql"].startswith("SELECT") for query in queries.captured_queries)
    assert not any("FOR UPDATE" in query["sql"] for query in queries.captured_queries)


def test_closed_rescue_leaves_nothing(worker: Worker, driver: FakeGateways, vpn: FakeVpn, clock: Clock) -> None:
    session = press(now=clock())
    worker.run_pass()
    connection = hold_desktop(session, clock)
    alice = person("Alice")
    services.claim(fresh(session), user=alice, now=clock())
    services.close(fresh(session), user=alice, outcome=EndReason.RESOLVED, cause="Beans", fix="Cleaned", now=clock())
    services.machine_told(fresh(session), now=clock())
    for _ in range(3):
        worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert driver.alive == {}
    assert gateway_of(session).state == GatewayState.STOPPED
    assert vpn.ended == [session.machine.vpn_address]
    assert not RdpCredential.objects.exists()
    connection.refresh_from_db()
    assert connection.closed_at is not None
    assert connection.connection_id is None
    assert kinds(session)[-3:] == ["machine_told", "vpn_told", "closed"]


def test_cancelled_before_any_gateway_is_closed_too(worker: Worker, driver: FakeGateways, clock: Clock) -> None:
    session = press(now=clock())
    services.cancel(fresh(session), now=clock())
    services.machine_told(fresh(session), now=clock())
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert driver.started == []


def test_machine_out_of_reach_is_waited_for_and_then_written_down(
    worker: Worker, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    services.cancel(fresh(session), now=clock())
    for _ in range(3):
        worker.run_pass()
    assert fresh(session).state == State.CLOSING
    clock.tick(settings.MACHINE_TELL_DEADLINE_S)
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert kinds(session).count("machine_not_told") == 1


def test_session_is_closing_until_the_gateway_has_surely_stopped(
    worker: Worker, driver: FakeGateways, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    driver.stops_refused = 4
    services.cancel(fresh(session), now=clock())
    services.machine_told(fresh(session), now=clock())
    for _ in range(4):
        worker.run_pass()
        assert fresh(session).state == State.CLOSING
        assert driver.alive
        clock.tick(30)
    worker.run_pass()
    assert fresh(session).state == State.CLOSED
    assert driver.alive == {}


@pytest.mark.parametrize("is_told", [True, False])
def test_tunnel_does_not_wait_for_a_gateway_that_will_not_stop(
    worker: Worker, driver: FakeGateways, vpn: FakeVpn, settings: Settings, clock: Clock, is_told: bool
) -> None:
    """As when its whole cluster was deleted, or nobody may ask AWS any more."""
    session = press(now=clock())
    worker.run_pass()
    driver.stops_refused = 1000
    services.cancel(fresh(session), now=clock())
    if is_told:
        services.machine_told(fresh(session), now=clock())
    clock.tick(4 if is_told else settings.MACHINE_TELL_DEADLINE_S - 1)
    worker.run_pass()
    assert vpn.ended == [], "the news is on its way to the machine"
    clock.tick(1)
    for _ in range(3):
        worker.run_pass()
        clock.tick(10)
    assert vpn.ended == [session.machine.vpn_address], "once"
    assert fresh(session).state == State.CLOSING and driver.alive
    driver.stops_refused = 0
    clock.tick(90)
    worker.run_pass()
    assert fresh(session).state == State.CLOSED


def test_session_is_closing_until_the_vpn_was_told(worker: Worker, vpn: FakeVpn, clock: Clock) -> None:
    session = press(now=clock())
    vpn.refused = 3
    services.cancel(fresh(session), now=clock())
    services.machine_told(fresh(session), now=clock())
    worker.run_pass()
    worker.run_pass()
    assert vpn.refused == 2, "the second try waits"
    for _ in range(3):
        assert fresh(session).state == State.CLOSING
        clock.tick(30)
        worker.run_pass()
    assert fresh(session).state == State.CLOSED


def test_tunnel_is_left_to_the_next_rescue_of_its_machine(worker: Worker, vpn: FakeVpn, clock: Clock) -> None:
    first = press(now=clock())
    services.cancel(fresh(first), now=clock())
    services.machine_told(fresh(first), now=clock())
    second = press(key="again", now=clock())
    worker.run_pass()
    assert (fresh(first).state, vpn.ended) == (State.CLOSED, [])
    services.cancel(fresh(second), now=clock())
    services.machine_told(fresh(second), now=clock())
    worker.run_pass()
    assert (fresh(second).state, vpn.ended) == (State.CLOSED, [second.machine.vpn_address])


def test_earlier_rescue_whose_gateway_will_not_stop_ends_no_later_ones_tunnel(
    worker: Worker, driver: FakeGateways, vpn: FakeVpn, clock: Clock
) -> None:
    first = press(now=clock())
    worker.run_pass()
    driver.stops_refused = 1000
    services.cancel(fresh(first), now=clock())
    services.machine_told(fresh(first), now=clock())
    second = press(key="again", now=clock.tick(1))
    worker.run_pass()
    clock.tick(20)
    services.end(fresh(second), EndReason.FORCED, now=clock())
    worker.run_pass()
    assert (fresh(first).state, fresh(second).state, vpn.ended) == (State.CLOSING, State.CLOSING, [])
    services.machine_told(fresh(second), now=clock())
    worker.run_pass()
    assert vpn.ended == [], "the news is on its way to the machine"
    clock.tick(5)
    worker.run_pass()
    assert vpn.ended == [second.machine.vpn_address]


def test_machine_that_presses_and_cancels_in_turn_cannot_pile_up_gateways(
    worker: Worker, driver: FakeGateways, clock: Clock
) -> None:
    """They take a while to stop elsewhere, and count among no open rescues by then (T23)."""
    driver.stops_refused = 10_000
    for _ in range(12):
        session = press(now=clock())
        worker.run_pass()
        services.cancel(fresh(session), now=clock())
        worker.run_pass()
        clock.tick(1)
    assert len(driver.alive) == 5
    waiting, other = press(now=clock()), press("A2", now=clock())
    worker.run_pass()
    assert fresh(waiting).state == State.REQUESTED and "still stopping" in fresh(waiting).notice
    assert gateway_of(other).state == GatewayState.READY
    # Not for ever: what cannot be stopped must not keep help away.
    clock.tick(600)
    worker.run_pass()
    assert gateway_of(waiting).state == GatewayState.READY


# --- silent lines ----------------------------------------------------------------------------------------------------


def test_silent_line_is_said_taken_back_and_given_up_only_in_the_end(
    worker: Worker, vpn: FakeVpn, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    vpn.heard_at = clock()

    clock.tick(5)
    worker.run_pass()
    assert fresh(session).notice == "", "a few seconds are nothing to speak of"
    clock.tick(25)
    worker.run_pass()
    assert fresh(session).notice.startswith("Machine unreachable")
    assert fresh(session).state == State.READY
    vpn.heard_at = clock.tick(2)
    worker.run_pass()
    assert fresh(session).notice == ""
    clock.tick(settings.MACHINE_GONE_S - 1)
    worker.run_pass()
    assert fresh(session).is_open
    clock.tick(1)
    worker.run_pass()
    assert fresh(session).end_reason == EndReason.MACHINE_UNREACHABLE
    ended = SessionEvent.objects.get(session=session, kind="ended")
    assert "Nothing came through the machine's tunnel for 120 s" in ended.detail["detail"]


# --- what changed under a rescue -------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["switched off", "frozen", "moved"])
def test_rescue_of_a_machine_that_a_manager_withdraws_ends_and_leaves_nothing(
    change: str, worker: Worker, driver: FakeGateways, settings: Settings, clock: Clock
) -> None:
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    withdrawn = session.machine
    if change == "switched off":
        withdrawn.is_active = False
    elif change == "frozen":
        withdrawn.frozen_at = clock()
    else:
        withdrawn.fleet = fleet("South")
        withdrawn.site = machine("C1", of="South").site
    withdrawn.save()

    worker.run_pass()

    assert fresh(session).end_reason == EndReason.MACHINE_WITHDRAWN
    assert not RdpCredential.objects.exists()
    clock.tick(settings.MACHINE_TELL_DEADLINE_S)
    worker.run_pass()
    worker.run_pass()
    assert not driver.running()
    assert fresh(session).state == State.CLOSED


def test_worker_says_daily_what_the_vpn_needs(worker: Worker, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    identities.crl_pem(now=clock() - timedelta(days=20))
    for _ in range(3):
        worker.run_pass()
        clock.tick(60)
    assert caplog.text.count("list of revocations ends on") == 1
    clock.tick(86_400)
    worker.run_pass()
    assert caplog.text.count("list of revocations ends on") == 2


def test_desktop_that_comes_when_its_operator_waits_already_is_being_repaired(worker: Worker, clock: Clock) -> None:
    alice = person("Alice")
    session = press(now=clock())
    worker.run_pass()
    session = services.claim(fresh(session), user=alice, now=clock())
    ticket = attachments.issue_ticket(session, user=alice, role="controller", now=clock())
    attachments.redeem_ticket(ticket, session_id=session.pk, user=alice, now=clock())

    hold_desktop(session, clock)
    worker.run_pass()

    assert fresh(session).state == State.ACTIVE
    assert fresh(session).unattended_since is None


def test_presence_that_a_dying_process_did_not_write_down_is_put_right(worker: Worker, clock: Clock) -> None:
    alice = person("Alice")
    session = press(now=clock())
    worker.run_pass()
    hold_desktop(session, clock)
    session = services.claim(fresh(session), user=alice, now=clock())
    ticket = attachments.issue_ticket(session, user=alice, role="controller", now=clock())
    attached = attachments.redeem_ticket(ticket, session_id=session.pk, user=alice, now=clock())
    assert fresh(session).state == State.ACTIVE

    Attachment.objects.filter(pk=attached.pk).update(detached_at=clock())
    worker.run_pass()

    assert fresh(session).state == State.READY
    assert fresh(session).unattended_since == clock()


def test_one_row_that_cannot_be_put_right_does_not_hold_up_the_others(
    worker: Worker, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned, healthy, ending = press("A1", now=clock()), press("A2", now=clock.tick(1)), press("A3", now=clock())
    worker.run_pass()
    for session in (poisoned, healthy):
        # As a process leaves it that dies before it has written down who left.
        hold_desktop(session, clock)
        SupportSession.objects.filter(pk=session.pk).update(state=State.ACTIVE)
    services.cancel(fresh(ending), now=clock())
    services.machine_told(fresh(ending), now=clock())
    real = services.controllers_changed

    def controllers_changed(session: SupportSession, **kwargs: object) -> SupportSession:
        if session.pk == poisoned.pk:
            raise ValueError("poison")
        return real(session, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(services, "controllers_changed", controllers_changed)
    worker.run_pass()
    assert fresh(healthy).state == State.READY
    assert fresh(ending).state == State.CLOSED
