"""Of a process's workers one does it all; the next one helps while that one is held up."""

from __future__ import annotations

import threading

import pytest

from sessions import bell, worker
from sessions.worker import Worker
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


def start(one: Worker, stop: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=one.run_for_ever, args=(stop,), daemon=True)
    thread.start()
    return thread


def test_second_worker_works_only_while_the_first_is_held_up(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_HELP_AFTER_S", 600)  # a pass that only the computer holds up is not meant
    first = Worker("tests:1")
    second = Worker("tests:2", helps=first)
    passes: dict[str, int] = {"first": 0, "second": 0}
    goes_on, hangs = threading.Event(), threading.Event()

    def first_pass() -> None:
        passes["first"] += 1
        if hangs.is_set():
            goes_on.wait(100)

    def second_pass() -> None:
        passes["second"] += 1

    monkeypatch.setattr(first, "run_pass", first_pass)
    monkeypatch.setattr(second, "run_pass", second_pass)
    threads = [start(first, stop), start(second, stop)]

    def rung_until(told: object, what: str) -> None:
        def ring_and_look() -> bool:
            bell.ring()
            return bool(told()) if callable(told) else False

        until(ring_and_look, what)

    try:
        rung_until(lambda: passes["first"] >= 5, "the first worker has looked")
        assert passes["second"] == 0
        hangs.set()
        monkeypatch.setattr(worker, "_HELP_AFTER_S", 0.05)
        rung_until(lambda: passes["second"] >= 2, "the second worker helps")
    finally:
        stop.set()
        goes_on.set()
        bell.ring()
        for thread in threads:
            thread.join(30)
