"""A program for a namespace: `listen HOST PORT` echoes; `hold HOST PORT` connects and says `connected`, then `cut`.

`crowd HOST PORT TRIES` takes connections and says nothing on them. `hear HOST PORT` says what datagrams come from
where, `tell HOST PORT` sends some.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable


def listen(host: str, port: int) -> None:
    with socket.create_server((host, port)) as server:
        print("listening", flush=True)
        while True:
            connection, _ = server.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()


def echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(1024):
            connection.sendall(data)


def hold(host: str, port: int) -> None:
    """Ends with code 1 when it never got through."""
    try:
        connection = socket.create_connection((host, port), timeout=4)
    except OSError as error:
        print(f"no way: {error}", flush=True)
        sys.exit(1)
    # What was cut is told at once; an answer may take its time where the listener is held up.
    connection.settimeout(30)
    with connection:
        try:
            while True:
                connection.sendall(b".")
                if not connection.recv(1):
                    raise ConnectionError("closed")
                print("connected", flush=True)
                time.sleep(0.05)
        except OSError as error:
            print(f"cut: {error}", flush=True)


def crowd(host: str, port: int, tries: int) -> None:
    """Connects so often and says nothing, then says how often it got through, and keeps those until it is killed."""
    held = []
    for _ in range(tries):
        with contextlib.suppress(OSError):
            held.append(socket.create_connection((host, port), timeout=0.2))
    print(f"got {len(held)}.", flush=True)
    time.sleep(600)


def hear(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((host, port))
        print("listening", flush=True)
        while True:
            _, sender = sock.recvfrom(100)
            print(f"heard from {sender[0]}", flush=True)


def tell(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _ in range(3):
            try:
                sock.sendto(b".", (host, port))
            except OSError as error:
                print(f"no way: {error}", flush=True)
            time.sleep(0.05)


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {
        "listen": listen, "hold": hold, "crowd": crowd, "hear": hear, "tell": tell,
    }  # fmt: skip
    programs[sys.argv[1]](sys.argv[2], *(int(value) for value in sys.argv[3:]))
