"""A telemetry web app: it speaks docs/telemetry.openapi.yaml, believes no request that is not signed exactly as agreed,
and is as slow, as mean or as broken as a test wants.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from http_message_signatures import HTTPMessageSignaturesException, HTTPMessageVerifier, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256

from tests.waiting import LONG_S

KEY_ID, KEY = "portafilter", "k" * 20 + "-of-the-telemetry"
_PATH = re.compile(
    r"/app/v1/machines/(?P<fleet>[-a-zA-Z0-9_]{1,50})/(?P<serial>[A-Za-z0-9][A-Za-z0-9._-]{0,63})/"
    r"(?P<what>responsible\?at=[0-9T%:AZ-]+|last-word|profiles/[0-9a-f]{1,40})"
)
_ALWAYS = {"@method", "@target-uri", "@authority"}
_WITH_BODY = _ALWAYS | {"content-type", "content-digest", "content-length"}


@dataclass(frozen=True)
class Seen:
    """A request as it came, and why it was refused, if it was."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    refused: str = ""


@dataclass
class _Message:
    method: str
    url: str
    headers: dict[str, str]


@dataclass
class TelemetryWeb:
    """The web app's mind. `mood` says how it answers signed requests: see `_Handler._in_mood`."""

    url: str = ""
    key: str = KEY
    mood: str = "good"
    delay_s: float = 0.0
    duties: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    words: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    profiles: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    raw: bytes = b""
    seen: list[Seen] = field(default_factory=list)
    # Set it to let those go that hang.
    let_go: threading.Event = field(default_factory=threading.Event)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0
    _nonces: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refusal(self, message: _Message, body: bytes) -> str:
        """Why this request is not to be believed; empty for one that is."""
        verifier = HTTPMessageVerifier(
            signature_algorithm=HMAC_SHA256,
            key_resolver=MappingKeyResolver(public_keys={KEY_ID: self.key.encode()}, private_keys={}),
        )
        try:
            found = verifier.verify(
                message,
                max_age=timedelta(seconds=60),
                expect_tag="portafilter-telemetry-v1",
                expect_label="portafilter",
                body=body,
            )
        except HTTPMessageSignaturesException as error:
            return f"{type(error).__name__}: {error}"
        if len(found) != 1:
            return f"{len(found)} signatures"
        (result,) = found
        covered = {name.strip('"') for name in result.covered_components} - {"@signature-params"}
        if covered != (_WITH_BODY if body else _ALWAYS):
            return f"it covers {sorted(covered)}"
        parameters = result.parameters
        if parameters.get("alg") != "hmac-sha256" or parameters.get("keyid") != KEY_ID:
            return f"found {parameters}"
        created, expires = parameters.get("created"), parameters.get("expires")
        if not isinstance(created, int) or not isinstance(expires, int) or expires - created > 60:
            return "it is good for too long"
        if abs(created - datetime.now(UTC).timestamp()) > 60:
            return "it is stale"
        with self._lock:
            nonce = str(parameters.get("nonce", ""))
            if len(nonce) < 16 or nonce in self._nonces:
                return "its nonce was seen before, or is none"
            self._nonces.add(nonce)
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    app: TelemetryWeb

    def setup(self) -> None:
        super().setup()
        with self.app._lock:
            self.app.connections += 1

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = dict(self.headers.items())
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        message = _Message(self.command, f"{scheme}://{headers.get('Host', '')}{self.path}", headers)
        refused = self.app.refusal(message, body)
        self.app.seen.append(Seen(self.command, self.path, headers, body, refused))
        if refused:
            self._answer(401, {"title": "Not signed"}, "application/problem+json")
            return
        with self.app._lock:
            self.app.at_once += 1
            self.app.most_at_once = max(self.app.most_at_once, self.app.at_once)
        try:
            with contextlib.suppress(OSError):
                self._in_mood(body)
        finally:
            with self.app._lock:
                self.app.at_once -= 1

    def _in_mood(self, body: bytes) -> None:
        app = self.app
        match app.mood:
            case "hang":
                app.let_go.wait(30)
                self.close_connection = True
            case "drip":
                self._drip()
            case "raw":  # what the test wrote, as an answer's body
                self._send(200, app.raw, "application/json")
            case "status 302":
                self.send_response(302)
                self.send_header("Location", f"{app.url}/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()
            case "close":
                self.close_connection = True
            case "garbage":
                self.wfile.write(b"\x00\xff not HTTP at all\r\n\r\n")
                self.close_connection = True
            case "cut":
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
                self.close_connection = True
            case "html":
                self._send(200, b"<html>Sign in</html>", "text/html")
            case "huge":
                self._send(200, b'{"candidates": [], "x": "' + b"x" * 200_000 + b'"}', "application/json")
            case mood if mood.startswith("status "):
                self._answer(int(mood.split()[1]), {"title": "No"}, "application/problem+json")
            case _:
                app.let_go.wait(app.delay_s)
                self._good(body)

    def _drip(self) -> None:
        """Byte by byte, header and body, each well within a socket's own time-out."""
        text = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n" + b" " * 100
        for at in range(len(text)):
            self.wfile.write(text[at : at + 1])
            if self.app.let_go.wait(0.05):
                break
        self.close_connection = True

    def _good(self, body: bytes) -> None:
        found = _PATH.fullmatch(self.path)
        if found is None or found["serial"] in self.app.unknown:
            self._answer(404, {"title": "No such machine"}, "application/problem+json")
            return
        machine, what = (found["fleet"], found["serial"]), found["what"]
        if self.command == "GET" and what.startswith("responsible"):
            self._answer(200, self.app.duties.get(machine, {"candidates": []}))
        elif self.command == "GET" and what == "last-word":
            word = self.app.words.get(machine)
            if word is None:
                self._send(204, b"", "")
            else:
                self._answer(200, word)
        elif self.command == "PUT" and what.startswith("profiles/"):
            profiles = self.app.profiles.setdefault(machine, {})
            identity = what.partition("/")[2]
            is_new = identity not in profiles
            profiles[identity] = json.loads(body)["profile"]
            self._send(201 if is_new else 204, b"", "")
        else:
            self._answer(405, {"title": "No"}, "application/problem+json")

    def _answer(self, status: int, document: dict[str, Any], kind: str = "application/json") -> None:
        self._send(status, json.dumps(document).encode(), kind)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)  # with a 204 too, if the test wants it: the next answer must not begin with that


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients go away while they are answered: that is what many of these tests are about."""


@contextlib.contextmanager
def telemetry_web(tls: ssl.SSLContext | None = None) -> Iterator[TelemetryWeb]:
    """The web app on a free port of this computer."""
    app = TelemetryWeb()
    handler = type("Handler", (_Handler,), {"app": app})
    server = _Server(("127.0.0.1", 0), handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    app.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/app"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, name="telemetry web")
    thread.start()
    try:
        yield app
    finally:
        app.let_go.set()
        server.shutdown()
        server.server_close()
        thread.join(LONG_S)
