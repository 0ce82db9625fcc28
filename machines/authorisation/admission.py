"""Who is in the VPN and who may be: events and wishes in, decisions out. No I/O, and no clock of its own.

`take` keeps what happened; `review` compares all that is known with all that is wished, and says what to do. It may be
called at any time, as often as one likes: a decision that was made is not made again.

The same certificate in two places (T14): a newcomer from another address waits while the first was heard within
HEARD_S. If the first is heard again, the newcomer is turned away and there is an alarm; if it stays silent, its line
was lost, and the newcomer is the machine on its new line. A machine that is in sends a ping every 5 s.

A machine is one machine whichever way it comes (`ways.py`): what is said above holds across both. OpenVPN itself drops
an earlier tunnel of the same machine, but knows only its own: one at the other OpenVPN is dropped here.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from machines.authorisation import clients
from machines.authorisation.allow_list import AllowList
from machines.authorisation.clients import Client, State
from machines.authorisation.management import Connecting, Disconnected, Established, Event, StatusRow, Traffic
from machines.authorisation.outcomes import (
    Admit,
    Alarm,
    Confirm,
    Deny,
    Ending,
    Halt,
    Heard,
    Joined,
    Known,
    Left,
    Moment,
    Outcome,
    Restart,
    TunnelEnded,
)
from machines.authorisation.ways import Way
from machines.vpn.pki import is_gateway

# `keepalive 5 15` has a client send something every 5 s.
HEARD_S = 15.0
# Traffic is told so often, so what is told just after a newcomer's arrival may have come before it.
REPORTED_EVERY_S = 2
# A stranger waits until the allow list was read anew, or so long: its identity may have been issued just now.
FRESH_LIST_S = 2.0
# Who is told to end may say good-bye for this long; who is no longer admitted for less.
GOODBYE_S = 8.0
REVOKED_GOODBYE_S = 1.5
# So many changes of place at one address in so long are two machines behind one router, not one that starts again.
_FLAPPING = 4
_FLAPPING_WITHIN_S = 600.0
_CLOCK_TOLERANCE = timedelta(seconds=1)

NOT_ADMITTED = "This machine is not admitted. Ask its fleet manager."
OVER = "This gateway is not admitted: its attempt is over."
ELSEWHERE = "This machine is connected from another place already. Ask its fleet manager."


@dataclass(slots=True)
class Admission:
    """All that is known of OpenVPN's clients. Begins with an allow list; before that nobody should be asked."""

    allow_list: AllowList
    _read_at: float = float("-inf")
    _clients: dict[int, Client] = field(default_factory=dict)
    _endings: tuple[Ending, ...] = ()
    _fulfilled: set[tuple[str, int]] = field(default_factory=set)
    _moves: dict[str, deque[float]] = field(default_factory=dict)

    def wish(self, allow_list: AllowList, endings: Iterable[Ending], *, read_at: float) -> None:
        """What the database wishes from now on; `read_at` is the clock before it was read."""
        self.allow_list = allow_list
        self._read_at = read_at
        self._endings = tuple(endings)
        self._fulfilled &= {(ending.common_name, ending.wish) for ending in self._endings}

    def heard(self) -> dict[uuid.UUID, Heard]:
        """The traffic of all tunnels that are written down."""
        return {
            client.key: Heard(client.heard.wall, client.bytes_received, client.bytes_sent)
            for client in self._clients.values()
            if client.key is not None
        }

    def count(self) -> int:
        """How many tunnels there are."""
        return sum(client.state is State.INSIDE for client in self._clients.values())

    def over(self, way: Way) -> frozenset[str]:
        """The addresses of those who have their tunnel over this way."""
        insiders: dict[str, Client] = {}
        for client in self._inside():
            before = insiders.get(client.common_name)
            if before is None or before.ending or (not client.ending and client.arrived.clock >= before.arrived.clock):
                insiders[client.common_name] = client
        found = (
            self.allow_list.address_of(one.common_name, one.fingerprint)
            for one in insiders.values() if one.way is way
        )  # fmt: skip
        return frozenset(address for address in found if address is not None)

    # --- what happens ------------------------------------------------------------------------------------------------

    def take(self, event: Event, now: Moment) -> list[Outcome]:
        """Keeps what happened; what follows from it at once is told, the rest by `review`."""
        match event:
            case Connecting(is_new=True):
                return self._take_newcomer(event, now)
            case Connecting():
                return self._take_new_keys(event, now)
            case Established(client_id=client_id):
                return self._take_established(client_id, now)
            case Disconnected():
                return self._take_disconnected(event, now)
            case Traffic():
                client = self._clients.get(event.client_id)
                if client is not None:
                    if event.bytes_received > client.bytes_received:
                        client.heard = now
                    client.bytes_received, client.bytes_sent = event.bytes_received, event.bytes_sent
        return []

    def _take_newcomer(self, event: Connecting, now: Moment) -> list[Outcome]:
        outcomes: list[Outcome] = []
        before = self._clients.pop(event.client_id, None)
        if before is not None:
            outcomes += before.left("OpenVPN gave its number to another.", now)
        try:
            client = clients.newcomer(event, now)
        except ValueError as error:
            # Our own authority signs no such names: somebody has its key, or the configuration is wrong.
            address = clients.printable(event.environment.get("untrusted_ip", ""))
            return [
                *outcomes,
                Deny(event.client_id, event.key_id, "not a machine", NOT_ADMITTED),
                Alarm("vpn_refused", "", address, {"reason": str(error)}),
            ]
        self._clients[client.client_id] = client
        return outcomes

    def _take_new_keys(self, event: Connecting, now: Moment) -> list[Outcome]:
        client = self._clients.get(event.client_id)
        try:
            asking = clients.newcomer(event, now)
            same = client is None or (client.common_name, client.fingerprint) == (
                asking.common_name,
                asking.fingerprint,
            )
            if same and self.allow_list.address_of(asking.common_name, asking.fingerprint) is not None:
                return [Confirm(event.client_id, event.key_id)]
        except ValueError:
            pass
        # `review` cuts it off, too; without a certificate to its name it can only go.
        if client is not None and not client.ending:
            return [Deny(event.client_id, event.key_id, "no longer admitted", NOT_ADMITTED), *self._cut(client, now)]
        return [Deny(event.client_id, event.key_id, "no longer admitted", NOT_ADMITTED)]

    def _take_established(self, client_id: int, now: Moment) -> list[Outcome]:
        client = self._clients.get(client_id)
        if client is None or client.state is not State.ADMITTED:
            return []  # let in by an earlier run of the agent: the status tells of it
        client.state = State.INSIDE
        client.key = uuid.uuid4()
        client.heard = now
        joined = Joined(
            client.key, client.common_name, client.fingerprint, client_id, client.remote_address, client.remote_port,
            now.wall,
        )  # fmt: skip
        self._replace_elsewhere(client, now)
        return [joined]

    def _replace_elsewhere(self, client: Client, now: Moment) -> None:
        """Has the machine's tunnel at the other OpenVPN dropped, unseen by the machine: it has left it."""
        if client.ending:
            return
        for other in self._clients.values():
            is_left = other.way is not client.way and other.state is not State.WAITING
            if is_left and other.common_name == client.common_name:
                other.ending = "A newer connection took its place."
                other.forget_at = now.clock

    def _take_disconnected(self, event: Disconnected, now: Moment) -> list[Outcome]:
        client = self._clients.pop(event.client_id, None)
        if client is None:
            return []
        client.take_last_counts(event.environment)
        return client.left(client.ending or "The machine ended it or its line was lost.", now)

    # --- what is to be done ------------------------------------------------------------------------------------------

    def review(self, now: Moment, ways: Collection[Way] = (Way.FIRST,)) -> list[Outcome]:
        """All that is due now, of those whose OpenVPN can be told."""
        outcomes: list[Outcome] = []
        for client in list(self._clients.values()):
            if client.way not in ways:
                continue
            if client.state is State.WAITING:
                outcomes += self._decide(client, now)
            elif client.ending:
                if client.forget_at is not None and now.clock >= client.forget_at:
                    client.forget_at = None
                    outcomes.append(client.forgotten)
            elif self.allow_list.address_of(client.common_name, client.fingerprint) is None:
                outcomes += self._cut(client, now)
        for ending in self._endings:
            if (ending.common_name, ending.wish) not in self._fulfilled:
                outcomes += self._end(ending, now, ways)
        return outcomes

    def _decide(self, client: Client, now: Moment) -> list[Outcome]:
        address = self.allow_list.address_of(client.common_name, client.fingerprint)
        if address is None:
            is_fresh = self._read_at > client.arrived.clock or now.clock - client.arrived.clock >= FRESH_LIST_S
            shown = OVER if is_gateway(client.common_name) else NOT_ADMITTED
            return self._refuse(client, "vpn_refused", shown) if is_fresh else []
        rivals = [
            other
            for other in self._clients.values()
            if other.common_name == client.common_name and other.state is not State.WAITING and not other.ending
        ]
        elsewhere = [rival for rival in rivals if rival.remote_address != client.remote_address]
        if any(rival.heard.clock > client.arrived.clock + REPORTED_EVERY_S for rival in elsewhere):
            return self._refuse(client, "vpn_duplicate", ELSEWHERE, first=elsewhere[0])
        if any(now.clock - rival.heard.clock < HEARD_S for rival in elsewhere):
            return []
        outcomes: list[Outcome] = []
        beside = [rival for rival in rivals if rival not in elsewhere and now.clock - rival.heard.clock < HEARD_S]
        if beside and self._is_flapping(client.common_name, now):
            outcomes.append(client.alarm("vpn_duplicate", first=beside[0]))
        # OpenVPN itself drops the earlier one when this one has its tunnel.
        client.state = State.ADMITTED
        client.heard = now
        outcomes.append(Admit(client.client_id, client.key_id, address))
        return outcomes

    def _refuse(self, client: Client, kind: str, shown: str, *, first: Client | None = None) -> list[Outcome]:
        del self._clients[client.client_id]
        log = "connected from another place" if first else "not on the allow list"
        return [Deny(client.client_id, client.key_id, log, shown), client.alarm(kind, first=first)]

    def _is_flapping(self, common_name: str, now: Moment) -> bool:
        moves = self._moves.setdefault(common_name, deque(maxlen=_FLAPPING))
        moves.append(now.clock)
        return len(moves) == _FLAPPING and now.clock - moves[0] < _FLAPPING_WITHIN_S

    def _cut(self, client: Client, now: Moment) -> list[Outcome]:
        client.ending = "It is no longer admitted."
        # HALT is a request, and OpenVPN goes on serving for 5 s who does not follow it.
        client.forget_at = now.clock + REVOKED_GOODBYE_S
        return [Halt(client.client_id)]

    def _end(self, ending: Ending, now: Moment, ways: Collection[Way]) -> list[Outcome]:
        meant = [
            client
            for client in self._clients.values()
            if client.common_name == ending.common_name
            and (ending.requested_at is None or client.arrived.wall <= ending.requested_at + _CLOCK_TOLERANCE)
        ]
        if not meant:
            self._fulfilled.add((ending.common_name, ending.wish))
            return [TunnelEnded(ending.wish, ending.common_name)]
        outcomes: list[Outcome] = []
        for client in meant:
            if client.state is not State.WAITING and not client.ending and client.way in ways:
                client.ending = "The rescue is over."
                client.forget_at = now.clock + GOODBYE_S
                outcomes.append(Halt(client.client_id))
        return outcomes

    # --- when OpenVPN or the agent was away --------------------------------------------------------------------------

    def lose(self, way: Way = Way.FIRST) -> None:
        """OpenVPN is away: who had no tunnel yet will ask again; who had one is looked for by `reconcile`."""
        self._clients = {
            number: one for number, one in self._clients.items() if one.state is State.INSIDE or one.way is not way
        }

    def abandon(self, way: Way, known: Iterable[Known], now: Moment) -> list[Outcome]:
        """OpenVPN was away for so long that no tunnel of it can be there any more, nor any that `known` tells of."""
        gone = "OpenVPN was gone."
        lost = [client for client in self._inside() if client.way is way]
        for client in lost:
            del self._clients[client.client_id]
        left = [outcome for client in lost for outcome in client.left(gone, now)]
        return [*left, *(Left(one.key, gone, now.wall) for one in known)]

    def reconcile(
        self, rows: Iterable[StatusRow], known: Iterable[Known], now: Moment, way: Way = Way.FIRST
    ) -> list[Outcome]:
        """Compares those whom OpenVPN has inside with those we know to have let in; the others come in anew.

        `known` is what an earlier run wrote down; those who are gone leave, those whom nobody let in are sent round.
        """
        outcomes: list[Outcome] = []
        remembered = {(one.client_id, one.common_name, *one.place): one for one in self._inside() if one.way is way}
        written = {(one.client_id, one.common_name, one.remote_address, one.remote_port): one for one in known}
        keys = {one.key for one in remembered.values()}
        still: dict[int, Client] = {}
        for row in rows:
            if not row.virtual_address:
                if row.client_id not in self._clients:
                    # It asked while nobody was there; without this it would wait until it gives up.
                    outcomes.append(Restart(row.client_id))
                continue
            name = (row.client_id, row.common_name, row.remote_address, row.remote_port)
            client = remembered.pop(name, None)
            if client is None and name in written and abs(written[name].since.timestamp() - row.since) < 60:
                client = clients.from_known(written.pop(name), now)
            if client is not None and not self._has_its_address(client, row):
                outcomes += client.left("It had another address than its own.", now)
                client = None
            if client is None:
                client = clients.stranger(row, now, forget_at=now.clock + REVOKED_GOODBYE_S)
                outcomes.append(Restart(row.client_id))
            client.bytes_received, client.bytes_sent = row.bytes_received, row.bytes_sent
            still[row.client_id] = client
        gone = "It was gone when OpenVPN or the agent came back."
        for client in remembered.values():
            outcomes += client.left(gone, now)
        outcomes += [Left(one.key, gone, now.wall) for one in written.values() if one.key not in keys]
        # Whoever asked since the connection was made is still waiting.
        others = {
            number: one for number, one in self._clients.items() if one.state is not State.INSIDE or one.way is not way
        }
        self._clients = still | others
        return outcomes

    def _has_its_address(self, client: Client, row: StatusRow) -> bool:
        address = self.allow_list.address_of(client.common_name, client.fingerprint)
        return address in (None, row.virtual_address)  # None: `review` cuts it off

    def _inside(self) -> list[Client]:
        return [client for client in self._clients.values() if client.state is State.INSIDE]
