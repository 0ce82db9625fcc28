"""`manage.py` as a process of its own with an installation of its own, and the people who use it over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests import migrated

MANAGE = [sys.executable, str(settings.BASE_DIR / "manage.py")]
PASSWORD = "canary-9Qw4-people"
_START_S = 60


class ServerProcess:
    """A `manage.py serve` with a state folder of its own; it ends with its `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready_file = folder / "ready"
        self.log = folder / "log"
        self.environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            "STATE_DIR": str(folder),
            "INSTALLATION": str(folder),
            "DATABASE_URL": f"sqlite:///{folder / 'db.sqlite3'}",
            "PUBLIC_BIND": "127.0.0.1:0",
            "MACHINE_API_BIND": "127.0.0.1:0",
            "PUBLIC_ORIGINS": "http://127.0.0.1:8000",
            "PYTHONUNBUFFERED": "1",
        }
        migrated.copy_to(folder / "db.sqlite3")
        self.running: list[subprocess.Popen[bytes]] = []
        self._begun_at = self._took_s = 0.0

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.running:
            one.kill()
            one.wait()

    def start(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.run("serve", "--ready-file", str(self.ready_file), *options, **environment)

    def run(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """A command of manage.py, started; what it says goes to the log."""
        self._begun_at = time.monotonic()
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*MANAGE, *command], env={**self.environment, **environment}, stdout=log, stderr=log
            )
        self.running.append(process)
        return process

    def until_ready(self) -> list[int]:
        """The ports of its faces."""
        self.until(self.ready_file.exists)
        self._took_s = time.monotonic() - self._begun_at
        return [int(line.rpartition(":")[2]) for line in self.ready_file.read_text().splitlines()]

    def patience_s(self, free_computers_s: float) -> float:
        """A limit for its end: what is enough on a free computer, and as long again as its start took on this one."""
        return free_computers_s + self._took_s

    def until(self, holds: Any) -> None:
        """Returns when something holds; AssertionError with the log when the process ends before, or time is up."""
        deadline = time.monotonic() + _START_S
        while not holds():
            assert self.running[-1].poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def seed(self, machines: dict[str, str]) -> dict[str, str]:
        """Makes Alice, Bob, Dora and Charlie with PASSWORD, and machines by serial and address; gives their tokens."""
        wanted = json.dumps({"password": PASSWORD, "serials_and_addresses": [*machines.items()]})
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.seed"],
            cwd=settings.BASE_DIR, env=self.environment, input=wanted, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        tokens: dict[str, str] = json.loads(done.stdout)
        return tokens


@dataclass(frozen=True)
class Answer:
    """An answer as it came."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for one, value in self.headers if one.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """Somebody who calls a face from an address, with cookies; `answers` is all that came back."""

    def __init__(self, port: int, *, host: str = "127.0.0.1", address: str = "127.0.0.1", **headers: str) -> None:
        self.port = port
        self.address = address
        self.headers = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        self.cookies: dict[str, str] = {}
        self.answers: list[Answer] = []

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask("GET", path, b"", headers)

    def post_form(self, path: str, origin: str, **fields: str) -> Answer:
        """As the page at `path` would send its form."""
        data = urlencode({**fields, "csrfmiddlewaretoken": self.cookies["csrftoken"]}).encode()
        return self._ask("POST", path, data, {"Content-Type": "application/x-www-form-urlencoded", "Origin": origin})

    def post_json(self, path: str, document: object, **headers: str) -> Answer:
        given = {"Content-Type": "application/json", "X-CSRFToken": self.cookies.get("csrftoken", ""), **headers}
        return self._ask("POST", path, json.dumps(document).encode(), given)

    def sign_in(self, name: str, origin: str) -> None:
        assert self.get("/accounts/login/").status == 200
        answer = self.post_form("/accounts/login/", origin, login=name, password=PASSWORD)
        assert answer.status == 302 and "sessionid" in self.cookies, answer

    def show_ticket(self, rescue: str, ticket: str, origin: str, *, query: str = "") -> list[str]:
        """What a tunnel says to who opens it with this ticket: to the desktop's first whole frame, or its goodbye."""
        frames: list[str] = []
        with (
            connect(
                f"ws://127.0.0.1:{self.port}/ws/sessions/{rescue}/tunnel/{query}",
                origin=Origin(origin), subprotocols=[Subprotocol("guacamole")], compression=None, open_timeout=60,
                additional_headers={**self.headers, **self._cookie_header()},
            ) as tunnel,
            contextlib.suppress(ConnectionClosed),
        ):  # fmt: skip
            tunnel.send(f"0.,6.ticket,{len(ticket)}.{ticket};")
            while not frames or "4.sync," not in frames[-1]:
                frames.append(str(tunnel.recv(timeout=60)))
        return frames

    def _cookie_header(self) -> dict[str, str]:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"Cookie": cookies} if cookies else {}

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        given = {**self.headers, **headers, **self._cookie_header()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(self.address, 0))
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            found = Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()
        for name, value in found.headers:
            if name.lower() == "set-cookie" and (cookie := re.match(r"([^=]+)=([^;]*)", value)):
                self.cookies[cookie[1]] = cookie[2]
        self.answers.append(found)
        return found
