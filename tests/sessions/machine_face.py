"""A caller of the machines' face in this process: what it says its own address is, the application believes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from machines import services as fleet_services
from machines.models import Machine
from portal.machine_asgi import application
from tests.sessions.rescues import PASSWORD
from tests.sessions.rescues import machine as machine_of

REQUESTS = "/api/v1/support-requests/"
LOGIN = {"username": "once", "password": PASSWORD, "port": 3390}
JSON = "application/json"


@dataclass
class Answer:
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    def expect_problem(self, status: int, code: str) -> dict[str, Any]:
        """The problem document, after a look at its shape."""
        assert self.status == status, self.content
        assert self.headers["content-type"] == "application/problem+json"
        problem: dict[str, Any] = self.json
        assert problem["status"] == status and problem["title"] and problem["detail"]
        assert problem["code"] == code
        assert "Traceback" not in self.content.decode()
        return problem


@dataclass
class Caller:
    """One machine's HTTP; every part of a call can be bent."""

    token: str = ""
    address: str = "127.64.0.1"
    headers: dict[str, str] = field(default_factory=dict)
    app: Any = application

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return asyncio.run(self.call(method, path, body, headers=headers))

    def ask(self, body: Any = None, *, key: str = "press-1", **headers: str) -> Answer:
        """A press of the help button."""
        return self("POST", REQUESTS, {"rdp": LOGIN} if body is None else body, **{"Idempotency-Key": key, **headers})

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] = {},
        hang_up: asyncio.Event | None = None,
    ) -> Answer:
        """The answer; its status is 0 if `hang_up` was set before it came."""
        parts = urlsplit(path)
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        given = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            given |= {"Content-Type": JSON, "Content-Length": str(len(data))}
        given |= self.headers | dict(headers)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin1")) for name, value in given.items()],
            "client": (self.address, 40000),
            "server": ("127.0.0.1", 8001),
        }
        is_read = False
        status, answered, content = 0, {}, b""

        async def receive() -> dict[str, Any]:
            nonlocal is_read
            if is_read:
                await (hang_up or asyncio.Event()).wait()  # connected until the answer is there
                return {"type": "http.disconnect"}
            is_read = True
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status, answered, content
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            else:
                content += message.get("body", b"")

        await self.app(scope, receive, send)
        return Answer(status, answered, content)


def caller_of(machine: Machine | str = "A1", *, of: str = "North") -> Caller:
    """A machine's own caller, with a new token."""
    known = machine_of(machine, of=of) if isinstance(machine, str) else machine
    return Caller(fleet_services.issue_token(known), known.vpn_address)
