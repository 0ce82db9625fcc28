"""The leases of a process that is dead are free at once; those of one that lives are never taken."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from sessions import gateway_rows, keeper_rows, signs_of_life
from sessions.models import Gateway
from sessions.signs_of_life import SignOfLife, bury_dead
from tests.sessions.keeping import give_gateway
from tests.sessions.rescues import press

_PROGRAM = """
import sys, pathlib
from sessions.signs_of_life import SignOfLife
with SignOfLife(pathlib.Path(sys.argv[1])) as process:
    print(process.name, flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_process(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process with a sign of life, and its name; it ends in good order when its input does."""
    program = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with program:
        assert program.stdout is not None
        yield program, program.stdout.readline().strip()


def kill(program: subprocess.Popen[str]) -> None:
    program.kill()
    program.wait()


def never(name: str) -> None:
    raise AssertionError(f"{name} is alive")


def test_living_process_is_left_alone_even_when_it_is_stopped(tmp_path: Path) -> None:
    with another_process(tmp_path) as (program, name):
        assert bury_dead(never, tmp_path) == []
        program.send_signal(signal.SIGSTOP)
        assert bury_dead(never, tmp_path) == []
        program.send_signal(signal.SIGCONT)
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_own_process_is_left_alone(tmp_path: Path) -> None:
    with SignOfLife(tmp_path):
        assert bury_dead(never, tmp_path) == []


def test_killed_process_is_buried_once(tmp_path: Path) -> None:
    forgotten: list[str] = []
    with another_process(tmp_path) as (program, name):
        kill(program)
        assert bury_dead(forgotten.append, tmp_path) == [name]
        assert bury_dead(forgotten.append, tmp_path) == []
    assert forgotten == [name] and list(tmp_path.iterdir()) == []


def test_orderly_end_leaves_no_file(tmp_path: Path) -> None:
    with another_process(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_dead_process_is_buried_later_when_the_database_is_away(tmp_path: Path) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("the database is away")

    with another_process(tmp_path) as (program, name):
        kill(program)
        with pytest.raises(RuntimeError):
            bury_dead(fail, tmp_path)
        assert bury_dead(lambda name: None, tmp_path) == [name]


def test_nothing_is_believed_of_another_kernel_s_processes(tmp_path: Path) -> None:
    foreign = tmp_path / "other-host:1:0123456789abcdef"
    foreign.write_text("another boot")
    assert bury_dead(never, tmp_path) == []
    assert foreign.exists()


def test_two_processes_never_have_one_name(tmp_path: Path) -> None:
    with SignOfLife(tmp_path) as one, SignOfLife(tmp_path) as two:
        assert one.name != two.name
        room = Gateway._meta.get_field("keeper").max_length
        assert room and len(f"{one.name}:keeper") <= room


def test_folder_that_cannot_be_written_costs_only_the_speed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    with SignOfLife(tmp_path / "file" / "processes") as process:
        assert process.name
    assert "leases have to run out" in caplog.text


@pytest.mark.django_db
def test_leases_of_the_dead_are_free_and_those_of_the_living_stay() -> None:
    now = timezone.now()
    kept = give_gateway(press("A1"), 4822)
    leased = give_gateway(press("A2"), 4823)
    for living, dead in (("host:1:aa", "host:1:bb"), ("host:1:bb", "host:1:b")):
        Gateway.objects.filter(pk=leased.pk).update(lease_owner=f"{living}:1", lease_until=now + timedelta(seconds=20))
        assert kept.pk in keeper_rows.take(f"{living}:keeper", now=now)
        gateway_rows.forget_process(dead)
        assert keeper_rows.take(f"{dead}:keeper", now=now) == set()
        assert list(gateway_rows.due(("ready",), now=now + timedelta(seconds=1)).values_list("pk")) == [(kept.pk,)]  # type: ignore[arg-type]
        gateway_rows.forget_process(living)
        assert kept.pk in keeper_rows.take(f"{dead}:keeper", now=now)
        assert gateway_rows.due(("ready",), now=now + timedelta(seconds=1)).count() == 2  # type: ignore[arg-type]
        gateway_rows.forget_process(dead)


def test_files_of_old_boots_are_cleared_away(tmp_path: Path, monkeypatch: Any) -> None:
    foreign = tmp_path / "other-host:1:0123456789abcdef"
    foreign.write_text("another boot")
    monkeypatch.setattr(signs_of_life, "_FORGOTTEN_AFTER_S", -1.0)
    assert bury_dead(never, tmp_path) == []
    assert not foreign.exists()
