"""The worker with real guacd processes, as the server and `manage.py work` run it."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from sessions import bell, services
from sessions.gateways import processes
from sessions.gateways.base import get_driver
from sessions.gateways.local import LocalGateways
from sessions.models import Gateway, RdpCredential, SupportSession
from sessions.states import GatewayState, State
from sessions.worker import start_threads
from tests.sessions.rescues import press
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def installation(settings: Settings) -> Iterator[str]:
    """Worker threads of an installation of its own; nothing of it may run afterwards."""
    settings.GATEWAY, settings.INSTALLATION = "local", f"test-{uuid.uuid4()}"
    get_driver.cache_clear()
    stop = threading.Event()
    threads = start_threads(2, process="test", stop=stop)
    yield settings.INSTALLATION
    stop.set()
    bell.ring()
    for thread in threads:
        thread.join(60)
    driver = get_driver("local")
    assert isinstance(driver, LocalGateways)
    leftovers = driver.running()
    for attempt_id in leftovers:
        driver.stop(attempt_id, {})
    assert not driver._folder.exists()
    get_driver.cache_clear()
    connections.close_all()
    assert not any(thread.is_alive() for thread in threads)
    assert leftovers == []


def _guacds(installation: str) -> list[processes.Process]:
    return processes.find(PORTAFILTER_INSTALLATION=installation)


def test_guacd_comes_with_the_press_is_replaced_when_killed_and_goes_with_the_end(installation: str) -> None:
    session = press("A1")
    ready = Gateway.objects.filter(session=session, state=GatewayState.READY)
    until(ready.exists, "a gateway is ready", timeout_s=60)
    first = ready.get()
    os.kill(int(first.handle["pid"]), signal.SIGKILL)
    until(ready.exclude(pk=first.pk).exists, "another one has taken its place", timeout_s=60)
    assert ready.get().port != first.port or ready.get().handle != first.handle
    services.cancel(SupportSession.objects.get(pk=session.pk))
    services.machine_told(SupportSession.objects.get(pk=session.pk))
    until(SupportSession.objects.filter(pk=session.pk, state=State.CLOSED).exists, "the session is closed")
    assert _guacds(installation) == []
    assert not RdpCredential.objects.exists()


def test_ten_presses_at_once_get_a_guacd_each(installation: str) -> None:
    for number in range(10):
        press(f"M{number}")
    until(
        lambda: Gateway.objects.filter(state=GatewayState.READY).count() == 10, "ten gateways are ready", timeout_s=60
    )
    assert len({gateway.port for gateway in Gateway.objects.all()}) == 10
    assert len([one for one in _guacds(installation) if one.pid == one.session]) == 10
    for session in SupportSession.objects.all():
        services.cancel(session)
        services.machine_told(SupportSession.objects.get(pk=session.pk))
    until(lambda: SupportSession.objects.filter(state=State.CLOSED).count() == 10, "all are closed", timeout_s=60)
    assert _guacds(installation) == []


def _tell_first(worker: subprocess.Popen[str]) -> None:
    worker.send_signal(signal.SIGTERM)


def _tell_another_thread(worker: subprocess.Popen[str]) -> None:
    """As the kernel may, while the main one sleeps: a signal for a process goes to any of its threads."""
    seen: list[list[str]] = []

    def sleeps() -> bool:
        status = Path(f"/proc/{worker.pid}/task/{worker.pid}/status").read_text()
        # Its state, too: one that only waits for a processor does not switch either.
        seen.append([line for line in status.splitlines() if line.startswith("State:") or "ctxt_switches" in line])
        return "State:\tS (sleeping)" in seen[-1] and seen[-20:].count(seen[-1]) == 20

    until(sleeps, "the main thread sleeps")
    other = max(int(entry.name) for entry in Path(f"/proc/{worker.pid}/task").iterdir())
    assert other != worker.pid
    tgkill = 234 if platform.machine() == "x86_64" else 131
    assert ctypes.CDLL(None).syscall(tgkill, worker.pid, other, int(signal.SIGTERM)) == 0


@pytest.mark.parametrize("tell", [_tell_first, _tell_another_thread])
def test_work_command_ends_at_once_when_told_to(tmp_path: Path, tell: Callable[[subprocess.Popen[str]], None]) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite3'}",
        "INSTALLATION": f"test-{uuid.uuid4()}",
    }
    worker = subprocess.Popen(
        [sys.executable, "manage.py", "work", "--threads", "1"], cwd=root, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "Working with 1 threads; Ctrl-C ends it.\n"
        tell(worker)
        # Its database has no tables, so that its passes fail; it ends as told all the same.
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
