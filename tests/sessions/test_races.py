"""Many at once: of fifty claims one wins (T9), of several workers one starts a gateway, of ten presses one counts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import pytest
from django.db import connections
from django.utils import timezone
from pytest_django.fixtures import Settings

from sessions import attachments, bell, gateway_rows, services
from sessions.errors import AlreadyClaimed, IdempotencyConflict, SessionClosed, SupportError
from sessions.gateways.base import get_driver
from sessions.models import Gateway, Press, RdpCredential, SessionEvent, SupportSession
from sessions.states import LIVE_GATEWAY_STATES, EndReason, GatewayState, State
from sessions.worker import Stoker, Worker, start_threads
from tests.fakes.gateway_driver import FakeGateways
from tests.sessions.rescues import fleet, machine, person, press

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")


def _at_once(jobs: list[Callable[[], T]]) -> list[T]:
    """Runs each job on a thread and a database connection of its own, all let go together."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], T]) -> T:
        try:
            barrier.wait(100)
            return job()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(run, jobs))


def _outcome(job: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        try:
            return job()
        except SupportError as error:
            return error

    return run


def test_of_fifty_claims_one_wins_and_the_others_are_told_who() -> None:
    people = [person(f"Operator {number}") for number in range(50)]
    for round_ in range(4):
        session = press(f"M{round_}")
        outcomes = _at_once([_outcome(partial(services.claim, session, user=user)) for user in people])
        (winner,) = [one for one in outcomes if isinstance(one, SupportSession)]
        losers = [one for one in outcomes if isinstance(one, AlreadyClaimed)]
        assert len(losers) == 49
        assert winner.operator is not None
        assert {loser.session.operator_id for loser in losers} == {winner.operator_id}
        assert all(winner.operator.display_name in str(loser) for loser in losers)
        assert SessionEvent.objects.filter(session=session, kind="claimed").count() == 1


def test_of_many_presses_of_one_machine_one_session_is_made() -> None:
    machine("A1")
    sessions = _at_once([partial(press, "A1", key=f"press-{number}") for number in range(10)])
    assert len({session.pk for session in sessions}) == 1
    assert SupportSession.objects.count() == 1


def test_of_one_press_delivered_many_times_at_once_one_counts() -> None:
    for round_ in range(4):
        machine(f"M{round_}")
        sessions = _at_once([partial(press, f"M{round_}", key="press")] * 10)
        assert len({session.pk for session in sessions}) == 1
    assert SupportSession.objects.count() == Press.objects.count() == 4


@pytest.mark.parametrize("is_open", [False, True], ids=["none open", "one open"])
def test_of_two_bodies_with_one_key_at_once_one_is_refused(is_open: bool) -> None:
    for round_ in range(4):
        serial = f"M{round_}"
        machine(serial)
        if is_open:
            press(serial, password="old")
        outcomes = _at_once(
            [_outcome(partial(press, serial, key="press", password=("left", "right")[n % 2])) for n in range(10)]
        )
        (session,) = SupportSession.objects.filter(machine__serial=serial)
        assert [one.pk for one in outcomes if isinstance(one, SupportSession)] == [session.pk] * 5
        assert len([one for one in outcomes if isinstance(one, IdempotencyConflict)]) == 5
        assert session.presses.filter(idempotency_key="press").count() == 1
        winners = {("left", "right")[n % 2] for n in range(10) if isinstance(outcomes[n], SupportSession)}
        assert {session.credential.password} == winners


def test_new_presses_at_once_of_an_open_session_are_all_kept_and_the_last_one_has_the_login() -> None:
    first = press("A1", password="old")
    found = _at_once([partial(press, "A1", key=f"press-{n}", password=f"login-{n}") for n in range(10)])
    assert {session.pk for session in found} == {first.pk}
    assert set(first.presses.values_list("idempotency_key", flat=True)) >= {f"press-{n}" for n in range(10)}
    assert SessionEvent.objects.filter(session=first, kind="login_renewed").count() == 10
    assert RdpCredential.objects.get(session=first).password in {f"login-{n}" for n in range(10)}


def test_press_and_cancel_at_once_leave_no_login_in_what_is_over() -> None:
    for round_ in range(8):
        serial = f"M{round_}"
        first = press(serial, password="old")
        _, pressed = _at_once(
            [_outcome(partial(services.cancel, first)), _outcome(partial(press, serial, key="new", password="new"))]
        )
        assert isinstance(pressed, SupportSession)
        assert Press.objects.get(machine__serial=serial, idempotency_key="new").session_id == pressed.pk
        still_open = SupportSession.objects.filter(machine__serial=serial, state=State.REQUESTED)
        assert [session.pk for session in still_open] == [pressed.pk] * (pressed.pk != first.pk)
        logins = RdpCredential.objects.filter(session__machine__serial=serial)
        assert [login.password for login in logins] == ["new"] * (pressed.pk != first.pk)


def test_one_screen_that_goes_as_another_comes_leaves_the_session_being_repaired() -> None:
    alice = person("Alice")
    for round_ in range(8):
        session = services.claim(press(f"M{round_}"), user=alice)
        session = services.desktop_ready(services.begin_starting(session, now=timezone.now()))
        first, second = (attachments.issue_ticket(session, user=alice, role="controller") for _ in range(2))
        leaving = attachments.redeem_ticket(first, session_id=session.pk, user=alice)
        come = partial(attachments.redeem_ticket, second, session_id=session.pk, user=alice)

        _at_once([_outcome(partial(attachments.detach, leaving)), _outcome(come)])

        now = SupportSession.objects.get(pk=session.pk)
        assert (now.state, now.unattended_since) == (State.ACTIVE, None)


def test_claim_and_close_at_once_leave_one_truth() -> None:
    alice, sue = person("Alice"), person("Sue", role="supervisor")
    for round_ in range(8):
        session = press(f"M{round_}")
        claimed, closed = _at_once(
            [
                _outcome(partial(services.claim, session, user=alice)),
                _outcome(partial(services.close, session, user=sue, outcome=EndReason.FORCED)),
            ]
        )
        assert isinstance(closed, SupportSession)
        session.refresh_from_db()
        assert session.state == State.CLOSING
        assert not RdpCredential.objects.filter(session=session).exists()
        if isinstance(claimed, SessionClosed):
            assert session.operator is None
        else:
            assert session.operator == alice


def test_several_workers_start_each_gateway_once() -> None:
    driver = FakeGateways()
    sessions = [press(f"M{number}") for number in range(8)]
    workers = [Worker(f"worker {number}", driver_for=lambda _: driver) for number in range(4)]

    def work(worker: Worker) -> None:
        for _ in range(3):
            worker.run_pass()

    _at_once([partial(work, worker) for worker in workers])
    assert sorted(driver.started) == sorted(driver.alive)
    assert len(driver.started) == len(sessions)
    assert len(driver.requests) == len(sessions), "nobody even asked twice"
    assert set(Gateway.objects.values_list("state", flat=True)) == {GatewayState.READY}
    assert set(SupportSession.objects.values_list("attempts", flat=True)) == {1}
    assert SessionEvent.objects.filter(kind="gateway_wanted").count() == len(sessions)


def test_several_workers_do_not_overrun_a_fleets_cap() -> None:
    small = fleet()
    small.max_open_sessions = 3
    small.save()
    driver = FakeGateways()
    for number in range(8):
        press(f"M{number}")
    workers = [Worker(f"worker {number}", driver_for=lambda _: driver) for number in range(4)]
    _at_once([worker.run_pass for worker in workers])
    workers[0].run_pass()
    assert len(driver.alive) == 3
    assert SupportSession.objects.filter(state=State.REQUESTED).count() == 5


def test_of_two_sessions_that_want_the_last_warm_gateway_one_gets_it_and_the_other_starts_its_own(
    settings: Settings,
) -> None:
    settings.GATEWAY_WARM = 1
    driver = FakeGateways()
    stoker = Stoker("stoker", driver_for=lambda _: driver)
    workers = [Worker(f"worker {number}", driver_for=lambda _: driver) for number in range(2)]
    for round_ in range(4):
        machine(f"M{round_}-0")
        for _ in range(2):
            stoker.run_pass()
        sessions = [press(f"M{round_}-{number}") for number in range(2)]
        pairs = zip(workers, sessions, strict=True)
        jobs: list[Callable[[], None]] = [partial(worker._gateways._want_first, session) for worker, session in pairs]
        _at_once(jobs)
        rows = Gateway.objects.filter(session__in=sessions)
        assert {row.session_id for row in rows} == {session.pk for session in sessions}
        assert sorted(row.born_warm for row in rows) == [False, True]
        assert SupportSession.objects.filter(pk__in=[one.pk for one in sessions], attempts=1).count() == 2


def test_warm_gateway_is_claimed_or_given_up_never_both(settings: Settings) -> None:
    settings.GATEWAY_WARM = 1
    driver = FakeGateways()
    stoker, worker = Stoker("stoker", driver_for=lambda _: driver), Worker("worker", driver_for=lambda _: driver)
    machine("M0")
    for round_ in range(6):
        for _ in range(3):
            stoker.run_pass()
        session = press(f"M{round_}")
        (warm,) = Gateway.objects.filter(session=None, state=GatewayState.READY)
        jobs: list[Callable[[], object]] = [
            partial(worker._gateways._want_first, session),
            partial(gateway_rows.give_up, warm, failure="", now=timezone.now()),
        ]
        _, is_given_up = _at_once(jobs)
        warm.refresh_from_db()
        if is_given_up:
            assert (warm.session_id, warm.state) == (None, GatewayState.STOPPING)
        else:
            assert (warm.session_id, warm.state) == (session.pk, GatewayState.READY)
        assert session.gateways.count() == 1


def test_several_stokers_and_workers_do_not_overfill_a_pool(settings: Settings) -> None:
    settings.GATEWAY_WARM = 3
    driver = FakeGateways()
    machine("M0")
    stokers = [Stoker(f"stoker {number}", driver_for=lambda _: driver) for number in range(3)]
    worker = Worker("worker", driver_for=lambda _: driver)
    most = 0

    def count(step: str) -> None:
        nonlocal most
        most = max(most, Gateway.objects.filter(session=None, state__in=LIVE_GATEWAY_STATES).count())

    driver.at_step = count

    def work(passes: int, run_pass: Callable[[], None]) -> None:
        for _ in range(passes):
            run_pass()

    _at_once([partial(work, 3, stoker.run_pass) for stoker in stokers])
    assert len(driver.started) == len(driver.alive) == most == 3
    sessions = [press(f"M{number}") for number in range(3)]
    hands: list[Worker | Stoker] = [worker, *stokers]
    _at_once([partial(work, 4, hand.run_pass) for hand in hands])
    work(2, stokers[0].run_pass)  # what was claimed after the last pass of all of them
    assert len(driver.started) == 6 and most == 3
    assert Gateway.objects.filter(session__in=sessions, born_warm=True, state=GatewayState.READY).count() == 3
    assert len(driver.requests) == 6, "nobody even asked twice"


def test_several_workers_close_each_session_once() -> None:
    driver = FakeGateways()
    sessions = [press(f"M{number}") for number in range(6)]
    Worker("first", driver_for=lambda _: driver).run_pass()
    for session in sessions:
        session.refresh_from_db()
        services.cancel(session)
        services.machine_told(session)
    workers = [Worker(f"worker {number}", driver_for=lambda _: driver) for number in range(4)]

    def work(worker: Worker) -> None:
        for _ in range(4):
            worker.run_pass()

    _at_once([partial(work, worker) for worker in workers])
    work(workers[0])  # what one of them has left to another that had just been there
    assert driver.alive == {}
    assert set(SupportSession.objects.values_list("state", flat=True)) == {State.CLOSED}
    for kind in ("vpn_told", "closed"):
        assert SessionEvent.objects.filter(kind=kind).count() == len(sessions)


@pytest.fixture
def threads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateways]:
    """Two worker threads as the server has them, with gateways in memory."""
    settings.GATEWAY = "tests.fakes.gateway_driver.FakeGateways"
    get_driver.cache_clear()
    driver = get_driver(settings.GATEWAY)
    assert isinstance(driver, FakeGateways)
    monkeypatch.setattr("sessions.worker.POLL_S", 600.0)
    stop = threading.Event()
    running = start_threads(2, process="test", stop=stop)
    yield driver
    stop.set()
    bell.ring()
    for thread in running:
        thread.join(30)
    get_driver.cache_clear()
    assert not any(thread.is_alive() for thread in running)


def test_press_wakes_the_worker_without_waiting_for_its_next_look(threads: FakeGateways) -> None:
    started = threading.Event()
    threads.at_step = lambda step: started.set() if step == "after start" else None
    press("A1")
    assert started.wait(30), "the threads look by themselves only every ten minutes"


def test_worker_outlives_a_failing_pass(threads: FakeGateways, monkeypatch: pytest.MonkeyPatch) -> None:
    failed, started = threading.Event(), threading.Event()
    real = Worker.run_pass

    def fail_once(worker: Worker) -> None:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("the disk is full")
        real(worker)

    monkeypatch.setattr(Worker, "run_pass", fail_once)
    threads.at_step = lambda step: started.set() if step == "after start" else None
    press("A1")
    assert failed.wait(30)
    assert started.wait(30)
