"""A guacd of one's own and the shortest client that can log in, look, click and type."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.ports import free_ports

_SCREEN_BYTES = 20_000  # a whole service screen is more than that; a refused login never sends as much


def _instruction(*elements: object) -> bytes:
    return (",".join(f"{len(str(element))}.{element}" for element in elements) + ";").encode()


class Desktop:
    """One RDP connection through guacd."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def shows_a_screen(self, *, timeout_s: float = 45.0) -> bool:
        """True once a screen's worth of pictures came; False when the connection ends or fails before."""
        received = b""
        deadline = time.monotonic() + timeout_s
        while len(received) < _SCREEN_BYTES and time.monotonic() < deadline:
            self._connection.settimeout(max(0.1, deadline - time.monotonic()))
            data = self._connection.recv(65536)
            received += data
            if not data or b"5.error," in received:
                return False
        return len(received) >= _SCREEN_BYTES

    def click(self, x: int, y: int) -> None:
        for mask in (0, 1, 0):
            self._connection.sendall(_instruction("mouse", x, y, mask))

    def type_text(self, text: str) -> None:
        for letter in text:
            for pressed in (1, 0):
                self._connection.sendall(_instruction("key", ord(letter), pressed))


@contextlib.contextmanager
def login(address: str, port: int, username: str, password: str) -> Iterator[Desktop]:
    """A desktop as guacd shows it; skips the test, aloud, where guacd is not installed."""
    program = shutil.which("guacd")
    if program is None:
        pytest.skip("guacd is not installed")
    (own_port,) = free_ports(1)
    guacd = subprocess.Popen(
        [program, "-f", "-b", "127.0.0.1", "-l", str(own_port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with _connected(own_port) as connection:
            connection.sendall(_instruction("select", "rdp"))
            names = [part.split(".", 1)[1] for part in _read_instruction(connection).rstrip(";").split(",")][1:]
            values = {
                **{"hostname": address, "port": port, "username": username, "password": password},
                **{"security": "nla", "ignore-cert": "true"},
            }
            connection.sendall(
                _instruction("size", 1024, 768, 96)
                + _instruction("audio")
                + _instruction("video")
                + _instruction("image", "image/png")
                + _instruction(
                    "connect", *(name if name.startswith("VERSION") else values.get(name, "") for name in names)
                )
            )
            yield Desktop(connection)
    finally:
        # Its children, one a connection, are in its own process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(guacd.pid, signal.SIGKILL)
        guacd.wait()


def _connected(port: int) -> socket.socket:
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _read_instruction(connection: socket.socket) -> str:
    data = b""
    while not data.endswith(b";"):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("guacd hung up during the handshake")
        data += part
    return data.decode()
