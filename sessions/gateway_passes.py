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

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from machines.models import Fleet
from sessions import gateway_rows, services
from sessions.errors import SupportError
from sessions.gateway_steps import LOOK_EVERY, Failure, GatewaySteps
from sessions.gateways.base import GatewayDriver, GatewayError, StillStopping, get_driver
from sessions.models import Gateway, SessionEvent, SupportSession
from sessions.passes import each, for_a_while
from sessions.reach_passes import UNREACHABLE
from sessions.states import LIVE_GATEWAY_STATES, OPEN_STATES, EndReason, GatewayState, State

logger = logging.getLogger(__name__)

BUSY = "All gateways of the fleet are busy. This machine gets the next free one."
ENDING = "Gateways that this machine had a moment ago are still stopping. It gets the next one then."
NO_ROOM = "There is no room for another gateway yet. It is tried again every few seconds."
TRYING_AGAIN = "The gateway did not start. Another one is being tried."
LOST = "The gateway was lost. A new one is starting."

# Before the second, third, … gateway of a session; some jitter comes on top.
_BACK_OFF_S = (0.0, 1.0, 3.0, 9.0, 27.0)
# Room that another gateway leaves is there some ten seconds after it was told to stop.
_ROOM_AGAIN_S = 5.0
# A gateway that lived for less than this counts as one that failed when the next one's time is set.
_SHORT_LIFE = timedelta(seconds=10)
# At a gateway that is ready the desktop is there after two to four seconds. A session that takes one in its last
# moments must not end for want of them: its machine would get the blame.
_DESKTOP_TAKES = timedelta(seconds=30)
# What nobody wants lives for 90 s at most: it may appear just after a sweep, and ECS may list it a while later.
_SWEEP_EVERY = timedelta(seconds=30)
_SWEEP_AGAIN = timedelta(seconds=10)  # after one that came to nothing
# A machine that presses and cancels in turn must not pile up gateways that are stopping: each costs money (T23). What
# cannot be stopped must not keep help away for ever, though.
_MOST_OF_A_MACHINE = 5
_ENDS_WITHIN = timedelta(minutes=10)


