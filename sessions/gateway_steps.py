"""One step of one gateway at its driver: start it, look at it, stop it; for a session's and for a warm one alike.

What a step comes to is for those who called it to say: a session's operator is told, a warm one's failure delays the
next. Intent first: a row says `starting` before its driver is called, `stopping` before it stops.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import InterfaceError, OperationalError, transaction

from sessions import gateway_rows
from sessions.gateways.base import GatewayDriver, GatewayError, GatewayRequest, GatewayStatus, StillStopping
from sessions.models import Gateway, RdpCredential
from sessions.passes import each
from sessions.states import GatewayState

logger = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=1)
# So often in a row may a driver not know what has become of a gateway.
_UNKNOWN_LIMIT = 3
_MAX_STOP_DELAY_S = 60


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a gateway is not there: `words` for operators, `record` for whoever runs Portafilter.

    `no_room`: another one takes its place, which may come free.
    """

    words: str
    record: str
    permanent: bool = False
    no_room: bool = False


@dataclass
class GatewaySteps:
    """The steps of one worker thread, and the little it remembers between them.

    `has_failed` is called when a start has come to nothing, while we hold the row's lease, and gives it back; `is_lost`
    when a ready one is gone; `says` with what a driver tells of one that is starting; `needs_room` whenever one does
    not come for want of room.
    """

    name: str
    now: Callable[[], datetime]
    driver_for: Callable[[str], GatewayDriver]
    has_failed: Callable[[Gateway, Failure], None]
    is_lost: Callable[[Gateway, Failure], None]
    says: Callable[[Gateway, str], None]
    needs_room: Callable[[Gateway], None] = lambda gateway: None
    _unknown: dict[UUID, int] = field(default_factory=dict)

    def start(self, gateway: Gateway) -> None:
        """Begins a wanted one, or looks how far a starting one has come."""
        if not gateway_rows.is_due(gateway, now=self.now()):
            return
        if not gateway_rows.lease(gateway, owner=self.name, now=self.now()):
            return
        attempt_id = str(gateway.pk)
        try:
            driver = self.driver_for(gateway.driver)
            if gateway.handle:
                status = driver.describe(attempt_id, gateway.handle)
            else:
                status = driver.start(_request(gateway))
        except GatewayError as error:
            if gateway.handle and gateway.tries < _UNKNOWN_LIMIT and not error.permanent:
                due_at = self.now() + LOOK_EVERY
                gateway_rows.release(gateway, owner=self.name, due_at=due_at, tries=gateway.tries + 1)
            else:
                self.has_failed(gateway, Failure(str(error), error.record, error.permanent))
            return
        except (OperationalError, InterfaceError):
            # Some drivers keep rows of their own. That the database was away says nothing about the gateway.
            logger.exception("The database failed while attempt %s was being started", attempt_id)
            gateway_rows.release(gateway, owner=self.name, due_at=self.now() + LOOK_EVERY)
            return
        except Exception as error:
            logger.exception("Gateway driver %s failed to start attempt %s", gateway.driver, attempt_id)
            words = f"The gateway driver {gateway.driver} failed: {type(error).__name__}."
            self.has_failed(gateway, Failure(words, words))
            return
        if status.no_room:
            self.needs_room(gateway)
        if status.state == "ready":
            if not gateway_rows.set_ready(gateway, owner=self.name, status=status, now=self.now()):
                self._came_too_late(gateway, driver, status)
        elif status.state == "starting":
            now = self.now()
            with transaction.atomic():
                # Together: nothing is said of one that its session has just given up for another.
                is_starting = gateway_rows.keep_starting(
                    gateway, owner=self.name, status=status, due_at=now + LOOK_EVERY, now=now
                )
                if is_starting and status.detail:
                    self.says(gateway, status.detail)
            if not is_starting:
                self._came_too_late(gateway, driver, status)
        else:
            words = status.detail or f"The gateway is {status.state}."
            self.has_failed(gateway, Failure(words, status.record or words, no_room=status.no_room))

    def _came_too_late(self, gateway: Gateway, driver: GatewayDriver, status: GatewayStatus) -> None:
        """It was started, but its row says something else by now."""
        if gateway_rows.release(gateway, owner=self.name, due_at=self.now(), handle=status.handle):
            return  # `stopping`: the next pass stops it
        state = Gateway.objects.values_list("state", flat=True).get(pk=gateway.pk)
        if state == GatewayState.STOPPED:
            # Our lease ran out during the call, and somebody has confirmed an end that was none.
            with suppress(StillStopping):
                driver.stop(str(gateway.pk), status.handle)

    def look_after(self, ready: Iterable[Gateway]) -> None:
        """Looks whether those that are ready are there still; all of ours that are."""
        ready = list(ready)
        self._unknown = {pk: count for pk, count in self._unknown.items() if pk in {row.pk for row in ready}}
        each(ready, self._look_at, "look at a gateway")

    def _look_at(self, gateway: Gateway) -> None:
        try:
            status = self.driver_for(gateway.driver).describe(str(gateway.pk), gateway.handle)
        except GatewayError as error:
            self._unknown[gateway.pk] = self._unknown.get(gateway.pk, 0) + 1
            if self._unknown[gateway.pk] < _UNKNOWN_LIMIT:
                return
            failure = Failure(str(error), error.record)
        else:
            self._unknown.pop(gateway.pk, None)
            if status.state in ("ready", "starting"):
                return
            failure = Failure(status.detail, status.record or status.detail)
        self.is_lost(gateway, failure)

    def stop(self, gateway: Gateway) -> None:
        """Stops one whose row says `stopping`; `stopped` is what its driver has confirmed."""
        if not gateway_rows.lease(gateway, owner=self.name, now=self.now()):
            return
        try:
            self.driver_for(gateway.driver).stop(str(gateway.pk), gateway.handle)
        except StillStopping:
            gateway_rows.release(gateway, owner=self.name, due_at=self.now() + LOOK_EVERY)
        except Exception as error:
            known = isinstance(error, GatewayError)
            record = error.record if isinstance(error, GatewayError) else error
            logger.error("Gateway %s does not stop yet: %s", gateway.pk, record, exc_info=not known)
            delay_s = min(2**gateway.tries, _MAX_STOP_DELAY_S) * random.uniform(1, 1.3)
            due_at = self.now() + timedelta(seconds=delay_s)
            gateway_rows.release(gateway, owner=self.name, due_at=due_at, tries=gateway.tries + 1)
        else:
            gateway_rows.set_stopped(gateway, owner=self.name, now=self.now())


def _request(gateway: Gateway) -> GatewayRequest:
    fleet = gateway.fleet.slug if gateway.fleet else ""
    if gateway.session is None:
        return GatewayRequest(str(gateway.pk), session_id="", machine_address="", machine_port=0, fleet=fleet)
    port = RdpCredential.objects.filter(session_id=gateway.session_id).values_list("port", flat=True).first()
    return GatewayRequest(
        attempt_id=str(gateway.pk),
        session_id=str(gateway.session_id),
        machine_address=gateway.session.machine.vpn_address,
        machine_port=port or 3389,
        fleet=fleet,
    )
