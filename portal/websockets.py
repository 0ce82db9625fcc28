"""uvicorn's WebSocket protocol with bounds on what a browser that does not read may cost.

uvicorn 0.54 closes a transport politely, which waits for a stalled peer for as long as the kernel does (up to two
hours), and leaves its send buffer to grow to megabytes. Here a line that takes nothing for a while is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

ABORT = "portafilter.abort"  # the scope's key for a callable that drops the line at once
_SEND_BUFFER_BYTES = 128 * 1024
_WRITE_HIGH_WATER_BYTES = 64 * 1024
_DEAD_PEER_MS = 45_000
_POLITE_CLOSE_S = 5.0
_BYTES_ACKED_AT = 120  # tcpi_bytes_acked in Linux's struct tcp_info


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One browser's WebSocket."""

    _taken = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER_BYTES)
        sock = cast("socket.socket | None", transport.get_extra_info("socket"))
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MS)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.handshake_initiated and hasattr(self, "scope"):
            # The application's task has been made but has not begun.
            cast("dict[str, object]", self.scope)[ABORT] = self._cut

    def send_keepalive_ping(self) -> None:
        super().send_keepalive_ping()
        self._taken = self._taken_bytes()

    def keepalive_timeout(self) -> None:
        taken = self._taken_bytes()
        if taken > self._taken and not self.transport.is_closing():
            # The ping waits behind pictures that a slow line takes one by one: that line is anything but dead.
            self._taken = taken
            self.pong_timer = self.loop.call_later(cast(float, self.ping_timeout), self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.loop.call_later(_POLITE_CLOSE_S, self._cut)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(_POLITE_CLOSE_S / 2, self._cut)

    def _taken_bytes(self) -> int:
        """How much the other end has acknowledged since the line began; 0 where the kernel does not say."""
        sock = self.transport.get_extra_info("socket")
        try:
            told: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
            return int(struct.unpack_from("Q", told, _BYTES_ACKED_AT)[0])
        except (OSError, struct.error):
            return 0

    def _cut(self) -> None:
        """Resets the line: closing it alone leaves the kernel to deliver what the browser does not take."""
        if self.disconnected:
            return  # its descriptor's number may be another line's by now
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
