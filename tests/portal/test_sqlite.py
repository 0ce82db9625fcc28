"""Writers of one process on SQLite wait for their turn, and none keeps it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from machines.models import MachineModel
from portal.sqlite import base
from tests.waiting import LONG_S

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif("connection.vendor != 'sqlite'", reason="PostgreSQL has locks for rows"),
]


@pytest.fixture
def hands() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def is_free() -> bool:
    lock = base._locks[str(connection.settings_dict["NAME"])]
    if not lock.acquire(blocking=False):
        return False
    lock.release()
    return True


def add(name: str) -> None:
    try:
        MachineModel.objects.create(name=name)
    finally:
        connection.close()


def test_writer_waits_until_another_has_committed(hands: ThreadPoolExecutor) -> None:
    with transaction.atomic():
        MachineModel.objects.create(name="first")
        late = hands.submit(add, "second")
        assert not is_free()
        with pytest.raises(TimeoutError):
            late.result(0.1)
    late.result(LONG_S)
    assert is_free()


def test_reader_waits_for_nobody(hands: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PATIENCE_S", 2 * LONG_S)

    def count() -> int:
        try:
            return MachineModel.objects.count()
        finally:
            connection.close()

    with transaction.atomic():
        MachineModel.objects.create(name="first")
        assert hands.submit(count).result(LONG_S) == 0


@pytest.mark.parametrize("how", ["rolled back", "refused", "alone", "alone and refused", "many alone", "closed"])
def test_turn_ends_however_the_writing_does(how: str) -> None:
    def write() -> None:
        match how:
            case "rolled back":
                with transaction.atomic():
                    MachineModel.objects.create(name="one")
                    raise DatabaseError
            case "refused":
                with transaction.atomic():
                    MachineModel.objects.create(name="one")
                    MachineModel.objects.create(name="one")
            case "alone":
                MachineModel.objects.update(notes="seen")
            case "alone and refused":
                with connection.cursor() as cursor:
                    cursor.execute("INSERT INTO nothing_here VALUES (1)")
            case "many alone":
                with connection.cursor() as cursor:
                    cursor.executemany("DELETE FROM machines_machinemodel WHERE name = %s", [("one",), ("two",)])
            case "closed":
                transaction.set_autocommit(False)
                MachineModel.objects.create(name="one")
                connection.close()

    if how in {"rolled back", "refused", "alone and refused"}:
        with pytest.raises(DatabaseError):
            write()
    else:
        write()
    assert is_free()


def test_writers_of_many_threads_all_write(hands: ThreadPoolExecutor) -> None:
    ready = threading.Barrier(8)

    def many(number: int) -> None:
        ready.wait(LONG_S)
        for turn in range(10):
            with transaction.atomic():
                MachineModel.objects.create(name=f"{number}.{turn}")
            MachineModel.objects.filter(name=f"{number}.{turn}").update(notes="seen")
        connection.close()

    for done in [hands.submit(many, number) for number in range(8)]:
        done.result(2 * LONG_S)
    assert MachineModel.objects.filter(notes="seen").count() == 80
    assert is_free()


def test_who_has_waited_too_long_goes_on_and_takes_nobodys_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PATIENCE_S", 0.01)
    lock: Any = base._locks[str(connection.settings_dict["NAME"])]
    with lock:
        with transaction.atomic():
            MachineModel.objects.create(name="one")
        MachineModel.objects.update(notes="seen")
        assert lock.locked()
    assert MachineModel.objects.get().notes == "seen"
