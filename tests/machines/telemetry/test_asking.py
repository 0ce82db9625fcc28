"""Asking telemetry: no rescue waits for it, whatever it does; and what stands in is said."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.db import connections
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines.models import KeptAnswer, Machine, User
from machines.telemetry import asking
from machines.telemetry.base import Candidate, Duty, LastWord, MachineUnknown, Profile, TelemetryError
from machines.telemetry.breaker import Breaker
from tests.fakes.telemetry_web import KEY, TelemetryWeb, telemetry_web
from tests.sessions.rescues import machine, person
from tests.waiting import until

# The threads that ask have database connections of their own.
pytestmark = pytest.mark.django_db(transaction=True)
ROOT = Path(__file__).resolve().parents[3]


class Oracle:
    """A driver that does what the test says: answers, raises, or hangs until it may go on."""

    def __init__(self) -> None:
        self.answer: Duty | Exception = duty("alice", "bob")
        self.word: LastWord | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.calls = 0
        self._lock = threading.Lock()

    def who_is_responsible(self, machine: Machine, *, now: datetime) -> Duty:
        with self._lock:
            self.calls += 1
        assert self.may_answer.wait(30)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def last_word(self, machine: Machine) -> LastWord | None:
        return self.word

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        raise NotImplementedError


_oracles: list[Oracle] = []


def the_oracle() -> Oracle:
    """What the setting TELEMETRY names."""
    return _oracles[-1]


def duty(*names: str, next_at: datetime | None = None) -> Duty:
    return Duty(tuple(Candidate(name, "on call") for name in names), "http", next_at)


def names(found: Duty) -> list[str]:
    return [one.username for one in found.candidates]


@pytest.fixture
def oracle(settings: Settings) -> Iterator[Oracle]:
    found = Oracle()
    _oracles.append(found)
    settings.TELEMETRY = f"{__name__}.the_oracle"
    settings.TELEMETRY_TIMEOUT_S = 20.0  # a busy computer's threads start late
    asking.forget()
    yield found
    found.may_answer.set()
    until(at_rest, "no thread writes into the next test's database")
    asking.forget()
    _oracles.clear()


@pytest.fixture
def hurry(oracle: Oracle, settings: Settings) -> None:
    """For tests of what is too slow."""
    settings.TELEMETRY_TIMEOUT_S = 0.3


@pytest.fixture
def crew() -> list[User]:
    return [person("Alice"), person("Bob"), person("Charlie", of="South")]


def way() -> asking._Way:
    return asking._way()


class Trials(threading.Event):
    """In the place of the event that ends the way: between trials no time passes but the test's word."""

    def __init__(self) -> None:
        super().__init__()
        self._due = threading.Semaphore(0)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout == asking.TRIAL_EVERY_S
        self._due.acquire()
        return self.is_set()

    def due(self) -> None:
        self._due.release()

    def set(self) -> None:
        super().set()
        self._due.release()


def at_rest() -> bool:
    """Nothing is asked any more, nor being written."""
    return not way()._given_up and not way()._to_hear


# --- good answers -----------------------------------------------------------------------------------------------------


def test_answer_comes_as_it_was_given_and_is_kept(oracle: Oracle, crew: list[User]) -> None:
    now = timezone.now()
    found = asking.ask(machine(), now=now)
    assert (names(found), found.source, found.stood_in) == (["alice", "bob"], "http", "")
    kept = KeptAnswer.objects.get()
    assert (kept.machine, kept.at, kept.source) == (machine(), now, "http")


def test_nobody_is_an_answer(oracle: Oracle, crew: list[User]) -> None:
    at = timezone.now() + timedelta(hours=3)
    oracle.answer = duty(next_at=at)
    assert asking.ask(machine(), now=timezone.now()) == Duty((), "http", at)


def test_strangers_the_inactive_and_other_fleets_people_are_left_out(
    oracle: Oracle, crew: list[User], caplog: pytest.LogCaptureFixture
) -> None:
    User.objects.filter(username="bob").update(is_active=False)
    User.objects.create(username="visitor")
    oracle.answer = duty("charlie", "mallory", "visitor", "bob", "alice", "alice", "Alice")
    found = asking.ask(machine(), now=timezone.now())
    assert (names(found), found.stood_in) == (["alice"], "")
    assert "charlie" in caplog.text


def test_answer_with_strangers_alone_is_no_answer(oracle: Oracle, crew: list[User]) -> None:
    oracle.answer = duty("charlie", "mallory")
    found = asking.ask(machine(), now=timezone.now())
    assert found.source == "builtin"
    assert "charlie" not in names(found)
    assert found.stood_in == "Telemetry named nobody who works for this fleet. Portafilter's own rota was used."


