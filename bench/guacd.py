"""A guacd that only answers mouse events, or only plays a recorded stream; a process of its own, for measuring.

`python -m bench.guacd echo` or `python -m bench.guacd play FILE [--times N] [--mb-per-s R]`; prints its port.
"""

from __future__ import annotations

import argparse
import socket
import threading
import time
from pathlib import Path

from bench.wire import instruction

_NAMES = ("VERSION_1_1_0", "hostname", "port", "username", "password", "disable-copy", "disable-paste", "read-only")
_FIRST_FRAME = instruction("size", 0, 1024, 768) + instruction("sync", 1700000000000)
_ECHO = instruction("mouse", 1, 1)
END = instruction("name", "BENCH-END")
_TICKS_S = 30


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("does", choices=("echo", "play"))
    parser.add_argument("recording", type=Path, nargs="?")
    parser.add_argument("--times", type=int, default=0, help="0: without end")
    parser.add_argument("--mb-per-s", type=float, default=0.0, help="0: as fast as it is taken")
    options = parser.parse_args()
    stream = options.recording.read_bytes() if options.recording else b""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            user, _ = listener.accept()
            threading.Thread(target=_serve, args=(user, options, stream), daemon=True).start()


def _serve(user: socket.socket, options: argparse.Namespace, stream: bytes) -> None:
    user.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        with user:
            selected = _expect(user, b"6.select,").rstrip(b";").rpartition(b".")[2].decode()
            user.sendall(instruction("args", *_NAMES))
            _expect(user, b"7.connect,")
            user.sendall(instruction("ready", selected if selected.startswith("$") else "$bench"))
            if options.does == "echo":
                _echo(user)
            else:
                _play(user, stream, options.times, options.mb_per_s)
    except OSError:
        pass


def _expect(user: socket.socket, opcode: bytes) -> bytes:
    data = b""
    while opcode not in data or not data.endswith(b";"):
        part = user.recv(65536)
        if not part:
            raise ConnectionError
        data += part
    return data


def _echo(user: socket.socket) -> None:
    user.sendall(_FIRST_FRAME)
    while data := user.recv(65536):
        if b"5.mouse," in data:
            user.sendall(_ECHO)


def _play(user: socket.socket, stream: bytes, times: int, mb_per_s: float) -> None:
    # Answers are read, so that they cannot fill the way.
    threading.Thread(target=_swallow, args=(user,), daemon=True).start()
    if not mb_per_s:
        for _ in range(times):
            user.sendall(stream)
        user.sendall(END)
        time.sleep(60)
        return
    piece, at, due = int(mb_per_s * 1e6 / _TICKS_S), 0, time.monotonic()
    while True:
        part = stream[at : at + piece]
        user.sendall(part)
        at = (at + len(part)) % len(stream)
        due = max(due + 1 / _TICKS_S, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))


def _swallow(user: socket.socket) -> None:
    try:
        while user.recv(65536):
            pass
    except OSError:
        pass


if __name__ == "__main__":
    main()
