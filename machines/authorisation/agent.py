"""Answers OpenVPN on its management socket, for ever: whatever ends, OpenVPN or the connection to it, comes back.

One thread, which waits for nothing but the socket: the database and the firewall are for `hands.py`.
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
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from machines.authorisation import management as protocol
from machines.authorisation.admission import (
    REPORTED_EVERY_S,
    Admission,
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
from machines.authorisation.allow_list import AllowList
from machines.authorisation.hands import Hands
from machines.authorisation.management import Command, Management, ManagementError, Notice, Reply

logger = logging.getLogger(__name__)

_TICK_S = 0.25
_RECONNECT_S = (0.1, 0.2, 0.5, 1.0)
# OpenVPN answers at once; who does not has another management client, or hangs.
_ANSWER_S = 10.0
# The same trouble of the same machine is one row in the security record, not one for each try.
_ALARM_EVERY_S = 600.0
_MAX_ALARMS = 4096


class Agent:
    """Runs until told to stop; tunnels live on then, and the next run takes them over."""

    def __init__(
        self,
        socket_path: Path,
        network: ipaddress.IPv4Network,
        hands: Hands,
        *,
        allow_list: AllowList,
        known: list[Known],
        now: Callable[[], Moment] = lambda: Moment(time.monotonic(), datetime.now(UTC)),
    ) -> None:
        self._socket_path = socket_path
        self._netmask = str(network.netmask)
        self._hands = hands
        self._now = now
        self._admission = Admission(allow_list)
        self._known = known
        self._alarms: OrderedDict[tuple[str, str, str], float] = OrderedDict()
        self._management = Management()
        self._is_reconciled = False
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
        """Whether it is at OpenVPN's socket and knows who is connected."""
        return self._is_reconciled

    def run(self, stop: threading.Event) -> None:
        """Connects and answers, again and again, until `stop` is set (`wake` spares the wait)."""
        failures = 0
        said = ""
        while not stop.is_set():
            try:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(5)
                    connection.connect(str(self._socket_path))
                    failures, said = 0, ""
                    self._answer(connection, stop)
            except (OSError, ManagementError) as error:
                if str(error) != said:
                    logger.warning("OpenVPN is away (%s): %s", self._socket_path, error)
                said = str(error)
            self._is_reconciled = False
            self._admission.lose()
            stop.wait(_RECONNECT_S[min(failures, len(_RECONNECT_S) - 1)])
            failures += 1
        self._wake_in.close()
        self._wake_out.close()

    # --- one connection ----------------------------------------------------------------------------------------------

    def _answer(self, connection: socket.socket, stop: threading.Event) -> None:
        """Raises OSError or ManagementError when the connection is of no more use."""
        self._management = Management()
        self._say(connection, [protocol.status(), protocol.report_traffic(REPORTED_EVERY_S)])
        connected_at = self._now().clock
        while not stop.is_set():
            ready, _, _ = select.select([connection, self._wake_out], [], [], _TICK_S)
            if self._wake_out in ready:
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            now = self._now()
            if connection in ready:
                data = connection.recv(1 << 16)
                if not data:
                    raise ManagementError("it has closed the connection.")
                self._listen(connection, data, now)
            if self._is_reconciled:
                self._take_wishes()
                self._carry_out(connection, self._admission.review(now))
                self._hands.put_heard(self._admission.heard())
            elif now.clock - connected_at > _ANSWER_S:
                raise ManagementError(f"no answer within {_ANSWER_S:g} s; is another program at its management socket?")

    def _listen(self, connection: socket.socket, data: bytes, now: Moment) -> None:
        for event in self._management.receive(data):
            if isinstance(event, Reply):
                self._take_reply(connection, event, now)
            elif isinstance(event, Notice):
                if event.kind in ("FATAL", "HOLD"):
                    logger.error("OpenVPN says: %s", event.text[:200])
            else:
                self._carry_out(connection, self._admission.take(event, now))

    def _take_reply(self, connection: socket.socket, reply: Reply, now: Moment) -> None:
        if not reply.succeeded:
            # Mostly somebody who had gone before the answer came.
            logger.info("OpenVPN refused %r: %s", reply.command[:60], reply.text[:200])
        if reply.command != protocol.status().line:
            return
        if not reply.succeeded:
            raise ManagementError(f"it does not say who is connected: {reply.text[:200]}")
        self._take_wishes()
        outcomes = self._admission.reconcile(protocol.read_status(reply), self._known, now)
        self._known = []
        self._is_reconciled = True
        logger.info("At OpenVPN's management socket; %d machines are connected", self._admission.count())
        self._carry_out(connection, outcomes)

    def _take_wishes(self) -> None:
        fresh = self._hands.fresh
        if fresh is not None:
            self._admission.wish(fresh.wishes.allow_list, fresh.wishes.endings, read_at=fresh.read_at)

    # --- decisions ---------------------------------------------------------------------------------------------------

    def _carry_out(self, connection: socket.socket, outcomes: Iterable[Outcome]) -> None:
        commands = []
        for outcome in outcomes:
            match outcome:
                case Joined() | Left() | TunnelEnded():
                    self._hands.put(outcome)
                case Alarm():
                    self._raise_alarm(outcome)
                case _:
                    try:
                        commands.append(self._command(outcome))
                    except ValueError:
                        # Whatever it was that cannot be said: the others are still to be answered.
                        logger.exception("Cannot carry out %s", type(outcome).__name__)
            _log(outcome)
        if commands:
            self._say(connection, commands)

    def _command(self, outcome: Admit | Confirm | Deny | Halt | Restart | Forget) -> Command:
        match outcome:
            case Admit():
                return protocol.admit(outcome.client_id, outcome.key_id, address=outcome.address, netmask=self._netmask)
            case Confirm():
                return protocol.confirm(outcome.client_id, outcome.key_id)
            case Deny():
                return protocol.deny(outcome.client_id, outcome.key_id, log=outcome.log, shown=outcome.shown)
            case Halt():
                return protocol.halt(outcome.client_id)
            case Restart():
                return protocol.restart(outcome.client_id)
            case Forget():
                return protocol.forget(outcome.remote_address, outcome.remote_port)

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

    def _say(self, connection: socket.socket, commands: list[Command]) -> None:
        connection.sendall(b"".join(self._management.send(command) for command in commands))


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