def test_machines_of_two_fleets_are_asked_about_at_once_each_with_its_own_people(
    oracle: Oracle, crew: list[User]
) -> None:
    oracle.answer = duty("charlie", "alice")
    one, other = machine(), machine("B1", of="South")
    found = asking.ask_all([one, other], now=timezone.now())
    assert {pk: names(duty) for pk, duty in found.items()} == {one.pk: ["alice"], other.pk: ["charlie"]}


def test_last_word_reaches_the_machines_row_if_it_is_news(oracle: Oracle, crew: list[User]) -> None:
    at = timezone.now()
    oracle.word = LastWord(at, True, "4.2", ("E17",))
    asking.ask(machine(), now=at)
    until(lambda: machine().software == "4.2", "the word is in the row")
    assert (machine().last_seen_at, machine().faults) == (at, ["E17"])
    oracle.word = LastWord(at - timedelta(hours=1), True, "4.1", ())
    asking.ask(machine(), now=at)
    until(at_rest, "it was heard")
    assert machine().software == "4.2"
    word = asking.last_word(machine())
    assert word is not None and word.software == "4.2"
    oracle.word = LastWord(at + timedelta(days=400), True, "4.3", ())
    asking.ask(machine(), now=at)
    until(lambda: machine().software == "4.3", "news from a clock that is ahead")
    seen_at = machine().last_seen_at
    assert seen_at is not None and seen_at <= timezone.now()


def test_word_of_a_clock_that_is_ahead_was_said_now(oracle: Oracle, crew: list[User]) -> None:
    oracle.word = LastWord(timezone.now() + timedelta(days=365), True, "4.2", ())
    asking.ask(machine(), now=timezone.now())
    until(lambda: machine().software == "4.2", "the word is in the row")
    seen_at = machine().last_seen_at
    assert seen_at is not None and seen_at <= timezone.now()


# --- telemetry is slow, down or wrong ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("hurry")
def test_slow_telemetry_holds_nobody_and_its_late_answer_is_kept(oracle: Oracle, crew: list[User]) -> None:
    oracle.may_answer.clear()
    begun = time.monotonic()
    found = asking.ask(machine(), now=timezone.now())
    assert time.monotonic() - begun < 20, "it would hang for 30 s"
    assert found.source == "builtin"
    assert found.stood_in == "Telemetry did not answer within 0.3 s. Portafilter's own rota was used."
    oracle.may_answer.set()
    until(KeptAnswer.objects.exists, "the late answer is kept")


def test_last_good_answer_stands_in_while_it_is_fresh(oracle: Oracle, crew: list[User], settings: Settings) -> None:
    now = timezone.now()
    asking.ask(machine(), now=now)
    oracle.answer = TelemetryError("Telemetry answered with status 500, expected 200.")
    found = asking.ask(machine(), now=now + timedelta(minutes=4))
    assert (names(found), found.source) == (["alice", "bob"], "http")
    assert found.stood_in == ("Telemetry answered with status 500, expected 200. Its answer of 4 min ago was used.")
    User.objects.filter(username="alice").update(is_active=False)
    assert names(asking.ask(machine(), now=now + timedelta(minutes=5))) == ["bob"]
    late = asking.ask(machine(), now=now + timedelta(seconds=settings.TELEMETRY_KEEP_S + 1))
    assert late.source == "builtin"


def test_older_answer_never_takes_the_place_of_a_newer(crew: list[User]) -> None:
    now = timezone.now()
    asking.keep(machine(), duty("alice"), at=now)
    asking.keep(machine(), duty("bob"), at=now - timedelta(seconds=5))
    assert KeptAnswer.objects.get().answer["candidates"][0]["username"] == "alice"


def test_kept_answer_that_cannot_be_read_is_not_used(
    oracle: Oracle, crew: list[User], caplog: pytest.LogCaptureFixture
) -> None:
    now = timezone.now()
    KeptAnswer.objects.create(machine=machine(), source="http", answer={"people": []}, at=now)
    oracle.answer = TelemetryError("No line.")
    assert asking.ask(machine(), now=now).source == "builtin"
    assert "candidates: found nothing" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("boom <secret>"), TelemetryError("No line")])
def test_driver_that_breaks_breaks_nothing_else(oracle: Oracle, crew: list[User], error: Exception) -> None:
    oracle.answer = error
    found = asking.ask(machine(), now=timezone.now())
    assert found.stood_in in {
        "Telemetry could not be asked. Portafilter's own rota was used.",
        "No line. Portafilter's own rota was used.",
    }