@dataclass
class GatewayPasses:
    """What one worker thread does for sessions' gateways, and the little it remembers between passes.

    Those without a session, kept ready for the next press, are pool_passes.py's.
    """

    name: str
    now: Callable[[], datetime]
    driver_for: Callable[[str], GatewayDriver] = get_driver
    _looked_at: datetime | None = None
    _sweep_at: datetime | None = None
    _steps: GatewaySteps = field(init=False)

    def __post_init__(self) -> None:
        self._steps = GatewaySteps(
            self.name, self.now, self.driver_for, has_failed=self._has_failed, is_lost=self._is_lost, says=self._says,
            needs_room=self._make_room,
        )  # fmt: skip

    def run(self) -> None:
        # Before the newest presses: who has waited longer comes first.
        each(self._beside_warm(), self._exchange, "take a warm gateway")
        each(self._requested(), self._want_first, "request a gateway")
        each(self._without_gateway(), self._want_next, "request another gateway")
        each(self._ended_but_live(), self._give_up_ended, "give up a gateway")
        starting = gateway_rows.due(gateway_rows.NOT_READY, now=self.now())
        each(for_a_while(starting), self._start, "start a gateway")
        self._look_after_ready()
        stopping = gateway_rows.due((GatewayState.STOPPING,), now=self.now())
        each(for_a_while(stopping), self._stop, "stop a gateway")
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
        notice = self._waits_for(session, session.fleet) if session.notice in (BUSY, ENDING) else ""
        if not notice:
            with transaction.atomic():
                # Two workers that count at once would both find the last free place (T23).
                fleet = Fleet.objects.select_for_update().get(pk=session.fleet_id)
                notice = self._waits_for(session, fleet)
                if not notice:
                    self._want(services.begin_starting(session, now=now), now)
        if notice:
            services.set_notice(session, notice, now=now)

    def _waits_for(self, session: SupportSession, fleet: Fleet) -> str:
        """Why a session gets no gateway yet; empty: it may have one."""
        live, of_machine = gateway_rows.count(session, since=self.now() - _ENDS_WITHIN)
        if live >= fleet.max_open_sessions:
            return BUSY
        return ENDING if of_machine >= _MOST_OF_A_MACHINE else ""

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
        if last and last.ready_at and now - (last.claimed_at or last.ready_at) < _SHORT_LIFE:
            failures += 1
        delay_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
        if last and gateway_rows.found_no_room(last):
            delay_s = _ROOM_AGAIN_S
        takes_warm = gateway_rows.takes_warm(session)
        with transaction.atomic():
            self._want(session, now, delay_s=delay_s * random.uniform(1, 1.3), warm=takes_warm)

    def _want(self, session: SupportSession, now: datetime, *, delay_s: float = 0, warm: bool = True) -> None:
        """In the caller's transaction: a session that is no longer `starting` gets no row, and takes no warm one."""
        driver, attempt, gateway = settings.GATEWAY, session.attempts + 1, None
        if warm:
            gateway = gateway_rows.claim(session, driver=driver, attempt=attempt, now=now)
        if gateway is None:
            due_at = now + timedelta(seconds=delay_s)
            gateway = gateway_rows.want(session, driver=driver, attempt=attempt, due_at=due_at, now=now)
        if gateway is not None:
            services.count_attempt(session)
            if gateway.born_warm and _is_about_gateway(session):
                services.set_notice(session, "", now=now)

    def _beside_warm(self) -> QuerySet[Gateway]:
        """Those that are not ready yet, where a warm one of their fleet's is by now."""
        ready = Gateway.objects.filter(session=None, state=GatewayState.READY, driver=OuterRef("driver"))
        waiting = Gateway.objects.filter(
            Exists(ready.filter(fleet=OuterRef("session__fleet"))),
            state__in=gateway_rows.NOT_READY, driver=settings.GATEWAY, session__state=State.STARTING,
        )  # fmt: skip
        return waiting.select_related("session__machine", "session__fleet").order_by("session__requested_at")

    def _exchange(self, gateway: Gateway) -> None:
        session = gateway.session
        if session is None or not gateway_rows.takes_warm(session, but=gateway):
            return
        now = self.now()
        with transaction.atomic():
            if gateway_rows.exchange(gateway, attempt=session.attempts + 1, now=now) is not None:
                services.count_attempt(session)
                services.allow_time(session, until=now + _DESKTOP_TAKES)
                session.refresh_from_db(fields=["notice"])  # it may be news of a moment ago
                if _is_about_gateway(session):
                    services.set_notice(session, "", now=now)
                logger.info("Session %s takes a warm gateway, since its own is not ready yet.", session.pk)

    # --- steps -------------------------------------------------------------------------------------------------------

    def _start(self, gateway: Gateway) -> None:
        self._steps.start(gateway)
        self._sweep()  # a pass may last long, with 15 s for each gateway: what is left over does not wait for its end

    def _stop(self, gateway: Gateway) -> None:
        self._steps.stop(gateway)
        self._sweep()

    # --- what a step came to -----------------------------------------------------------------------------------------

    def _says(self, gateway: Gateway, detail: str) -> None:
        if gateway.session is not None:
            services.set_notice(gateway.session, detail[:200], now=self.now())

    def _make_room(self, gateway: Gateway) -> None:
        if gateway.session is None or gateway.made_room_at is not None:
            return
        takes_warm = gateway_rows.takes_warm(gateway.session, but=gateway)
        gone = gateway_rows.make_room(gateway, takes_warm=takes_warm, now=self.now())
        if gone is not None:
            logger.warning("Warm gateway %s of %s makes room for session %s.", gone.pk, gone.fleet, gateway.session_id)

    def _has_failed(self, gateway: Gateway, failure: Failure) -> None:
        now = self.now()
        with transaction.atomic():
            session, no_room_at = gateway.session, now if failure.no_room else None
            given_up = gateway_rows.give_up(gateway, failure=failure.record, now=now, no_room_at=no_room_at)
            if given_up and session is not None:
                try:
                    notice = NO_ROOM if failure.no_room else TRYING_AGAIN
                    if not (failure.no_room and session.notice == NO_ROOM):  # which is said once, and not each time
                        services.note_attempt(session, detail=failure.words, notice=notice, due_at=None, now=now)
                    if failure.permanent:
                        services.end(session, EndReason.GATEWAY_FAILED, detail=failure.words, now=now)
                except SupportError:
                    pass  # it ended meanwhile
            gateway_rows.release(gateway, owner=self.name, due_at=now)
        logger.warning("Gateway %s of session %s failed: %s", gateway.pk, gateway.session_id, failure.record)

    def _look_after_ready(self) -> None:
        now = self.now()
        if self._looked_at and now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        ready = Gateway.objects.filter(state=GatewayState.READY, session__isnull=False)
        self._steps.look_after(ready.select_related("session"))

    def _is_lost(self, gateway: Gateway, failure: Failure) -> None:
        now = self.now()
        with transaction.atomic():
            session = gateway.session
            if gateway_rows.give_up(gateway, failure=f"The gateway was lost. {failure.record}", now=now) and session:
                # A session that has its desktop hears it in _want_next, which sees that the gateway is gone.
                services.note_attempt(session, detail=failure.words, notice=LOST, due_at=None, now=now)
                logger.warning("Gateway %s of session %s was lost: %s", gateway.pk, session.pk, failure.record)

    # --- stopping ----------------------------------------------------------------------------------------------------

    def _ended_but_live(self) -> QuerySet[Gateway]:
        live = Gateway.objects.filter(state__in=LIVE_GATEWAY_STATES, session__isnull=False)
        return live.exclude(session__state__in=OPEN_STATES)

    def _give_up_ended(self, gateway: Gateway) -> None:
        gateway_rows.give_up(gateway, failure="", now=self.now())

    def _sweep(self) -> None:
        """Stops what runs without a row that wants it; the rows come first, so what has none is a leftover."""
        now = self.now()
        if self._sweep_at and now < self._sweep_at:
            return
        self._sweep_at = now + _SWEEP_EVERY
        try:
            # Before the rows are read: a row is there before its gateway runs.
            attempts = self.driver_for(settings.GATEWAY).running()
        except Exception as error:
            known = isinstance(error, GatewayError)
            record = error.record if isinstance(error, GatewayError) else error
            logger.error("What gateways run cannot be told now: %s", record, exc_info=not known)
            self._sweep_at = now + _SWEEP_AGAIN
            return
        if not attempts:
            return
        wanted = {str(pk) for pk in Gateway.objects.exclude(state=GatewayState.STOPPED).values_list("pk", flat=True)}
        each([one for one in attempts if one not in wanted], self._stop_leftover, "stop a leftover gateway")

    def _stop_leftover(self, attempt_id: str) -> None:
        logger.warning("Gateway %s runs, but no session wants it: stopping it", attempt_id)
        try:
            self.driver_for(settings.GATEWAY).stop(attempt_id, {})
        except StillStopping:
            pass  # it has been told; the next sweep looks whether it went
        except GatewayError as error:
            logger.error("Leftover gateway %s does not stop yet: %s", attempt_id, error.record)
            self._sweep_at = self.now() + _SWEEP_AGAIN


def _is_about_gateway(session: SupportSession) -> bool:
    """Whether a session's notice tells of a gateway that does not come: what is ready now makes it stale."""
    if session.notice in (NO_ROOM, TRYING_AGAIN):
        return True
    # A driver's own words are a notice, too; those about a desktop or a login come with what they tell of.
    said = SessionEvent.objects.filter(session=session, kind="notice", detail__notice=session.notice)
    return session.notice not in ("", UNREACHABLE) and said.exists()
