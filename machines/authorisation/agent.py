"""Answers OpenVPN on its management socket, for ever: whatever ends, OpenVPN or the connection to it, comes back.

One thread, which waits for nothing but the sockets (of one OpenVPN or, where machines also come in over TCP, of two):
the database and the firewall are for `hands.py`, routes for `routes.py`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import select
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from machines.authorisation import management as protocol
from machines.authorisation.admission import REPORTED_EVERY_S, Admission
from machines.authorisation.allow_list import AllowList
from machines.authorisation.hands import Hands
from machines.authorisation.management import Command, Event, Management, ManagementError, Notice, Reply
from machines.authorisation.outcomes import (
    Admit,
    Alarm,
    Confirm,
    Deny,
    Forget,
    Halt,
    Joined,
    Known,
    Left,
    Moment,
    Outcome,
    Restart,
    TunnelEnded,
)
from machines.authorisation.ways import Way, number, split, way_of

logger = logging.getLogger(__name__)

_TICK_S = 0.25
_RECONNECT_S = (0.1, 0.2, 0.5, 1.0)
# OpenVPN answers at once; who does not has another management client, or hangs.
_ANSWER_S = 10.0
# A machine that has heard nothing for 15 s has left its tunnel, and OpenVPN itself forgets it after 30 s.
_ABANDONED_AFTER_S = 40.0
# The same trouble of the same machine is one row in the security record, not one for each try.
_ALARM_EVERY_S = 600.0
_MAX_ALARMS = 4096


class _Link:
    """One OpenVPN's management socket, and the connection to it while there is one."""

    def __init__(self, way: Way, path: Path, known: list[Known]) -> None:
        self.way = way
        self.path = path
        self.known = known  # whom an earlier run wrote down, until OpenVPN has said who is there
        self.connection: socket.socket | None = None
        self.is_reconciled = False
        self.has_settled = False  # it was looked at: it is there, or it is away
        self.connected_at = 0.0
        self.lost_at: float | None = None
        self._management = Management()
        self._failures = 0
        self._said = ""
        self.retry_at = 0.0

    def connect(self, now: Moment) -> None:
        """Raises OSError."""
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(5)
        self.connection.connect(str(self.path))
        self._failures, self._said = 0, ""
        self._management = Management()
        self.connected_at = now.clock
        self.say([protocol.status(), protocol.report_traffic(REPORTED_EVERY_S)])

    def hear(self) -> list[Event]:
        """Raises OSError or ManagementError when the connection is of no more use."""
        assert self.connection is not None
        data = self.connection.recv(1 << 16)
        if not data:
            raise ManagementError("it has closed the connection.")
        return [self._numbered(event) for event in self._management.receive(data)]

    def say(self, commands: list[Command]) -> None:
        """Raises OSError."""
        assert self.connection is not None
        self.connection.sendall(b"".join(self._management.send(command) for command in commands))

    def check_patience(self, now: Moment) -> None:
        """Raises ManagementError when it should have said by now who is connected."""
        if not self.is_reconciled and now.clock - self.connected_at > _ANSWER_S:
            raise ManagementError(f"no answer within {_ANSWER_S:g} s; is another program at its management socket?")

    def lose(self, error: Exception) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection, self.is_reconciled, self.has_settled = None, False, True
        if str(error) != self._said:
            logger.warning("OpenVPN is away (%s): %s", self.path, error)
        self._said = str(error)
        self.retry_at = time.monotonic() + _RECONNECT_S[min(self._failures, len(_RECONNECT_S) - 1)]
        self._failures += 1

    def _numbered(self, event: Event) -> Event:
        """With the agent's number of the client in place of OpenVPN's."""
        if isinstance(event, Notice | Reply):
            return event
        return replace(event, client_id=number(self.way, event.client_id))


