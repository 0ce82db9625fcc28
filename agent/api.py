"""The machine's side of the VPN-side API: one call a connection, errors that tell whether trying again helps."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from agent.config import AgentConfig
from agent.credentials import Credentials

log = logging.getLogger("agent.api")

_T = TypeVar("_T")
ANSWER_LIMIT = 64 * 1024  # the largest real answer is below 2 kB; whatever sends more is not our server
_RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class ApiError(Exception):
    """A call that did not succeed.

    `retryable` tells whether the same call may succeed later; `status` is the HTTP status, or None when no answer came.
    The text is for a log and for a technician; it never holds what was sent.
    """

    def __init__(self, message: str, *, retryable: bool, status: int | None = None, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.status = status
        self.wait_s = wait_s  # the server asked for at least this long a pause


class Stopped(Exception):
    """The agent is being shut down: stop waiting."""


@dataclass(frozen=True)
class SupportRequest:
    """What the server says of a request for help."""

    id: str
    state: str
    end_reason: str
    message: str
    operator_name: str
    version: int | None

    @property
    def is_over(self) -> bool:
        """True once the server wants this machine's desktop shut: `closing` and `closed` alike."""
        return self.state in ("closing", "closed")


@dataclass(frozen=True)
class Answer:
    """The answer to a request for help: `is_new` is False for one that the server had already."""

    request: SupportRequest
    is_new: bool


class Client:
    """Calls the server from this machine's own address. Safe to use from several threads.

    `address` tells the machine's address in the VPN just now, "" while there is no way to the server: a call then
    fails at once instead of leaving by another way.
    """

    def __init__(self, config: AgentConfig, *, address: Callable[[], str] | None = None) -> None:
        parts = urlsplit(config.api_url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self._tls = ssl.create_default_context(cafile=config.ca_file) if parts.scheme == "https" else None
        self._token = config.token
        self._source = config.source_address
        self._address = address
        self._timeout_s = config.timeout_s
        self._lock = threading.Lock()
        self._calls: set[http.client.HTTPConnection] = set()
        self._is_hung_up = False
        self.where = config.api_url

    def ask(self, key: str, credentials: Credentials, *, rdp: dict[str, Any], problem: dict[str, str]) -> Answer:
        """Asks for help; the same key again gives the same request. Raises ApiError."""
        login = {"username": credentials.username, "password": credentials.password}
        body = {"rdp": {**rdp, **login}, "problem": problem}
        status, document = self._call("POST", "/api/v1/support-requests/", body, {"Idempotency-Key": key})
        return Answer(request=_support_request(document), is_new=status == 201)

    def read(self, request_id: str, *, wait_s: int = 0, since: int | None = None) -> SupportRequest:
        """The request, at once, or after a change from version `since` or `wait_s` seconds. Raises ApiError."""
        path = f"/api/v1/support-requests/{quote(request_id, safe='')}/?wait={wait_s}"
        if since is not None:
            path += f"&since={since}"
        return _support_request(self._call("GET", path, extra_s=wait_s)[1])

    def cancel(self, request_id: str) -> SupportRequest:
        """The person at the machine no longer needs help; cancelling again is fine. Raises ApiError."""
        path = f"/api/v1/support-requests/{quote(request_id, safe='')}/cancel/"
        return _support_request(self._call("POST", path, {})[1])

    def heartbeat(
        self, *, software: str, faults: list[str] | None = None, rtt_ms: int | None = None
    ) -> SupportRequest | None:
        """Says that this machine lives; the answer is the open request of this machine, if any. Raises ApiError."""
        body: dict[str, Any] = {}
        if software:
            body["software"] = software
        if faults is not None:
            body["faults"] = faults
        if rtt_ms is not None:
            body["rtt_ms"] = rtt_ms
        session = self._call("POST", "/api/v1/heartbeat/", body)[1].get("session")
        return _support_request(session) if isinstance(session, dict) else None

    def hang_up(self) -> None:
        """Ends all calls at once, also those to come, with ApiError: a shutdown does not wait for a poll."""
        with self._lock:
            self._is_hung_up = True
        self.interrupt()

    def interrupt(self) -> None:
        """Ends the calls under way with a retryable ApiError: the line they wait on is not what it was."""
        with self._lock:
            for connection in self._calls:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        extra_s: float = 0.0,
    ) -> tuple[int, dict[str, Any]]:
        all_headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json", **(headers or {})}
        data = None
        if body is not None:
            data = json.dumps(body, ensure_ascii=True).encode("ascii")
            all_headers["Content-Type"] = "application/json"
        with self._connection() as connection:
            try:
                connection.connect()
                with self._lock:
                    if self._is_hung_up:
                        raise ApiError("the agent is being shut down", retryable=True)
                    self._calls.add(connection)
                # Connecting is quick or hopeless; only the answer of a long poll may take longer.
                connection.sock.settimeout(self._timeout_s + extra_s)
                connection.request(method, self._prefix + path, body=data, headers=all_headers)
                response = connection.getresponse()
                text = response.read(ANSWER_LIMIT + 1)
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise ApiError(f"no answer from {self.where}: {reason}", retryable=True) from error
        if 200 <= response.status < 300:
            return response.status, self._document(text, response.status)
        raise refusal(self.where, response, text)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        connection: http.client.HTTPConnection
        source = self._source_address()
        if self._tls is not None:
            connection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, source_address=source, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(
                self._host, self._port, timeout=self._timeout_s, source_address=source
            )
        try:
            yield connection
        finally:
            with self._lock:
                self._calls.discard(connection)
            connection.close()

    def _source_address(self) -> tuple[str, int] | None:
        address = self._source
        if self._address is not None:
            now = self._address()
            if not now:
                raise ApiError("the tunnel to support is not up", retryable=True)
            address = address or now
        return (address, 0) if address else None

    def _document(self, text: bytes, status: int) -> dict[str, Any]:
        document = json_object(text)
        if document is None:
            # A captive portal or a half answer: the next try may reach the real server.
            raise ApiError(
                f"{self.where} answered {status} without JSON, expected an object", retryable=True, status=status
            )
        return document


