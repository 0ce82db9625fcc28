"""One HTTP request with an end: a total deadline whatever the other side does, an answer of bounded size, no redirects.

The time-outs of sockets start anew with every byte, so one that drips holds its caller for as long as it likes. Here
each read from the socket gets what is left of the whole time.
"""

from __future__ import annotations

import http.client
import io
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

ANSWER_LIMIT = 64 * 1024
# An idle connection is used again within this time; most servers keep one for longer.
_KEPT_IDLE_S = 15.0
_KEPT = 8
# Raised when a connection that was kept is used again and the other side has closed it meanwhile.
_CLOSED_MEANWHILE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError, ConnectionAbortedError)


class TooLate(Exception):
    """The whole time is over."""


class TooLarge(Exception):
    """The answer is larger than ANSWER_LIMIT."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent. `headers` makes them: anew for each try, since a signature counts once."""

    method: str
    url: str
    headers: Callable[[], Mapping[str, str]]
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes = field(repr=False)


class Client:
    """Sends requests to one origin and keeps a few connections for the next ones; for any number of threads."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._is_tls = parts.scheme == "https"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._is_tls else 80)
        self._tls = ssl.create_default_context() if self._is_tls else None
        self._lock = threading.Lock()
        self._idle: list[tuple[float, _Connection]] = []

    def send(self, request: Request, *, timeout_s: float) -> Answer:
        """The answer, whatever its status; the request must be one that may be sent twice.

        Raises TooLate, TooLarge, OSError (ssl.SSLError is one) or http.client.HTTPException.
        """
        deadline = time.monotonic() + timeout_s
        while kept := self._take_idle():
            try:
                return self._send(kept, request, deadline)
            except _CLOSED_MEANWHILE:
                continue
        return self._send(_Connection(self._host, self._port, self._tls), request, deadline)

    def _send(self, connection: _Connection, request: Request, deadline: float) -> Answer:
        is_kept = False
        try:
            answer = connection.carry(request, deadline)
            is_kept = connection.is_reusable
            return answer
        except TimeoutError:
            raise TooLate from None
        finally:
            if not is_kept or not self._put_idle(connection):
                connection.close()

    def _take_idle(self) -> _Connection | None:
        with self._lock:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() - since < _KEPT_IDLE_S and connection.is_silent():
                    return connection
                connection.close()
        return None

    def _put_idle(self, connection: _Connection) -> bool:
        with self._lock:
            if len(self._idle) >= _KEPT:
                return False
            self._idle.append((time.monotonic(), connection))
            return True


class _Connection:
    """One connection; one request at a time."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self._http = http.client.HTTPConnection(host, port)
        self._tls = tls
        self.is_reusable = False

    def carry(self, request: Request, deadline: float) -> Answer:
        self.is_reusable = False
        if self._http.sock is None:
            self._http.sock = _Timed(self._connect(deadline), deadline)
        timed = cast(_Timed, self._http.sock)
        timed.deadline = deadline
        parts = urlsplit(request.url)
        target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        self._http.request(request.method, target, body=request.body, headers=dict(request.headers()))
        with self._http.getresponse() as response:
            body = response.read(ANSWER_LIMIT + 1)
            if len(body) > ANSWER_LIMIT:
                raise TooLarge
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
            # After an answer that went wrong, or should have had no body, nobody knows where the next one begins.
            self.is_reusable = response.status in {200, 201} and not response.will_close and response.isclosed()
            return Answer(response.status, response.getheader("Content-Type", ""), body)

    def is_silent(self) -> bool:
        """Whether nothing came that nobody asked for: neither the other side's end, nor the rest of a longer answer."""
        sock = self._http.sock
        return sock is not None and not select.select([sock], [], [], 0)[0]

    def close(self) -> None:
        self._http.close()

    def _connect(self, deadline: float) -> socket.socket:
        last: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self._http.host, self._http.port, type=socket.SOCK_STREAM
        ):
            found = socket.socket(family, kind, protocol)
            try:
                found.settimeout(_left(deadline))
                found.connect(address)
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls:
                    # OpenSSL's calls keep the socket's time-out as one for the whole handshake.
                    found.settimeout(_left(deadline))
                    found = self._tls.wrap_socket(found, server_hostname=self._http.host)
            except OSError as error:
                found.close()
                if isinstance(error, TimeoutError | ssl.SSLError):
                    raise
                last = error
            else:
                return found
        raise last or OSError(f"no address of {self._http.host}")


class _Timed:
    """A socket whose every call has what is left until `deadline`, and not a time of its own."""

    def __init__(self, found: socket.socket, deadline: float) -> None:
        self._socket, self.deadline = found, deadline

    def sendall(self, data: Any) -> None:
        self._socket.settimeout(_left(self.deadline))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._socket, self.deadline))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, found: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = found, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv_into(buffer)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