class Agent:
    """Runs until told to stop; tunnels live on then, and the next run takes them over.

    With a `tcp_socket_path` there is a second OpenVPN, for those who come in over TCP. Each is answered also while the
    other is away; `want_routes` is told which addresses are behind the second one.
    """

    def __init__(
        self,
        socket_path: Path,
        network: ipaddress.IPv4Network,
        hands: Hands,
        *,
        allow_list: AllowList,
        known: list[Known],
        tcp_socket_path: Path | None = None,
        want_routes: Callable[[frozenset[str]], None] = lambda addresses: None,
        now: Callable[[], Moment] = lambda: Moment(time.monotonic(), datetime.now(UTC)),
    ) -> None:
        self._netmask = str(network.netmask)
        self._hands = hands
        self._want_routes = want_routes
        self._now = now
        self._admission = Admission(allow_list)
        paths = {Way.FIRST: socket_path} | ({Way.TCP: tcp_socket_path} if tcp_socket_path else {})
        self._links = {
            way: _Link(way, path, [one for one in known if way_of(one.client_id) is way]) for way, path in paths.items()
        }
        self._homeless = [one for one in known if way_of(one.client_id) not in paths]
        self._knows_routes = False
        self._alarms: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        hands.on_fresh = self.wake

    def wake(self) -> None:
        """Has the agent look at once at what is new; may be called by any thread."""
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_in.send(b"!")

    @property
    def is_answering(self) -> bool:
        """Whether it is at the first OpenVPN's socket and knows who is connected."""
        return self.is_answering_at(Way.FIRST)

    def is_answering_at(self, way: Way) -> bool:
        """Whether it is at this OpenVPN's socket and knows who is connected there."""
        return way in self._links and self._links[way].is_reconciled

    def run(self, stop: threading.Event) -> None:
        """Connects and answers, again and again, until `stop` is set (`wake` spares the wait)."""
        for one in self._homeless:
            self._hands.put(Left(one.key, "There is no OpenVPN of that kind any more.", self._now().wall))
        while not stop.is_set():
            self._connect()
            for link in self._ready():
                with self._kept(link):
                    self._listen(link, link.hear(), self._now())
            self._review(self._now())
        for link in self._links.values():
            link.is_reconciled = False
            if link.connection is not None:
                link.connection.close()
        self._wake_in.close()
        self._wake_out.close()

    # --- connections -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _kept(self, link: _Link) -> Iterator[None]:
        """What fails at one OpenVPN leaves the other alone."""
        try:
            yield
        except (OSError, ManagementError) as error:
            link.lost_at = self._now().clock if link.lost_at is None else link.lost_at
            link.lose(error)
            self._admission.lose(link.way)

    def _connect(self) -> None:
        now = self._now()
        for link in self._links.values():
            if link.connection is None and time.monotonic() >= link.retry_at:
                with self._kept(link):
                    link.connect(now)
            # With one way alone there is nothing that waits for it.
            if link.lost_at is not None and len(self._links) > 1 and now.clock - link.lost_at > _ABANDONED_AFTER_S:
                self._carry_out(self._admission.abandon(link.way, link.known, now))
                link.known = []

    def _ready(self) -> list[_Link]:
        """Those who have said something; waits for that, for a wake, or for the time to try again."""
        there = {link.connection: link for link in self._links.values() if link.connection is not None}
        away = [link for link in self._links.values() if link.connection is None]
        wait_s = min([_TICK_S, *(link.retry_at - time.monotonic() for link in away)])
        ready, _, _ = select.select([*there, self._wake_out], [], [], max(0.0, wait_s))
        if self._wake_out in ready:
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(4096)
        return [link for connection, link in there.items() if connection in ready]

    def _review(self, now: Moment) -> None:
        for link in self._links.values():
            if link.connection is not None:
                with self._kept(link):
                    link.check_patience(now)
        ways = [link.way for link in self._links.values() if link.is_reconciled]
        # At the start nobody is let in at one before the other has said who is there, or is away.
        if not ways or not all(link.has_settled for link in self._links.values()):
            return
        self._take_wishes()
        self._carry_out(self._admission.review(now, ways))
        self._hands.put_heard(self._admission.heard(), ways)
        if Way.TCP in ways:
            self._knows_routes = True
        if self._knows_routes:
            self._want_routes(self._admission.over(Way.TCP))

    def _listen(self, link: _Link, events: list[Event], now: Moment) -> None:
        for event in events:
            if link.connection is None:
                return  # lost by an answer to what came before
            if isinstance(event, Reply):
                self._take_reply(link, event, now)
            elif isinstance(event, Notice):
                if event.kind in ("FATAL", "HOLD"):
                    logger.error("OpenVPN says: %s", event.text[:200])
            else:
                self._carry_out(self._admission.take(event, now))

    def _take_reply(self, link: _Link, reply: Reply, now: Moment) -> None:
        if not reply.succeeded:
            # Mostly somebody who had gone before the answer came.
            logger.info("OpenVPN refused %r: %s", reply.command[:60], reply.text[:200])
        if reply.command != protocol.status().line:
            return
        if not reply.succeeded:
            raise ManagementError(f"it does not say who is connected: {reply.text[:200]}")
        self._take_wishes()
        rows = [replace(row, client_id=number(link.way, row.client_id)) for row in protocol.read_status(reply)]
        outcomes = self._admission.reconcile(rows, link.known, now, link.way)
        link.known = []
        link.is_reconciled, link.has_settled, link.lost_at = True, True, None
        logger.info("At OpenVPN's management socket; %d machines are connected", self._admission.count())
        self._carry_out(outcomes)

    def _take_wishes(self) -> None:
        fresh = self._hands.fresh
        if fresh is not None:
            self._admission.wish(fresh.wishes.allow_list, fresh.wishes.endings, read_at=fresh.read_at)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _carry_out(self, outcomes: Iterable[Outcome]) -> None:
        commands: dict[Way, list[Command]] = {}
        for outcome in outcomes:
            match outcome:
                case Joined() | Left() | TunnelEnded():
                    self._hands.put(outcome)
                case Alarm():
                    self._raise_alarm(outcome)
                case _:
                    try:
                        way, command = self._command(outcome)
                        commands.setdefault(way, []).append(command)
                    except ValueError:
                        # Whatever it was that cannot be said: the others are still to be answered.
                        logger.exception("Cannot carry out %s", type(outcome).__name__)
            _log(outcome)
        for way, said in commands.items():
            link = self._links[way]
            if link.connection is not None:
                with self._kept(link):
                    link.say(said)

    def _command(self, outcome: Admit | Confirm | Deny | Halt | Restart | Forget) -> tuple[Way, Command]:
        if isinstance(outcome, Forget):
            return outcome.way, protocol.forget(outcome.remote_address, outcome.remote_port)
        way, client_id = split(outcome.client_id)
        match outcome:
            case Admit():
                return way, protocol.admit(client_id, outcome.key_id, address=outcome.address, netmask=self._netmask)
            case Confirm():
                return way, protocol.confirm(client_id, outcome.key_id)
            case Deny():
                return way, protocol.deny(client_id, outcome.key_id, log=outcome.log, shown=outcome.shown)
            case Halt():
                return way, protocol.halt(client_id)
            case Restart():
                return way, protocol.restart(client_id)

    def _raise_alarm(self, alarm: Alarm) -> None:
        name = (alarm.kind, alarm.common_name, alarm.address)
        now = self._now().clock
        if now - self._alarms.get(name, float("-inf")) < _ALARM_EVERY_S:
            return
        self._alarms[name] = now
        self._alarms.move_to_end(name)
        if len(self._alarms) > _MAX_ALARMS:
            self._alarms.popitem(last=False)
        self._hands.put(alarm)


def _log(outcome: Outcome) -> None:
    match outcome:
        case Joined():
            logger.info("%s joined from %s:%d", outcome.common_name, outcome.remote_address, outcome.remote_port)
        case Deny():
            logger.info("Client %d was turned away: %s", outcome.client_id, outcome.log)
        case Halt():
            logger.info("Client %d was told to end", outcome.client_id)
        case Restart():
            logger.info("Client %d was sent round: nobody knows that it was let in", outcome.client_id)
        case Alarm(kind="vpn_duplicate"):
            logger.error("%s: the same identity in two places: %s", outcome.common_name, dict(outcome.detail))
        case Alarm():
            logger.warning("%s from %s: %s", outcome.common_name or "A stranger", outcome.address, outcome.kind)