def refusal(where: str, response: http.client.HTTPResponse, text: bytes) -> ApiError:
    """What an answer other than a success says, as an error."""
    problem = json_object(text) or {}
    said = str(problem.get("detail") or problem.get("title") or response.reason)[:300]
    wait = response.getheader("Retry-After", "")
    return ApiError(
        f"{where} answered {response.status}: {said}",
        retryable=response.status in _RETRYABLE_STATUS,
        status=response.status,
        wait_s=min(float(wait), 300.0) if wait.isascii() and wait.isdigit() else 0.0,
    )


@dataclass
class Backoff:
    """Growing pauses with jitter: a thousand machines that lost the same server do not come back in step."""

    first_s: float = 0.5
    largest_s: float = 30.0
    tries: int = 0

    def next_s(self) -> float:
        """The next pause, between half of and the whole step."""
        step = min(self.largest_s, self.first_s * 2.0 ** min(self.tries, 20))
        self.tries += 1
        return step * random.uniform(0.5, 1.0)


def keep_trying(
    call: Callable[[], _T],
    *,
    stop: threading.Event,
    what: str,
    give_up_after_s: float | None = None,
    on_failure: Callable[[ApiError], None] | None = None,
    backoff: Backoff | None = None,
) -> _T:
    """Makes the call until it succeeds; raises ApiError when it cannot or the time is over, Stopped at `stop`."""
    pauses = backoff or Backoff()
    deadline = None if give_up_after_s is None else time.monotonic() + give_up_after_s
    while True:
        if stop.is_set():
            raise Stopped(what)
        try:
            return call()
        except ApiError as error:
            pause_s = max(pauses.next_s(), error.wait_s)
            late = deadline is not None and time.monotonic() + pause_s > deadline
            if not error.retryable or late:
                raise
            if stop.is_set():
                raise Stopped(what) from error
            log.warning("%s: %s; trying again in %.1f s", what, error, pause_s)
            if on_failure is not None:
                on_failure(error)
        if stop.wait(pause_s):
            raise Stopped(what)


def json_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object of an answer; None when it is too large, or something else."""
    if len(text) > ANSWER_LIMIT:
        return None
    try:
        document = json.loads(text.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _support_request(document: dict[str, Any]) -> SupportRequest:
    request_id, state = document.get("id"), document.get("state")
    if not isinstance(request_id, str) or not isinstance(state, str) or not request_id or not state:
        raise ApiError("the answer is no support request: expected an object with id and state", retryable=True)
    version = document.get("version")
    return SupportRequest(
        id=request_id,
        state=state,
        end_reason=_text(document, "end_reason"),
        message=_text(document, "message"),
        operator_name=_text(document, "operator_name"),
        version=version if isinstance(version, int) and not isinstance(version, bool) else None,
    )


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""
