"""The worker's passes over time limits and ends: what is overdue ends or goes back, what is closing gets closed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet

from machines import identities
from machines.vpn.base import AddressError, TunnelStillUp, VpnDriver, VpnError, get_driver
from sessions import attachments, gateway_rows, keeper_rows, services
from sessions.models import Gateway, GuacamoleConnection, RdpCredential, SessionEvent, SupportSession
from sessions.passes import each
from sessions.reach_passes import ReachPasses
from sessions.states import OPEN_STATES, EndReason, GatewayState, State

logger = logging.getLogger(__name__)

_UNAUTHORISED = 769  # Guacamole's status for a refused login
_HOUSEKEEPING_EVERY = timedelta(seconds=5)
_VPN_HEALTH_EVERY = timedelta(days=1)
_MAX_VPN_DELAY_S = 60
_NOT_READY = "The gateway was still starting when the time was over."
# What the machine was told may be on its way still; on a bad line it is sent more than once.
_NEWS_TRAVELS = timedelta(seconds=5)


@dataclass
class EndingPasses:
    """What one worker thread does for time limits and ends."""

    now: Callable[[], datetime]
    vpn: Callable[[], VpnDriver] = get_driver
    _reach: ReachPasses = field(init=False)
    _kept_house_at: datetime | None = None
    _vpn_told_at: datetime | None = None
    _vpn_tries: dict[UUID, tuple[int, datetime]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._reach = ReachPasses(self.now, self.vpn)

    def run(self) -> None:
        now = self.now()
        each(self._without_desktop(now), self._end_without_desktop, "end an overdue session")
        each(self._withdrawn(), self._end_withdrawn, "end the session of a machine that was withdrawn")
        each(self._unanswered(now), self._end_unanswered, "end an unanswered session")
        self._reach.run()
        attachments.follow_all(now=now)
        each(self._abandoned(now), self._expire_claim, "give an abandoned session back")
        each(self._closing(), self._close, "close a session")
        self._keep_house(now)

    # --- time limits -------------------------------------------------------------------------------------------------

    def _without_desktop(self, now: datetime) -> QuerySet[SupportSession]:
        # Who waits for a free gateway of the fleet may do so for as long as one waits for an answer.
        started = Q(state=State.STARTING, gateway_due_at__lte=now)
        in_line = Q(state=State.REQUESTED, operator__isnull=False, answer_due_at__lte=now)
        return SupportSession.objects.filter(started | in_line)

    def _end_without_desktop(self, session: SupportSession) -> None:
        reason, detail = _why_no_desktop(session)
        still = {
            "state": session.state,
            "operator": session.operator_id,
            "gateway_due_at": session.gateway_due_at,
            "answer_due_at": session.answer_due_at,
        }
        services.end(session, reason, detail=detail, only_if=still, now=self.now())

    def _withdrawn(self) -> QuerySet[SupportSession]:
        is_out = Q(machine__is_active=False) | Q(machine__frozen_at__isnull=False)
        is_withdrawn = is_out | ~Q(machine__fleet=F("fleet"))
        return SupportSession.objects.filter(is_withdrawn, state__in=OPEN_STATES)

    def _end_withdrawn(self, session: SupportSession) -> None:
        services.end(session, EndReason.MACHINE_WITHDRAWN, now=self.now())

    def _unanswered(self, now: datetime) -> QuerySet[SupportSession]:
        return SupportSession.objects.filter(state__in=OPEN_STATES, operator=None, answer_due_at__lte=now)

    def _end_unanswered(self, session: SupportSession) -> None:
        still = {"operator": None, "answer_due_at": session.answer_due_at}
        services.end(session, EndReason.UNANSWERED, detail="Nobody claimed it in time.", only_if=still, now=self.now())

    def _abandoned(self, now: datetime) -> QuerySet[SupportSession]:
        since = now - timedelta(seconds=settings.ABANDONED_AFTER_S)
        # Only a desktop that is there can be left alone: who waits for one keeps the claim.
        sessions = SupportSession.objects.filter(state=State.READY, unattended_since__lte=since)
        return sessions.exclude(operator=None).select_related("fleet")

    def _expire_claim(self, session: SupportSession) -> None:
        services.expire_claim(session, now=self.now())

    # --- closing -----------------------------------------------------------------------------------------------------

    def _closing(self) -> QuerySet[SupportSession]:
        return SupportSession.objects.filter(state=State.CLOSING).select_related("machine", "fleet")

    def _close(self, session: SupportSession) -> None:
        """closed is a confirmed fact: machine told (or too long out of reach), VPN told, gateways stopped.

        The tunnel does not wait for a gateway that will not stop, but the machine hears the news through it.
        """
        now = self.now()
        has_gateway = Gateway.objects.filter(session=session).exclude(state=GatewayState.STOPPED).exists()
        if session.vpn_told_at is None:
            if session.machine_told_at is None:
                if not self._machine_had_its_time(session, now):
                    return
            elif has_gateway and now - session.machine_told_at < _NEWS_TRAVELS:
                return
            if not self._end_tunnel(session, now):
                return
        if not has_gateway:
            services.finish(session, now=now)

    def _machine_had_its_time(self, session: SupportSession, now: datetime) -> bool:
        closing_at = session.closing_at or session.updated_at
        if now < closing_at + timedelta(seconds=settings.MACHINE_TELL_DEADLINE_S):
            return False
        noted = SessionEvent.objects.filter(session=session, kind="machine_not_told")
        if noted.exists():
            return True  # what else is left open may take long: no lock in each pass
        with transaction.atomic():
            SupportSession.objects.select_for_update().get(pk=session.pk)  # one record of it, by one worker
            if not noted.exists():
                services.record(session, "machine_not_told", now=now)
        return True

    def _end_tunnel(self, session: SupportSession, now: datetime) -> bool:
        # Help was pressed again: the tunnel is that rescue's now, and goes with its end, when its machine has the news.
        is_later = Q(state__in=OPEN_STATES) | Q(state=State.CLOSING, requested_at__gt=session.requested_at)
        if SupportSession.objects.filter(is_later, machine=session.machine_id).exists():
            return True
        tries, due_at = self._vpn_tries.get(session.pk, (0, now))
        if due_at > now:
            return False
        address = session.machine.vpn_address
        try:
            self.vpn().end_tunnel(address)
        except TunnelStillUp:
            return False  # it has been told; the next pass looks again
        except AddressError as error:
            logger.warning("Session %s has no tunnel to end: %s", session.pk, error)
        except VpnError as error:
            delay_s = min(2**tries, _MAX_VPN_DELAY_S)
            self._vpn_tries[session.pk] = (tries + 1, now + timedelta(seconds=delay_s))
            logger.error("The tunnel of session %s is not ended yet: %s", session.pk, error)
            return False
        self._vpn_tries.pop(session.pk, None)
        services.vpn_told(session, now=now)
        return True

    # --- housekeeping ------------------------------------------------------------------------------------------------

    def _keep_house(self, now: datetime) -> None:
        if self._kept_house_at and now - self._kept_house_at < _HOUSEKEEPING_EVERY:
            return
        self._kept_house_at = now
        attachments.detach_stale(now=now)
        leftover = RdpCredential.objects.exclude(session__state__in=OPEN_STATES)
        if leftover.exists():
            # Closing deletes it in its own transaction; whatever made this one, it must not stay.
            count, _ = leftover.delete()
            logger.error("Erased %d logins of sessions that had ended", count)
        if self._vpn_told_at is None or now - self._vpn_told_at >= _VPN_HEALTH_EVERY:
            self._vpn_told_at = now
            for sentence in identities.health(now):
                logger.warning("%s", sentence)


def _why_no_desktop(session: SupportSession) -> tuple[EndReason, str]:
    failure = SessionEvent.objects.filter(session=session, kind="attempt_failed").order_by("-at", "-id").first()
    detail = str(failure.detail.get("detail", "")) if failure else ""
    if detail.startswith((keeper_rows.HANGS, keeper_rows.NO_ANSWER)):
        return EndReason.GATEWAY_FAILED, detail
    last_status = (
        GuacamoleConnection.objects.filter(session=session, closed_at__isnull=False)
        .order_by("-opened_at")
        .values_list("status", flat=True)
        .first()
    )
    if last_status == _UNAUTHORISED or re.search(rf"\b{_UNAUTHORISED}\b", detail):
        return EndReason.CREDENTIALS_REFUSED, detail
    gateways = Gateway.objects.filter(session=session).order_by("-attempt")
    # After one that found no room the next is begun a while later.
    last = gateways.exclude(state=GatewayState.WANTED).first()
    is_without_room = last is not None and gateway_rows.found_no_room(last)
    if gateways.filter(ready_at__isnull=False).exists() and not is_without_room:
        return EndReason.MACHINE_UNREACHABLE, detail
    return EndReason.GATEWAY_FAILED, _last_words(session, failure) or (_NOT_READY if gateways.exists() else "")


def _last_words(session: SupportSession, failure: SessionEvent | None) -> str:
    """What was said last of a gateway that did not come: why one failed, or what the session waits for since."""
    notices = SessionEvent.objects.filter(session=session, kind="notice", pk__gt=failure.pk if failure else 0)
    told = notices.order_by("-id").first()
    if session.notice and told is not None and told.detail.get("notice") == session.notice:
        return session.notice
    return str(failure.detail.get("detail", "")) if failure else ""
