"""A browser behind a slow line: a ping may wait behind pictures for long; a line that takes nothing is dead."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import uvicorn

from portal.management.commands.serve import _configuration
from portal.websockets import BoundedWebSocketProtocol
from sessions import attachments, services
from sessions.keeper import Limits
from sessions.models import Attachment
from sessions.states import State
from tests.fakes.guacd import FakeGuacd
from tests.sessions import portal_server
from tests.sessions.keeping import keeping, rescue, until_state
from tests.sessions.portal_server import Browser, serving, signed_in, tunnel_path
from tests.sessions.rescues import person
from tests.waiting import LONG_S, until

pytestmark = pytest.mark.django_db(transaction=True)

BYTES_A_SECOND = 60_000
PICTURES = 400_000
# What the line carries between two looks at it at least, unless it is dead.
LEAST_BYTES = 20_000


class SlowLine:
    """A line to `port` that carries little a second downwards, and nothing once `is_dead`."""

    def __init__(self, port: int) -> None:
        self.is_dead = threading.Event()
        self.carried = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._target = port
        self._ends: list[socket.socket] = [self._listener]
        threading.Thread(target=self._carry, name="slow line", daemon=True).start()

    def _carry(self) -> None:
        with suppress(OSError):
            near, _ = self._listener.accept()
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            far.connect(("127.0.0.1", self._target))
            self._ends += [near, far]
            threading.Thread(target=self._carry_up, args=(near, far), name="slow line, up", daemon=True).start()
            while not self.is_dead.is_set() and (data := far.recv(BYTES_A_SECOND // 50)):
                near.sendall(data)
                self.carried += len(data)
                time.sleep(0.02)  # this is the line's speed

    def _carry_up(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(4096):
                far.sendall(data)

    def close(self) -> None:
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def browser_behind_slow_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Browser, SlowLine]]:
    """Alice's browser, while guacd has far more to draw than the line carries in the time that a ping may take."""

    def impatient(application: str) -> uvicorn.Config:
        made = _configuration(application)
        made.ws_ping_interval, made.ws_ping_timeout = 0.3, 0.6
        return made

    looks = BoundedWebSocketProtocol.keepalive_timeout
    lines: list[SlowLine] = []
    seen = [0]

    def look(protocol: BoundedWebSocketProtocol) -> None:
        """The server looks when the line has had the time to carry something, also where its thread was held up."""
        for line in lines:
            if not line.is_dead.is_set() and line.carried - seen[0] < LEAST_BYTES:
                protocol.pong_timer = protocol.loop.call_later(0.05, protocol.keepalive_timeout)
                return
            seen[0] = line.carried
        looks(protocol)

    monkeypatch.setattr(portal_server, "_configuration", impatient)
    monkeypatch.setattr(BoundedWebSocketProtocol, "keepalive_timeout", look)
    alice = person("Alice")
    with FakeGuacd(frame_interval_s=0.1) as guacd:
        session = rescue(guacd.port)
        services.claim(session, user=alice)
        with keeping(limits=Limits()), serving() as port:
            session = until_state(session, State.READY, timeout_s=LONG_S)
            line = SlowLine(port)
            lines.append(line)
            ticket = attachments.issue_ticket(session, user=alice, role="controller")
            path = tunnel_path(session.pk)
            with Browser(line.port, path, login=signed_in(alice), subprotocol="guacamole") as browser:
                browser.tell("", "ticket", ticket)
                guacd.wait_until(lambda: guacd.joiners, timeout_s=LONG_S)
                flood = {"total": PICTURES, "to": guacd.joiners[-1]}
                threading.Thread(target=guacd.start_flood, kwargs=flood, name="flood", daemon=True).start()
                try:
                    yield browser, line
                finally:
                    line.close()


def test_slow_line_gets_its_pictures_however_long_a_ping_waits_behind_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with browser_behind_slow_line(monkeypatch) as (browser, _):
        browser.until(lambda: sum(map(len, browser.frames)) > PICTURES * 0.9, "all is drawn", timeout_s=90)
        assert browser.closing[0] is None


def test_line_that_takes_nothing_any_more_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with browser_behind_slow_line(monkeypatch) as (browser, line):
        browser.until(lambda: sum(map(len, browser.frames)) > 20_000, "something is drawn", timeout_s=LONG_S)
        line.is_dead.set()
        # Long before the kernel would give it up (TCP_USER_TIMEOUT).
        until(lambda: Attachment.objects.get().detached_at, "the place is given up")
