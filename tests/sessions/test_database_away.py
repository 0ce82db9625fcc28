"""The database goes away and comes back: who waited for it goes on within seconds (F10)."""

from __future__ import annotations

import threading

import pytest
from django.db import OperationalError

from notifications import bell
from notifications import sender as sending
from sessions.worker import Asker

# They ask it nothing, but look after the connection that a test before them may have left.
pytestmark = pytest.mark.django_db(transaction=True)


class Waited(threading.Event):
    """A stop that passes the time at once, and counts it."""

    seconds = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds += timeout or 0.0
        return self.is_set()


@pytest.mark.parametrize("away_s", [5, 40, 300])
def test_asker_is_back_within_ten_seconds_of_the_database(away_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Waited()

    def run_pass() -> None:
        if stop.seconds < away_s:
            raise OperationalError("the database is away")
        stop.set()

    asker = Asker("tests:asker")
    monkeypatch.setattr(asker, "run_pass", run_pass)
    asker.run_for_ever(stop)
    assert away_s <= stop.seconds <= away_s + 10


@pytest.mark.parametrize("away_s", [5, 40, 300])
def test_sender_is_back_within_ten_seconds_of_the_database(away_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, sender = Waited(), sending.Sender("tests:sender", lanes=dict, sees_to_the_rest=False)

    def turn(*_: object) -> list[object]:
        if stop.seconds < away_s:
            raise OperationalError("the database is away")
        stop.set()
        bell.ring()
        return []

    async def pass_the_time(stop: Waited, delay_s: float) -> None:
        stop.wait(delay_s)

    monkeypatch.setattr(sender, "_turn", turn)
    monkeypatch.setattr(sending, "_sleep_unless", pass_the_time)
    sender.run_for_ever(stop)
    assert away_s <= stop.seconds <= away_s + 10
