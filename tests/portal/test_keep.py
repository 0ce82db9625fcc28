"""`manage.py keep` as a service manager starts and ends it, beside others on the same database."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import connection

from sessions.models import GuacamoleConnection
from sessions.states import State
from tests.fakes.guacd import FakeGuacd
from tests.portal.server_process import MANAGE
from tests.sessions.keeping import again, rescue, until_state
from tests.sessions.rescues import PASSWORD
from tests.waiting import LONG_S, until

pytestmark = pytest.mark.django_db(transaction=True)

_START_S = 60


def _database_url() -> str:
    """Where this test's own rows are, for another process."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        return f"sqlite:///{name}"
    return urlsplit(settings.DATABASE_URL)._replace(path=f"/{name}").geturl()


@contextmanager
def _keep(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command, once it has said that it keeps desktops."""
    environment = {**os.environ, "DATABASE_URL": _database_url(), "DJANGO_SETTINGS_MODULE": "portal.settings"}
    with log.open("wb") as output:
        process = subprocess.Popen([*MANAGE, "keep"], env=environment, stdout=output, stderr=output)
    try:
        until(lambda: process.poll() is not None or b"\n" in log.read_bytes(), "it says something", timeout_s=_START_S)
        assert log.read_text().splitlines()[0] == "Keeping desktops; Ctrl-C ends it.", log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_desktop_is_held_given_back_at_the_end_and_taken_up_by_the_next(tmp_path: Path, number: signal.Signals) -> None:
    with FakeGuacd(frame_interval_s=0.1) as guacd:
        session = rescue(guacd.port)
        with _keep(tmp_path / "first") as first:
            until_state(session, State.READY, timeout_s=_START_S)
            assert len(guacd.owners) == 1
            first.send_signal(number)
            assert first.wait(_START_S) == 0, (tmp_path / "first").read_text()
        guacd.wait_until(lambda: not guacd.owners, timeout_s=LONG_S)
        # Not lost but given back: it says so, and nobody has to wait for a lease to run out.
        left = again(session)
        assert left.state == State.STARTING and left.notice
        assert not GuacamoleConnection.objects.filter(closed_at=None).exists()
        with _keep(tmp_path / "second") as second:
            until_state(session, State.READY, timeout_s=_START_S)
            assert len(guacd.owners) == 1
            until(lambda: "the desktop is held" in (tmp_path / "second").read_text(), "it says so")
            second.send_signal(number)
            assert second.wait(_START_S) == 0
    output = (tmp_path / "first").read_text() + (tmp_path / "second").read_text()
    assert "Traceback" not in output and PASSWORD not in output


def test_without_anything_to_keep_it_waits_and_ends_when_told(tmp_path: Path) -> None:
    with _keep(tmp_path / "log") as process:
        process.terminate()
        assert process.wait(_START_S) == 0
    assert (tmp_path / "log").read_text() == "Keeping desktops; Ctrl-C ends it.\n"
