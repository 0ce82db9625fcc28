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


class BoundedWebSocketProtocol(WebSocketsSansIOProtocol):
    """One browser's WebSocket."""

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

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(_POLITE_CLOSE_S, self._cut)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(_POLITE_CLOSE_S / 2, self._cut)

    def _cut(self) -> None:
        """Resets the line: closing it alone leaves the kernel to deliver what the browser does not take."""
        if self.disconnected:
            return  # its descriptor's number may be another line's by now
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