def test_driver_that_cannot_be_made_stands_in_nobodys_way(settings: Settings, crew: list[User]) -> None:
    settings.TELEMETRY, settings.TELEMETRY_URL, settings.TELEMETRY_KEY = "http", "http://elsewhere.example.com", KEY
    asking.forget()
    try:
        found = asking.ask(machine(), now=timezone.now())
    finally:
        asking.forget()
    assert "expected https://" in found.stood_in


def test_after_a_few_failures_nobody_waits_and_one_trial_finds_it_back(
    oracle: Oracle, crew: list[User], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trials = Trials()
    monkeypatch.setattr(way(), "_is_ended", trials)
    oracle.answer = TelemetryError("No line.")
    for _ in range(3):
        asking.ask(machine(), now=timezone.now())
    assert oracle.calls == 3
    oracle.answer = duty("bob")
    down = "Telemetry is down. Portafilter's own rota was used."
    found = [asking.ask(machine(), now=timezone.now()).stood_in for _ in range(5)]
    assert oracle.calls == 3, "no press asks while the breaker is open"
    assert found == [down] * 5
    oracle.may_answer.clear()
    trials.due()
    until(lambda: oracle.calls == 4, "a trial, though nobody presses")
    assert asking.ask(machine(), now=timezone.now()).stood_in == down, "a press does not wait for the trial"
    oracle.may_answer.set()
    until(lambda: not way()._breaker.is_open, "it is closed by the trial")
    assert names(asking.ask(machine(), now=timezone.now())) == ["bob"]
    assert [record.levelno for record in caplog.records if "Telemetry is down" in record.message] == [logging.WARNING]


@pytest.mark.usefixtures("hurry")
def test_trial_that_takes_too_long_does_not_close_it(
    oracle: Oracle, crew: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way(), "_is_ended", Trials())
    oracle.may_answer.clear()

    def is_open_after_a_press() -> bool:  # the third, but for one whose thread had not begun in time
        asking.ask(machine(), now=timezone.now())
        return way()._breaker.is_open

    until(is_open_after_a_press, "three failures")
    trial = way()._begin(machine(), timezone.now(), is_waited_for=False)
    until(lambda: way()._took(trial) > 0.31, "it has taken longer than a press waits")
    oracle.may_answer.set()
    until(lambda: not way()._given_up, "all are done")
    assert way()._breaker.is_open
    assert KeptAnswer.objects.count() == 1, "what it said is used all the same"
    assert names(asking.ask(machine(), now=timezone.now())) == ["alice", "bob"]


def test_machine_that_telemetry_does_not_know_does_not_make_it_down(oracle: Oracle, crew: list[User]) -> None:
    oracle.answer = MachineUnknown("Telemetry does not know A1 of North.")
    for _ in range(5):
        found = asking.ask(machine(), now=timezone.now())
    assert oracle.calls == 5
    assert found.stood_in == "Telemetry does not know A1 of North. Portafilter's own rota was used."


@pytest.mark.usefixtures("hurry")
def test_telemetry_that_hangs_for_ever_costs_a_few_threads_and_no_more(
    oracle: Oracle, crew: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle.may_answer.clear()
    monkeypatch.setattr(way()._breaker, "failed", lambda: False)  # the breaker alone would be enough
    before, machines = threading.active_count(), [machine(f"M{number}") for number in range(30)]

    def all_hang() -> bool:  # after the first time, but for threads that had not begun in time
        asking.ask_all(machines, now=timezone.now())
        return len(way()._given_up) == asking.AT_ONCE

    until(all_hang, "all threads hang")
    begun = time.monotonic()
    for _ in range(50):
        assert asking.ask(machines[0], now=timezone.now()).stood_in.startswith("Telemetry is down.")
    assert time.monotonic() - begun < 50 * 0.3, "nobody waits any more"
    assert oracle.calls == asking.AT_ONCE
    assert threading.active_count() - before <= asking.AT_ONCE + 1
    oracle.may_answer.set()
    until(lambda: not way()._given_up, "the threads are free again")
    assert names(asking.ask(machines[0], now=timezone.now())) == ["alice", "bob"]


def test_many_at_once_are_no_failure_of_telemetry(oracle: Oracle, crew: list[User], settings: Settings) -> None:
    """Telemetry takes its time with each, and there are more than there are hands: those not begun prove nothing."""
    settings.TELEMETRY_TIMEOUT_S = 1.5
    machines = [machine(f"M{number}") for number in range(160)]
    slow = oracle.who_is_responsible

    def in_150_ms(machine: Machine, *, now: datetime) -> Duty:
        time.sleep(0.15)  # all of them take twice as long as a rescue waits
        return slow(machine, now=now)

    oracle.who_is_responsible = in_150_ms  # type: ignore[method-assign]
    found = asking.ask_all(machines, now=timezone.now())
    answered = [one for one in found.values() if not one.stood_in]
    assert asking.AT_ONCE <= len(answered) < len(found) == 160
    until(at_rest, "all are done")
    assert not way()._breaker.is_open


def test_threads_that_ask_do_not_get_in_each_others_way(oracle: Oracle, crew: list[User]) -> None:
    machines = [machine(f"M{number}") for number in range(4)]

    def press(number: int) -> Duty:
        try:
            return asking.ask(machines[number % 4], now=timezone.now())
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(press, range(24)))
    assert [names(one) for one in found] == [["alice", "bob"]] * 24
    assert KeptAnswer.objects.count() == 4
    until(at_rest, "all is heard")


# --- pages ------------------------------------------------------------------------------------------------------------


def test_preview_calls_nothing_outside(oracle: Oracle, crew: list[User]) -> None:
    now = timezone.now()
    before = asking.preview(machine(), now)
    assert (before.source, oracle.calls) == ("builtin", 0)
    assert before.stood_in == "Telemetry is asked at a press. So Portafilter's own rota has it."
    asking.ask(machine(), now=now)
    after = asking.preview(machine(), now + timedelta(seconds=30))
    assert (names(after), oracle.calls) == (["alice", "bob"], 1)
    assert after.stood_in == "So telemetry said 30 s ago; at a press it is asked anew."


def test_builtin_is_just_called(crew: list[User], django_assert_max_num_queries: object) -> None:
    asking.forget()
    found = asking.ask(machine(), now=timezone.now())
    assert (found.source, found.stood_in) == ("builtin", "")
    assert asking.preview(machine(), timezone.now()) == found
    assert not KeptAnswer.objects.exists()
    assert asking._the_way is None, "no thread is there for it"


def test_answers_cost_few_queries(oracle: Oracle, crew: list[User], django_assert_num_queries: object) -> None:
    one = Machine.objects.select_related("fleet", "site", "model").get(pk=machine().pk)
    asking.ask(one, now=timezone.now())
    with django_assert_num_queries(2):  # type: ignore[operator]
        asking.ask(one, now=timezone.now())


# --- with the real driver ---------------------------------------------------------------------------------------------


@pytest.fixture
def app(settings: Settings) -> Iterator[TelemetryWeb]:
    with telemetry_web() as found:
        settings.TELEMETRY, settings.TELEMETRY_URL, settings.TELEMETRY_KEY = "http", found.url, KEY
        settings.TELEMETRY_TIMEOUT_S = 20.0
        asking.forget()
        yield found
        found.let_go.set()
        until(at_rest, "the threads are done")
        asking.forget()


@pytest.mark.parametrize("mood", ["drip", "hang", "status 500", "raw", "status 302", "close"])
def test_rescue_is_not_delayed_by_a_web_app_that_misbehaves(
    app: TelemetryWeb, crew: list[User], settings: Settings, mood: str
) -> None:
    app.duties["north", "A1"] = {"candidates": [{"username": "bob"}]}
    now = timezone.now()
    assert names(asking.ask(machine(), now=now)) == ["bob"]
    until(at_rest, "its last word was asked for, too; it has none, so no connection is kept to be tried first")
    app.mood, app.raw = mood, b'{"candidates": 7}'
    if mood in ("drip", "hang"):
        settings.TELEMETRY_TIMEOUT_S = 0.7
        asking.forget()
    found = []
    for _ in range(10):
        begun = time.monotonic()
        found.append(asking.ask(machine(), now=now + timedelta(seconds=1)))
        assert time.monotonic() - begun < 0.7 + 3
        # At once, but for one whose thread began late: it counts when it ends.
        until(lambda: all(call.is_counted for call in list(way()._given_up)), "its failure is counted")
    assert all(names(one) == ["bob"] and one.stood_in.endswith("Its answer of 1 s ago was used.") for one in found)
    assert len([one for one in app.seen if "responsible" in one.path]) == 4, "the breaker has opened"


# --- the breaker ------------------------------------------------------------------------------------------------------


def test_breaker_opens_after_failures_in_a_row_only() -> None:
    breaker = Breaker(failures=3)
    assert [breaker.failed(), breaker.failed(), breaker.succeeded(), breaker.failed(), breaker.failed()] == [False] * 5
    assert not breaker.is_open
    assert breaker.failed()
    assert breaker.is_open


def test_breaker_closes_by_success() -> None:
    breaker = Breaker(failures=1)
    assert not breaker.succeeded()
    assert breaker.failed()
    assert not breaker.failed(), "it is open already"
    assert breaker.succeeded()
    assert not breaker.is_open
