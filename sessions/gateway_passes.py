"""The worker's passes over gateways: every open session gets one, what is lost is replaced, what is over is stopped.

Each pass compares what the rows wish with what is there, so it may run at any time, in several workers at once, and
after a crash at any line. Intent first: a row says `starting` before its driver is called, `stopping` before it stops.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from machines.models import Fleet
from sessions import gateway_rows, services
from sessions.errors import SupportError
from sessions.gateways.base import GatewayDriver, GatewayError, GatewayRequest, get_driver
from sessions.models import Gateway, RdpCredential, SupportSession
from sessions.passes import each
from sessions.states import LIVE_GATEWAY_STATES, OPEN_STATES, EndReason, GatewayState, State

logger = logging.getLogger(__name__)

BUSY = "All gateways of the fleet are busy. This machine gets the next free one."
TRYING_AGAIN = "The gateway did not start. Another one is being tried."
LOST = "The gateway was lost. A new one is starting."

# Before the second, third, … gateway of a session; some jitter comes on top.
_BACK_OFF_S = (0.0, 1.0, 3.0, 9.0, 27.0)
# A gateway that lived for less than this counts as one that failed when the next one's time is set.
_SHORT_LIFE = timedelta(seconds=10)
_LOOK_EVERY = timedelta(seconds=1)
_SWEEP_EVERY = timedelta(seconds=30)
# So often in a row may a driver not know what has become of a gateway.
_UNKNOWN_LIMIT = 3
_MAX_STOP_DELAY_S = 60


@dataclass
class GatewayPasses:
    """What one worker thread does for gateways, and the little it remembers between passes."""

    name: str
    now: Callable[[], datetime]
    driver_for: Callable[[str], GatewayDriver] = get_driver
    _looked_at: datetime | None = None
    _swept_at: datetime | None = None
    _unknown: dict[UUID, int] = field(default_factory=dict)

    def run(self) -> None:
        each(self._requested(), self._want_first, "request a gateway")
        each(self._without_gateway(), self._want_next, "request another gateway")
        each(self._ended_but_live(), self._give_up_ended, "give up a gateway")
        starting = (GatewayState.WANTED, GatewayState.STARTING)
        each(gateway_rows.due(starting, now=self.now()), self._start, "start a gateway")
        self._look_after_ready()
        each(gateway_rows.due((GatewayState.STOPPING,), now=self.now()), self._stop, "stop a gateway")
        self._sweep()

    # --- wanting -----------------------------------------------------------------------------------------------------

    def _requested(self) -> QuerySet[SupportSession]:
        # Who has waited too long gets no gateway any more: the ending passes tell them.
        sessions = SupportSession.objects.filter(state=State.REQUESTED, answer_due_at__gt=self.now())
        return sessions.select_related("machine", "fleet").order_by("requested_at")

    def _want_first(self, session: SupportSession) -> None:
        if not SupportSession.objects.filter(pk=session.pk, state=State.REQUESTED).exists():
            return  # another worker has seen to it since the list was read: no lock to wait for
        now = self.now()
        # Those that wait already are looked at without a lock: they may be many, and on SQLite nobody else could write.
        waits = session.notice == BUSY
        is_full = waits and gateway_rows.count_live(session.fleet_id) >= session.fleet.max_open_sessions
        if not is_full:
            with transaction.atomic():
                # Two workers that count at once would both find the last free place (T23).
                fleet = Fleet.objects.select_for_update().get(pk=session.fleet_id)
                is_full = gateway_rows.count_live(fleet.pk) >= fleet.max_open_sessions
                if not is_full:
                    self._want(services.begin_starting(session, now=now), now)
        if is_full:
            services.set_notice(session, BUSY, now=now)

    def _without_gateway(self) -> QuerySet[SupportSession]:
        live = Gateway.objects.filter(session=OuterRef("pk"), state__in=LIVE_GATEWAY_STATES)
        sessions = SupportSession.objects.filter(~Exists(live), state__in=OPEN_STATES - {State.REQUESTED})
        return sessions.select_related("machine", "fleet")

    def _want_next(self, session: SupportSession) -> None:
        now = self.now()
        last = Gateway.objects.filter(session=session).order_by("-attempt").first()
        failure = last.failure if last else ""
        if session.state != State.STARTING:
            session = services.desktop_lost(session, detail=failure or "no gateway", notice=LOST, now=now)
        failures = gateway_rows.failures_in_a_row(session)
        if failures >= settings.GATEWAY_ATTEMPTS:
            services.end(session, EndReason.GATEWAY_FAILED, detail=failure, now=now)
            return
        if last and last.ready_at and now - last.ready_at < _SHORT_LIFE:
            failures += 1
        delay_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
        with transaction.atomic():
            self._want(session, now, delay_s=delay_s * random.uniform(1, 1.3))

    def _want(self, session: SupportSession, now: datetime, *, delay_s: float = 0) -> None:
        """In the caller's transaction: a session that is no longer `starting` gets no row."""
        gateway = gateway_rows.want(
            session, driver=settings.GATEWAY, attempt=session.attempts + 1,
            due_at=now + timedelta(seconds=delay_s), now=now,
        )  # fmt: skip
        if gateway is not None:
            services.count_attempt(session)

    # --- starting ----------------------------------------------------------------------------------------------------

    def _start(self, gateway: Gateway) -> None:
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
                due_at = self.now() + _LOOK_EVERY
                gateway_rows.release(gateway, owner=self.name, due_at=due_at, tries=gateway.tries + 1)
            else:
                self._has_failed(gateway, str(error), permanent=error.permanent)
            return
        except Exception as error:
            logger.exception("Gateway driver %s failed to start attempt %s", gateway.driver, attempt_id)
            self._has_failed(gateway, f"The gateway driver {gateway.driver} failed: {type(error).__name__}.")
            return
        if status.state == "ready":
            if not gateway_rows.set_ready(gateway, owner=self.name, status=status, now=self.now()):
                self._came_too_late(gateway, driver)
        elif status.state == "starting":
            due_at = self.now() + _LOOK_EVERY
            if not gateway_rows.release(gateway, owner=self.name, due_at=due_at, handle=status.handle, tries=0):
                self._came_too_late(gateway, driver)
            elif status.detail:
                services.set_notice(gateway.session, status.detail[:200], now=self.now())
        else:
            self._has_failed(gateway, status.detail or f"The gateway is {status.state}.")

    def _has_failed(self, gateway: Gateway, failure: str, *, permanent: bool = False) -> None:
        now = self.now()
        with transaction.atomic():
            if gateway_rows.give_up(gateway, failure=failure, now=now):
                session = gateway.session
                try:
                    services.note_attempt(session, detail=failure, notice=TRYING_AGAIN, due_at=None, now=now)
                    if permanent:
                        services.end(session, EndReason.GATEWAY_FAILED, detail=failure, now=now)
                except SupportError:
                    pass  # it ended meanwhile
            gateway_rows.release(gateway, owner=self.name, due_at=now)
        logger.warning("Gateway %s of session %s failed: %s", gateway.pk, gateway.session_id, failure)

    def _came_too_late(self, gateway: Gateway, driver: GatewayDriver) -> None:
        """It was started, but its row says something else by now."""
        if gateway_rows.release(gateway, owner=self.name, due_at=self.now()):
            return  # `stopping`: the next pass stops it
        state = Gateway.objects.values_list("state", flat=True).get(pk=gateway.pk)
        if state == GatewayState.STOPPED:
            # Our lease ran out during the call, and somebody has confirmed an end that was none.
            driver.stop(str(gateway.pk), gateway.handle)

    # --- ready -------------------------------------------------------------------------------------------------------

    def _look_after_ready(self) -> None:
        now = self.now()
        if self._looked_at and now - self._looked_at < _LOOK_EVERY:
            return
        self._looked_at = now
        ready = list(Gateway.objects.filter(state=GatewayState.READY).select_related("session"))
        self._unknown = {pk: count for pk, count in self._unknown.items() if pk in {row.pk for row in ready}}
        each(ready, self._look_at, "look at a gateway")

    def _look_at(self, gateway: Gateway) -> None:
        try:
            status = self.driver_for(gateway.driver).describe(str(gateway.pk), gateway.handle)
        except GatewayError as error:
            self._unknown[gateway.pk] = self._unknown.get(gateway.pk, 0) + 1
            if self._unknown[gateway.pk] < _UNKNOWN_LIMIT:
                return
            detail = str(error)
        else:
            self._unknown.pop(gateway.pk, None)
            if status.state in ("ready", "starting"):
                return
            detail = status.detail
        now = self.now()
        with transaction.atomic():
            if gateway_rows.give_up(gateway, failure=f"The gateway was lost. {detail}", now=now):
                # A session that has its desktop hears it in _want_next, which sees that the gateway is gone.
                services.note_attempt(gateway.session, detail=detail, notice=LOST, due_at=None, now=now)
                logger.warning("Gateway %s of session %s was lost: %s", gateway.pk, gateway.session_id, detail)

    # --- stopping ----------------------------------------------------------------------------------------------------

    def _ended_but_live(self) -> QuerySet[Gateway]:
        live = Gateway.objects.filter(state__in=LIVE_GATEWAY_STATES)
        return live.exclude(session__state__in=OPEN_STATES)

    def _give_up_ended(self, gateway: Gateway) -> None:
        gateway_rows.give_up(gateway, failure="", now=self.now())

    def _stop(self, gateway: Gateway) -> None:
        if not gateway_rows.lease(gateway, owner=self.name, now=self.now()):
            return
        try:
            self.driver_for(gateway.driver).stop(str(gateway.pk), gateway.handle)
        except Exception as error:
            known = isinstance(error, GatewayError)
            logger.error("Gateway %s does not stop yet: %s", gateway.pk, error, exc_info=not known)
            delay_s = min(2**gateway.tries, _MAX_STOP_DELAY_S) * random.uniform(1, 1.3)
            due_at = self.now() + timedelta(seconds=delay_s)
            gateway_rows.release(gateway, owner=self.name, due_at=due_at, tries=gateway.tries + 1)
        else:
            gateway_rows.set_stopped(gateway, owner=self.name, now=self.now())

    def _sweep(self) -> None:
        """Stops what runs without a row that wants it; the rows come first, so what has none is a leftover."""
        now = self.now()
        if self._swept_at and now - self._swept_at < _SWEEP_EVERY:
            return
        self._swept_at = now
        try:
            # Before the rows are read: a row is there before its gateway runs.
            attempts = self.driver_for(settings.GATEWAY).running()
        except Exception as error:
            known = isinstance(error, GatewayError)
            logger.error("What gateways run cannot be told now: %s", error, exc_info=not known)
            return
        if not attempts:
            return
        wanted = {str(pk) for pk in Gateway.objects.exclude(state=GatewayState.STOPPED).values_list("pk", flat=True)}
        each([one for one in attempts if one not in wanted], self._stop_leftover, "stop a leftover gateway")

    def _stop_leftover(self, attempt_id: str) -> None:
        logger.warning("Gateway %s runs, but no session wants it: stopping it", attempt_id)
        self.driver_for(settings.GATEWAY).stop(attempt_id, {})


def _request(gateway: Gateway) -> GatewayRequest:
    port = RdpCredential.objects.filter(session_id=gateway.session_id).values_list("port", flat=True).first()
    return GatewayRequest(
        attempt_id=str(gateway.pk),
        session_id=str(gateway.session_id),
        machine_address=gateway.session.machine.vpn_address,
        machine_port=port or 3389,
        fleet=gateway.fleet.slug if gateway.fleet else "",
    )
