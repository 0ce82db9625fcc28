"""Two workers ask, and people claim, at the same moment: nobody is asked twice, and nobody for what is taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from machines.models import User
from notifications.models import Delivery
from sessions import bell, services
from sessions.errors import AlreadyClaimed, StateConflict
from sessions.models import Asked, Escalation, SessionEvent, SupportSession
from sessions.worker import Asker
from tests.sessions.asking import Telemetry, asked, escalation, fresh, kinds, reachable
from tests.sessions.clients import client_of
from tests.sessions.rescues import Clock, press
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _cast(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = "a key"
    settings.NOTIFY_EMAIL_URL = ""
    for name in ("Alice", "Bob"):
        reachable(name)
    reachable("Sue", role="supervisor")


def at_once(*jobs: Callable[[], object]) -> None:
    """Runs each on a thread and a database connection of its own, all let go together."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        try:
            barrier.wait(100)
            job()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(jobs)) as pool:
        for future in [pool.submit(run, job) for job in jobs]:
            future.result(100)


def test_several_workers_ask_each_person_once(settings: Settings) -> None:
    clock = Clock()
    sessions = [press(f"M{number}", now=clock()) for number in range(6)]
    workers = [Asker(f"asker {number}", now=clock, ask_all=Telemetry("alice", "bob")) for number in range(3)]
    for seconds in (0, 45, 60):
        clock.tick(seconds)
        at_once(*(worker.run_pass for worker in workers))
    for session in sessions:
        assert asked(session) == ["alice", "bob", "sue"]
        assert kinds(session) == ["requested", "asked", "asked", "supervisors_asked"]
        assert escalation(session).turn == 3
    assert Delivery.objects.count() == len(sessions) * 3


def test_claim_at_the_moment_of_a_step_leaves_nobody_asked() -> None:
    """Whichever commits first: after the next look no message about a rescue that is taken is still to be sent."""
    clock = Clock()
    alice = User.objects.get(username="alice")
    for round_ in range(6):
        session = press(f"M{round_}", now=clock())
        worker = Asker("asker", now=clock, ask_all=Telemetry("alice", "bob"))
        worker.run_pass()
        clock.tick(45)
        at_once(worker.run_pass, lambda: services.claim(fresh(session), user=alice, now=clock()))  # noqa: B023
        worker.run_pass()
        pending = Delivery.objects.filter(subject=session.pk, kind="asked", state="pending")
        # Alice's own is left alone: she has it, and the judge keeps it from being sent.
        assert set(pending.values_list("recipient__username", flat=True)) <= {"alice"}
        assert escalation(session).settled_as == "taken"
        assert fresh(session).operator == alice
        trail = list(SessionEvent.objects.filter(session=session).values_list("kind", flat=True))
        assert "asked" not in trail[trail.index("claimed") :]


def test_claims_and_releases_at_once_with_two_workers_end_in_one_truth() -> None:
    clock = Clock()
    people = [User.objects.get(username=name) for name in ("alice", "bob")]
    session = press("M1", now=clock())
    workers = [Asker(f"asker {number}", now=clock, ask_all=Telemetry("alice", "bob")) for number in range(2)]

    def claim_and_release(user: User) -> None:
        for _ in range(3):
            try:
                services.release(services.claim(fresh(session), user=user), user=user)
            except Exception as error:
                assert isinstance(error, AlreadyClaimed | StateConflict), error

    at_once(
        *(lambda user=user: claim_and_release(user) for user in people),
        *(lambda worker=worker: [worker.run_pass() for _ in range(4)] for worker in workers),
    )
    workers[0].run_pass()
    row = escalation(session)
    assert (row.settled_as, row.answer_due_at) == ("", fresh(session).answer_due_at)
    assert Asked.objects.filter(session=session, round=row.round).exists()
    rows = list(Asked.objects.filter(session=session).values_list("user", "round"))
    assert len(rows) == len(set(rows))


def test_press_wakes_the_asker_at_once_and_a_claim_settles_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.worker.ASKER_POLL_S", 600.0)
    stop = threading.Event()
    worker = Asker("asker", ask_all=Telemetry("alice", "bob"))
    thread = threading.Thread(target=worker.run_for_ever, args=(stop,))
    thread.start()
    try:
        session = press("M1")
        until(lambda: asked(session) == ["alice"], "Alice is asked")
        services.claim(fresh(session), user=User.objects.get(username="bob"))
        until(lambda: Escalation.objects.get(session=session).settled_as == "taken", "it is known as taken")
        assert not Delivery.objects.filter(subject=session.pk, kind="asked", state="pending").exists()
    finally:
        stop.set()
        bell.ring()
        thread.join(30)
    assert not thread.is_alive(), "the bell that tells of a stop wakes the asker, too"


def test_of_two_phones_that_claim_at_once_one_has_it_and_the_other_reads_who() -> None:
    session: SupportSession = press("M1")
    answers: dict[str, tuple[int, dict[str, object]]] = {}

    def claim(name: str) -> None:
        client = client_of(User.objects.get(username=name))
        answer = client.post(f"/api/v1/sessions/{session.pk}/claim/", {}, content_type="application/json")
        answers[name] = answer.status_code, answer.json()

    at_once(lambda: claim("alice"), lambda: claim("bob"))
    (winner,) = [name for name, (status, _) in answers.items() if status == 200]
    (loser,) = [name for name, (status, _) in answers.items() if status == 409]
    told = answers[loser][1]
    assert told["code"] == "already_claimed"
    assert told["operator"]["name"] == winner.capitalize()  # type: ignore[index]
    assert winner.capitalize() in str(told["detail"])
