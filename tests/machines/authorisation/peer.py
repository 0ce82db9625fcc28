"""A program for a namespace: `listen HOST PORT` echoes; `hold HOST PORT` connects and says `connected`, then `cut`."""

from __future__ import annotations

import socket
import sys
import threading
import time


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


if __name__ == "__main__":
    {"listen": listen, "hold": hold}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
