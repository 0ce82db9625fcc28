"""`GET /healthz` of the VPN's server, for load balancers, which cannot ask over UDP whether OpenVPN takes machines.

It answers from memory and from the files that OpenVPN reads, never from the database: when that is away, machines are
still admitted by what is known, and a load balancer must not take the server out for it. What is wrong in words is for
the logs and the admin (vpn_health.py): this is for anybody who reaches the port.

Where there is a second OpenVPN, over TCP, `/healthz/tcp` answers for that, so that a balancer that sends machines to
both does not take the one out for the other.

Whoever asks slowly, or talks nonsense, holds one of `_MOST` places for `_PATIENCE_S` at most, and the one who has been
there longest goes when they are full: health checks get through.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from machines.vpn.profile import CRL_FILE, loaded_certificate

logger = logging.getLogger(__name__)

_MOST = 128
_PATIENCE_S = 3.0
_REQUEST_BYTES = 4096
# A list with thousands of revocations is not read for each of a hundred health checks.
_FILES_EVERY_S = 2.0


class Health:
    """What the answer is made of; `is_answering` says whether the agent is at OpenVPN's side. For one thread.

    `is_answering_tcp` says so of a second OpenVPN, over TCP; None: there is none.
    """

    def __init__(
        self,
        folder: Path,
        is_answering: Callable[[], bool],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        is_answering_tcp: Callable[[], bool] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._is_answering = is_answering
        self._is_answering_tcp = is_answering_tcp
        self._now = now
        self._clock = clock
        self._files_at = float("-inf")
        self._files: dict[str, str] = {}
        self._tcp_certificate = ""

    @property
    def has_tcp(self) -> bool:
        return self._is_answering_tcp is not None

    def look(self, *, over_tcp: bool = False) -> tuple[bool, dict[str, str]]:
        """Whether machines can join, over UDP or over TCP, and each part of it in a word."""
        clock = self._clock()
        if clock - self._files_at >= _FILES_EVERY_S:
            self._files_at = clock
            self._files = {
                "revocations": self._until(_end_of_list, self._folder / CRL_FILE),
                "certificate": self._certificate(over_tcp=False),
            }
            self._tcp_certificate = self._certificate(over_tcp=True) if self.has_tcp else ""
        # It starts again within a second or two: load balancers want several failures in a row.
        parts = {"openvpn": "ok" if self._is_answering() else "away", **self._files}
        if over_tcp:
            parts["certificate"] = self._tcp_certificate
        if self._is_answering_tcp is not None:
            parts["openvpn_tcp"] = "ok" if self._is_answering_tcp() else "away"
        # The other way in is said, and does not count.
        ignored = "openvpn" if over_tcp else "openvpn_tcp"
        is_well = all(word == "ok" for name, word in parts.items() if name != ignored)
        return is_well, {"status": "ok" if is_well else "down", **parts}

    def _certificate(self, *, over_tcp: bool) -> str:
        """Of the certificate that this OpenVPN runs with: a renewed one in its file helps nobody before its start."""
        return self._until(_end_of_certificate, loaded_certificate(self._folder, over_tcp=over_tcp))

    def _until(self, end_of: Callable[[Path], datetime], path: Path) -> str:
        """OpenVPN admits nobody with a list or a certificate that has ended."""
        try:
            return "ok" if end_of(path) > self._now() else "ended"
        except (OSError, ValueError):
            return "missing"


class HealthServer:
    """Answers in a thread of its own from `start` to `stop`."""

    def __init__(self, bind: tuple[str, int], health: Health) -> None:
        self._bind = bind
        self._health = health
        self._open: dict[asyncio.Task[None], None] = {}
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="healthz", daemon=True)

    def start(self) -> tuple[str, int]:
        """Where it listens. Raises OSError when it cannot."""
        self._server = server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, *self._bind, limit=_REQUEST_BYTES, backlog=_MOST)
        )
        host, port = server.sockets[0].getsockname()[:2]
        self._thread.start()
        return str(host), int(port)

    def stop(self) -> None:
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(3)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(3)

    async def _end(self) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= _MOST:
            next(iter(self._open)).cancel()
        self._open[task] = None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._answer(request))
                await writer.drain()
        except (TimeoutError, asyncio.CancelledError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # whoever does not ask as agreed gets no answer
        except Exception:
            logger.exception("Could not say how the VPN's server is")
        finally:
            self._open.pop(task, None)
            # At once: one that does not read must not be waited for.
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            else:
                writer.close()

    def _answer(self, request: bytes) -> bytes:
        method, path = [*request.split(b"\r\n", 1)[0].split(b" "), b"", b""][:2]
        asked = path.partition(b"?")[0]
        over_tcp = asked == b"/healthz/tcp" and self._health.has_tcp
        if asked != b"/healthz" and not over_tcp:
            return _response("404 Not Found", {"status": "not found"})
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", {"status": "GET, please"}, "Allow: GET, HEAD")
        is_well, words = self._health.look(over_tcp=over_tcp)
        status = "200 OK" if is_well else "503 Service Unavailable"
        return _response(status, words, has_body=method == b"GET")


def _response(status: str, words: dict[str, str], *headers: str, has_body: bool = True) -> bytes:
    body = json.dumps(words).encode()
    lines = [
        f"HTTP/1.1 {status}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (body if has_body else b"")


def _end_of_list(path: Path) -> datetime:
    end = x509.load_pem_x509_crl(path.read_bytes()).next_update_utc
    if end is None:
        raise ValueError("found no end in the list, expected one")
    return end


def _end_of_certificate(path: Path) -> datetime:
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
