"""Asks a port whether guacd is there, without making it start anything."""

from __future__ import annotations

import socket
import time

# Joining a connection that does not exist costs guacd no process: 1.3.0 hangs up, later ones send `error` first.
_JOIN_NOTHING = b"6.select,2.$0;"
_SELECT_RDP = b"6.select,3.rdp;"


class NotGuacd(Exception):
    """Something is there, but what it says is not Guacamole's protocol."""


def answers(host: str, port: int, *, timeout_s: float) -> None:
    """Returns when guacd is at host:port. Raises OSError (ConnectionRefusedError, TimeoutError, …) or NotGuacd."""
    reply = _exchange(host, port, _JOIN_NOTHING, timeout_s=timeout_s)
    if reply and not reply.startswith(b"5.error,"):
        raise NotGuacd(f"Found {reply[:20]!r} at {host}:{port}, expected guacd's answer.")


def can_do_rdp(host: str, port: int, *, timeout_s: float) -> bool:
    """Whether guacd has its RDP part; it starts a process of guacd's that ends by itself after 15 s."""
    return _exchange(host, port, _SELECT_RDP, timeout_s=timeout_s).startswith(b"4.args,")


def _exchange(host: str, port: int, said: bytes, *, timeout_s: float) -> bytes:
    """The first bytes of the answer; empty when it hangs up. The time is for all of it."""
    deadline = time.monotonic() + timeout_s
    with socket.create_connection((host, port), timeout=timeout_s) as sock:
        sock.sendall(said)
        reply = b""
        while len(reply) < 8:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = sock.recv(256)
            if not data:
                break
            reply += data
        return reply
