"""The tests' own PostgreSQL and Redis: they serve, and nothing of them is left, whatever way the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest
from redis import Redis

from tests import throwaway

pytestmark = pytest.mark.real
ROOT = Path(__file__).resolve().parent.parent


def _processes_naming(text: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if text in command:
            found.append(command)
    return found


def test_redis_serves_and_leaves_nothing() -> None:
    with throwaway.redis() as url:
        folder = Path(urlsplit(url).path).parent
        client = Redis.from_url(url)
        client.set("machine", "A1")
        assert client.get("machine") == b"A1"
        client.close()
    assert not folder.exists()
    assert _processes_naming(folder.name) == []


def test_postgres_serves_and_leaves_nothing_when_its_command_is_terminated() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.throwaway",
        "postgres",
        "--",
        "sh",
        "-c",
        'echo "$TEST_DATABASE_URL"; read x',
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        folder = Path(unquote(str(url.hostname)))
        with psycopg.connect(host=str(folder), user=url.username, dbname=url.path.lstrip("/")) as connection:
            assert connection.execute("select 40 + 2").fetchone() == (42,)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    assert not folder.exists()
    assert _processes_naming(folder.name) == []


def test_status_of_the_command_is_the_status_of_the_whole() -> None:
    command = [sys.executable, "-m", "tests.throwaway", "postgres", "--", "sh", "-c", "exit 5"]
    assert subprocess.run(command, cwd=ROOT, env=os.environ, check=False).returncode == 5
