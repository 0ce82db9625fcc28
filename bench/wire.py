"""The shortest clients there can be: guacd over TCP and the tunnel over a WebSocket, blocking, with bare sockets.

They cost a few microseconds a message, so that what is measured is the server.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import struct
import time
from collections.abc import Iterator, Mapping

_SYNC = re.compile(rb"4\.sync,[0-9]+\.([0-9]+)(?:,[0-9]+\.[0-9]+)*;")
_RECEIVE_BYTES = 256 * 1024


def instruction(*elements: object) -> bytes:
    """One Guacamole instruction; ASCII only."""
    return (",".join(f"{len(str(element))}.{element}" for element in elements) + ";").encode()


def newest_sync(data: bytes) -> bytes | None:
    """The timestamp of the last `sync` in these bytes."""
    found = _SYNC.search(data, max(0, data.rfind(b"4.sync,")))
    return found[1] if found else None


class Guacd:
    """One user at a guacd, joined or logged in when the constructor returns."""

    def __init__(self, port: int, select: str, values: Mapping[str, object] | None = None) -> None:
        values = values or {}
        self.socket = connect(port)
        self.socket.sendall(instruction("select", select))
        args = self._read_until(b"4.args,", b";")
        names = [part.split(".", 1)[1] for part in args.decode().rstrip(";").split(",")][1:]
        answers = [name if name.startswith("VERSION_") else values.get(name, "") for name in names]
        self.socket.sendall(
            instruction("size", 1024, 768, 96) + instruction("audio") + instruction("video")
            + instruction("image", "image/png", "image/jpeg") + instruction("connect", *answers)
        )  # fmt: skip
        self.rest = b""

    def wait_for_frame(self, timeout_s: float = 20.0) -> bytes:
        """Everything up to and with the first `sync`; raises ConnectionError when the desktop does not come."""
        data = b""
        deadline = time.monotonic() + timeout_s
        while newest_sync(data) is None:
            self.socket.settimeout(max(0.01, deadline - time.monotonic()))
            part = self.socket.recv(_RECEIVE_BYTES)
            data += part
            if not part or b"5.error," in data:
                raise ConnectionError(f"guacd showed no desktop: {data[-200:]!r}")
        return data

    def close(self) -> None:
        self.socket.close()

    def _read_until(self, begin: bytes, end: bytes) -> bytes:
        data = b""
        while not (data.startswith(begin) and data.endswith(end)):
            part = self.socket.recv(_RECEIVE_BYTES)
            if not part:
                raise ConnectionError("guacd hung up during the handshake")
            data += part
        return data


class WebSocket:
    """A WebSocket that speaks text; its masking key is zero, so that masking is free."""

    def __init__(
        self,
        port: int,
        path: str,
        *,
        origin: str = "",
        cookie: str = "",
        protocol: str = "guacamole",
        receive_buffer: int = 0,
    ) -> None:
        self.socket = connect(port, receive_buffer=receive_buffer)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
            *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []),
            *([f"Origin: {origin}"] if origin else []), *([f"Cookie: {cookie}"] if cookie else []),
        ]  # fmt: skip
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while b"\r\n\r\n" not in head:
            part = self.socket.recv(4096)
            if not part:
                break
            head += part
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(f"the WebSocket was refused: {head[:80]!r}")
        self._data = bytearray(head.split(b"\r\n\r\n", 1)[1])

    def send(self, text: bytes, *, opcode: int = 1) -> None:
        size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + struct.pack(">H", len(text))
        self.socket.sendall(bytes([0x80 | opcode]) + size + b"\0\0\0\0" + text)

    def receive(self) -> bytes:
        """The next text frame's payload; answers pings; raises ConnectionError at the end."""
        while True:
            frame = self._take()
            if frame is None:
                part = self.socket.recv(_RECEIVE_BYTES)
                if not part:
                    raise ConnectionError("the server hung up")
                self._data += part
                continue
            opcode, payload = frame
            if opcode == 9:
                self.send(payload, opcode=10)
            elif opcode == 8:
                raise ConnectionError(f"the server closed: {payload[2:].decode()} {payload[:2].hex()}")
            else:
                return payload

    def frames(self) -> Iterator[bytes]:
        while True:
            yield self.receive()

    def close(self) -> None:
        self.socket.close()

    def _take(self) -> tuple[int, bytes] | None:
        data = self._data
        if len(data) < 2:
            return None
        size, start = data[1] & 0x7F, 2
        if size == 126:
            start = 4
        elif size == 127:
            start = 10
        if len(data) < start:
            return None
        if start > 2:
            size = int.from_bytes(data[2:start])
        if len(data) < start + size:
            return None
        payload = bytes(data[start : start + size])
        opcode = data[0] & 0x0F
        del data[: start + size]
        return opcode, payload


def connect(port: int, *, receive_buffer: int = 0) -> socket.socket:
    """A socket to a loopback port, without Nagle's delay."""
    one = socket.socket()
    if receive_buffer:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    one.settimeout(30)
    one.connect(("127.0.0.1", port))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


def join_tunnel(port: int, session_id: str, *, ticket: str, cookie: str, receive_buffer: int = 0) -> WebSocket:
    """A browser's way to a desktop, its ticket sent."""
    tunnel = WebSocket(
        port, f"/ws/sessions/{session_id}/tunnel/", origin=f"http://127.0.0.1:{port}", cookie=cookie,
        receive_buffer=receive_buffer,
    )  # fmt: skip
    tunnel.receive()
    tunnel.send(instruction("", "ticket", ticket))
    return tunnel
