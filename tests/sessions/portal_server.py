"""The public face on a port and thread of its own, and browsers that speak to it over real WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import uvloop
from django.conf import settings
from django.db import connections
from django.test import Client
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from machines.models import User
from notifications import live
from portal.management.commands.serve import PUBLIC, Server, _configuration
from tests.waiting import LONG_S, until

_OPENING = re.compile(r"(\d+)\.")


@contextmanager
def serving() -> Iterator[int]:
    """The public face as `manage.py serve` runs it; gives its port."""
    database = connections.settings["default"]
    # The server's threads end with it, and on PostgreSQL their connections must, too, or the database stays in use.
    max_age, database["CONN_MAX_AGE"] = database["CONN_MAX_AGE"], 0
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(_configuration(PUBLIC))

    async def run() -> None:
        live.use_loop(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    def main() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=main, name="portal", daemon=True)
    thread.start()
    deadline = time.monotonic() + LONG_S
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the portal does not start"
        time.sleep(0.005)
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(LONG_S)
        live.use_loop(None)
        listener.close()
        database["CONN_MAX_AGE"] = max_age
        assert not thread.is_alive(), "the portal does not stop"


def signed_in(user: User) -> str:
    """The login cookie of a person who has just signed in."""
    client = Client()
    client.force_login(user)
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def parse(text: str) -> list[list[str]]:
    """The instructions in a frame; AssertionError where one is not whole, as Apache's client would close then."""
    instructions, elements, at = [], [], 0
    while at < len(text):
        opening = _OPENING.match(text, at)
        assert opening, f"no length at {at} of {text[:80]!r}"
        end = opening.end() + int(opening[1])
        assert end < len(text), "an instruction is not whole"
        elements.append(text[opening.end() : end])
        assert text[end] in ",;"
        if text[end] == ";":
            instructions.append(elements)
            elements = []
        at = end + 1
    assert not elements
    return instructions


class Browser:
    """One WebSocket of a browser, read on a thread of its own; `frames` is all that came."""

    def __init__(
        self,
        port: int,
        path: str,
        *,
        login: str = "",
        subprotocol: str | None = None,
        reads: bool = True,
        **options: Any,
    ) -> None:
        self.frames: list[str] = []
        self._stack = contextlib.ExitStack()
        connecting = connect(
            f"ws://127.0.0.1:{port}{path}",
            origin=Origin(settings.PUBLIC_ORIGINS[0]),
            subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
            additional_headers={"Cookie": f"{settings.SESSION_COOKIE_NAME}={login}"} if login else None,
            compression=None,
            ping_interval=None,
            max_size=None,
            open_timeout=LONG_S,
            close_timeout=1,
            user_agent_header="A test's browser",
            **options,
        )
        self.socket: ClientConnection = self._stack.enter_context(connecting)
        self._reader = threading.Thread(target=self._read, daemon=True)
        if reads:
            self._reader.start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            self._stack.close()
        if self._reader.ident:
            self._reader.join(LONG_S)

    def read(self) -> None:
        """Begins to read, where `reads` was off."""
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            while True:
                frame = self.socket.recv()
                assert isinstance(frame, str)
                self.frames.append(frame)

    def tell(self, *elements: object) -> None:
        self.socket.send(",".join(f"{len(str(one))}.{one}" for one in elements) + ";")

    def until(self, holds: Callable[[], Any], what: str, *, timeout_s: float = LONG_S) -> Any:
        return until(holds, lambda: f"{what}; close: {self.closing}", timeout_s=timeout_s)

    @property
    def closing(self) -> tuple[int | None, str | None]:
        return self.socket.close_code, self.socket.close_reason

    # --- Guacamole ---------------------------------------------------------------------------------------------------

    @property
    def instructions(self) -> list[list[str]]:
        return [one for frame in list(self.frames) for one in parse(frame)]

    @property
    def opcodes(self) -> list[str]:
        return [one[0] for one in self.instructions]

    def until_opcode(self, opcode: str, *, times: int = 1) -> list[str]:
        until(
            lambda: self.opcodes.count(opcode) >= times,
            lambda: f"{opcode} comes; came: {self.opcodes[-5:]}; close: {self.closing}",
        )
        return [one for one in self.instructions if one[0] == opcode][-1]

    def until_ended(self, *, timeout_s: float = LONG_S) -> tuple[int, str]:
        """The status and the sentence the tunnel ended with, as both the close reason and the last words say it."""
        self._reader.join(timeout_s)
        assert not self._reader.is_alive(), f"the tunnel did not end within {timeout_s} s"
        assert self.opcodes[-2:] == ["error", "disconnect"], f"no last words; closed with {self.closing}"
        _, sentence, status = self.instructions[-2]
        assert self.socket.close_reason == status
        return int(status), sentence

    # --- live line ---------------------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(frame) for frame in list(self.frames)]

    def until_message(self, fits: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        message: dict[str, Any] = self.until(lambda: next((one for one in self.messages if fits(one)), None), what)
        return message


def tunnel_path(session_id: UUID) -> str:
    return f"/ws/sessions/{session_id}/tunnel/"
