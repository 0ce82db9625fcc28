"""A small machine API in this process that keeps the contract, and breaks it to order."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass
class Call:
    """One call as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    peer: str


@dataclass
class ScriptedApi:
    """Requests by id, answers in turn: `trouble` is used up first, one entry for each call of that method."""

    token: str = "abc.secret"
    address: str = "127.0.0.1"
    calls: list[Call] = field(default_factory=list)
    requests: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, Any] = field(default_factory=dict)
    trouble: dict[str, deque[tuple[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        api = self

        class Handler(_Handler):
            scripted = api

        self._server = _Server((self.address, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{self.address}:{self._server.server_address[1]}"

    def __enter__(self) -> ScriptedApi:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, method: str, kind: str, value: Any = None) -> None:
        """The next such call gets trouble: status N, drop (before acting), lose (after acting), say TEXT."""
        self.trouble.setdefault(method, deque()).append((kind, value))

    def update(self, request_id: str, **values: Any) -> None:
        """Changes a request and wakes the polls that wait for it."""
        with self.changed:
            document = self.requests[request_id]
            document.update(values, version=document["version"] + 1)
            self.changed.notify_all()

    def wait_for_calls(self, method: str, number: int, *, timeout_s: float = 30.0) -> list[Call]:
        """The calls with this method, as soon as there are so many of them."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while len(found := [call for call in self.calls if call.method == method]) < number:
                if not self.changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"{len(found)} {method} calls within {timeout_s} s, expected {number}")
        return found

    def wait_for_poll(self, request_id: str, *, timeout_s: float = 30.0) -> None:
        """Returns when the machine waits for news of the request as it is now: it has done with all before them."""
        deadline = time.monotonic() + timeout_s
        with self.changed:
            while not any(call.path.endswith(f"&since={self.requests[request_id]['version']}") for call in self.calls):
                if not self.changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"nobody waited for news of {request_id} within {timeout_s} s")

    def ask(self, key: str, body: Any) -> tuple[int, dict[str, Any]]:
        """The contract's POST: same key or a request already open gives 200 and that one."""
        if key in self.keys:
            if self.bodies[key] != body:
                return 409, {"title": "Conflict", "detail": "This Idempotency-Key came with another body before."}
            return 200, self.requests[self.keys[key]]
        for document in self.requests.values():
            if document["state"] not in ("closing", "closed"):
                return 200, document
        request_id = f"r{len(self.requests) + 1}"
        self.keys[key], self.bodies[key] = request_id, body
        self.requests[request_id] = {
            "id": request_id,
            "state": "requested",
            "end_reason": None,
            "message": "We have your request.",
            "operator_name": None,
            "version": 1,
        }
        return 201, self.requests[request_id]


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        pass  # an agent that hung up in the middle is part of the script


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedApi

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self, method: str) -> None:
        api = self.scripted
        length = int(self.headers.get("Content-Length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        with api.changed:
            api.calls.append(Call(method, self.path, dict(self.headers), body, self.client_address[0]))
            trouble = api.trouble.get(method)
            kind: str
            value: Any
            kind, value = trouble.popleft() if trouble else ("", None)
            api.changed.notify_all()
        if kind == "drop":
            return self._hang_up()
        if kind == "status":
            return self._answer(value, {"title": "Trouble", "detail": "scripted trouble"})
        if kind == "say":
            return self._write(200, value)
        status, document = self._act(method, body)
        if kind == "lose":
            return self._hang_up()
        self._answer(status, document)

    def _act(self, method: str, body: Any) -> tuple[int, Any]:
        api = self.scripted
        if self.headers.get("Authorization") != f"Bearer {api.token}":
            return 401, {"title": "Unauthorized", "detail": "The machine token is not valid."}
        parts = urlsplit(self.path)
        steps = parts.path.strip("/").split("/")[2:]
        with api.changed:
            if steps == ["heartbeat"]:
                still_open = [item for item in api.requests.values() if item["state"] not in ("closing", "closed")]
                return 200, {"session": still_open[0] if still_open else None}
            if method == "POST" and len(steps) == 1:
                return api.ask(self.headers["Idempotency-Key"], body)
            document = api.requests.get(steps[1])
            if document is None:
                return 404, {"title": "Not found", "detail": "There is no such request."}
            if steps[2:] == ["cancel"]:
                if document["state"] not in ("closing", "closed"):
                    api.update(document["id"], state="closing", end_reason="cancelled", message="Cancelled.")
                return 200, document
            query = parse_qs(parts.query)
            since = int(query.get("since", ["-1"])[0])
            deadline = time.monotonic() + float(query.get("wait", ["0"])[0])
            while document["version"] == since and api.changed.wait(max(0.0, deadline - time.monotonic())):
                pass
            return 200, dict(document)

    def _answer(self, status: int, document: Any) -> None:
        self._write(status, json.dumps(document))

    def _write(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()
