"""The thread that does what may take long: it reads the database, writes files, firewall rules and rows.

The thread that answers OpenVPN only hands it facts and takes wishes from it. While the database is away the last wishes
stay, and facts wait; nothing of both is lost but by the end of the process, and then `reconcile` finds out.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from django.db import InterfaceError, InternalError, OperationalError, close_old_connections, connections

from machines import gateway_identities
from machines.authorisation import allow_list
from machines.authorisation.allow_list import AllowList
from machines.authorisation.nft import NftError
from machines.authorisation.outcomes import Heard, Known
from machines.authorisation.rows import Fact, Record, Wishes, read_known, read_wishes
from machines.authorisation.server_files import ServerFiles
from machines.authorisation.ways import Way
from machines.passages import Passage

logger = logging.getLogger(__name__)

POLL_S = 0.3
_AWAY_POLL_S = 1.0
_HEARD_EVERY_S = 2.0
# A reload of somebody else's firewall may have flushed ours.
_ISOLATE_EVERY_S = 5.0
# A day of a database that is away, with a few hundred machines that come and go.
_MAX_FACTS = 100_000
# The last is also what a PostgreSQL says that may only be read, as it is for a while when another one takes over.
_AWAY = (OperationalError, InterfaceError, InternalError)


@dataclass(frozen=True, slots=True)
class Fresh:
    """Wishes, and the clock before they were read."""

    wishes: Wishes
    read_at: float


class Hands:
    """`start` does the first round at once; `run` goes on with it in a thread of its own until told to stop."""

    def __init__(
        self,
        server_files: ServerFiles,
        isolate: Callable[[frozenset[Passage]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = server_files
        self._isolate = isolate
        self._clock = clock
        self._record = Record()
        self._facts: deque[Fact] = deque(maxlen=_MAX_FACTS)
        self._heard: Mapping[uuid.UUID, Heard] = {}
        self._heard_at = float("-inf")
        self._answering_at: dict[Way, float] = {}
        self._passages: frozenset[Passage] | None = None
        self._isolated_at = float("-inf")
        self._was_away = False
        self._bell = threading.Event()
        self.fresh: Fresh | None = None
        self.on_fresh: Callable[[], None] = lambda: None

    # --- called by the thread that answers OpenVPN -------------------------------------------------------------------

    def put(self, fact: Fact) -> None:
        """Has a fact written as soon as may be, after those before it."""
        self._facts.append(fact)
        self._bell.set()

    def put_heard(self, heard: Mapping[uuid.UUID, Heard], ways: Iterable[Way] = (Way.FIRST,)) -> None:
        """Has the traffic written, and which OpenVPN is listened to; what was put before is forgotten."""
        self._heard = heard
        self._answering_at |= dict.fromkeys(ways, self._clock())

    def ring(self) -> None:
        """Wakes the thread, as before its end."""
        self._bell.set()

    # --- the thread --------------------------------------------------------------------------------------------------

    def start(self) -> tuple[AllowList, list[Known]]:
        """The first round: whom to admit, and which tunnels an earlier run wrote down.

        Without a database the allow-list file decides. Raises AllowListError when there is neither, NftError when
        machines cannot be kept apart: then nobody is to be admitted.
        """
        try:
            read_at = self._clock()
            wishes = read_wishes()
            if self._files.write_server():
                logger.info(
                    "Wrote OpenVPN's configuration to %s; it counts when OpenVPN starts again", self._files.folder
                )
            self._files.write_wishes(wishes)
            known = read_known()
        except _AWAY as error:
            logger.warning("The database is away (%s): %s decides", _first_line(error), self._files.allow_list_path)
            self._was_away = True
            self._keep_apart(frozenset())
            return allow_list.read(self._files.allow_list_path), []
        self._keep_apart(wishes.passages)
        self._record.adopt(known)
        self.fresh = Fresh(wishes, read_at)
        return wishes.allow_list, known

    def run(self, stop: threading.Event) -> None:
        """Rounds until `stop` is set, and one more for what is still to be written."""
        try:
            while not stop.is_set():
                delay_s = self._round()
                self._bell.wait(delay_s)
                self._bell.clear()
            self._round()
        finally:
            connections.close_all()

    def _round(self) -> float:
        """One look at everything; how long until the next one. Never raises."""
        try:
            close_old_connections()
            self._write_facts()
            gateway_identities.withdraw_dead()
            read_at = self._clock()
            wishes = read_wishes()
            try:
                if self._was_away:
                    self._record.end_others()
                    self._files.write_server()
                    self._was_away = False
                    logger.info("The database is back")
                # What OpenVPN reads is there before anybody is let in by it; who may no longer pass is stopped first.
                self._keep_apart_or_say(wishes.passages)
                self._files.write_wishes(wishes)
            finally:
                # Also when a disk is full: who is no longer admitted must go.
                self.fresh = Fresh(wishes, read_at)
                self.on_fresh()
            self._write_heard()
        except _AWAY as error:
            if not self._was_away:
                logger.error("The database is away (%s): going on with what is known", _first_line(error))
            self._was_away = True
            self._keep_apart_or_say(self._passages or frozenset())
            return _AWAY_POLL_S
        except Exception:
            logger.exception("A round failed; the next one is in %.0f s", _AWAY_POLL_S)
            return _AWAY_POLL_S
        return POLL_S

    def _write_facts(self) -> None:
        while self._facts:
            fact = self._facts[0]
            try:
                self._record.write(fact)
            except _AWAY:
                raise
            except Exception:
                # It would fail again, and keep all others from being written.
                logger.exception("Could not write down %s", type(fact).__name__)
            self._facts.popleft()

    def _write_heard(self) -> None:
        if self._clock() - self._heard_at >= _HEARD_EVERY_S:
            self._heard_at = self._clock()
            self._record.write_heard(self._heard)
            if ways := [way for way, at in self._answering_at.items() if self._heard_at - at < _HEARD_EVERY_S]:
                self._record.write_answering({way: self._files.loaded_until(way) for way in ways})

    def _keep_apart_or_say(self, passages: frozenset[Passage]) -> None:
        if passages == self._passages and self._clock() - self._isolated_at < _ISOLATE_EVERY_S:
            return
        try:
            self._keep_apart(passages)
        except NftError as error:
            logger.error("The firewall's rules are not what they should be: %s", error)

    def _keep_apart(self, passages: frozenset[Passage]) -> None:
        self._isolate(passages)
        self._passages, self._isolated_at = passages, self._clock()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
