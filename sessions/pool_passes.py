"""The passes over warm gateways: each fleet gets as many as it should have ready, and what is too many or too old goes.

A pool belongs to nobody's rescue, so a thread of its own does all that (worker.Stoker): a press never waits for it. As
all passes it compares wish and rows, in several workers at once, and after a crash at any line; what a session has
claimed meanwhile is no longer its own, and every UPDATE here says so.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.conf import settings
from django.db import transaction

from machines.models import Fleet
from sessions import bell, gateway_rows, pool, pool_rows
from sessions.gateway_steps import LOOK_EVERY, Failure, GatewaySteps
from sessions.gateways.base import GatewayDriver, Marking, get_driver
from sessions.models import Gateway
from sessions.passes import each, for_a_while
from sessions.states import LIVE_GATEWAY_STATES, GatewayState

logger = logging.getLogger(__name__)

# Processes with old and new settings run side by side while a new version is brought in: what one starts, the other
# must not stop at once.
SURPLUS_AFTER = timedelta(seconds=30)
# A claim leaves a gap for as long as a gateway takes to start; that alone is nothing to write down.
SHORT_AFTER = timedelta(seconds=60)
_KEEP_HOUSE_EVERY = timedelta(hours=1)


@dataclass
class PoolPasses:
    """What one worker thread does for gateways without a session, and the little it remembers between passes."""

    name: str
    now: Callable[[], datetime]
    driver_for: Callable[[str], GatewayDriver] = get_driver
    _steps: GatewaySteps = field(init=False)
    _looked_at: datetime | None = None
    _kept_house_at: datetime | None = None
    _has_just_failed: bool = False
    _is_paused: bool = False
    # Since when something is so that is borne for a while.
    _since: dict[tuple[str, object], datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._steps = GatewaySteps(
            self.name, self.now, self.driver_for, has_failed=self._has_failed, is_lost=self._is_lost, says=self._says,
            needs_room=self._needs_room,
        )  # fmt: skip

    def run(self) -> None:
        self._has_just_failed = False
        wishes = pool_rows.wishes(driver=settings.GATEWAY, can_be_warm=self._can_be_warm, now=self.now())
        warm = Gateway.objects.filter(session=None, state__in=[*LIVE_GATEWAY_STATES, GatewayState.STOPPING])
        rows = list(warm.select_related("fleet"))
        if rows or wishes:
            live = [row for row in rows if row.state != GatewayState.STOPPING]
            self._tend({wish.fleet_id: wish for wish in wishes}, live)
            starting = gateway_rows.due(gateway_rows.NOT_READY, now=self.now(), warm=True)
            each(for_a_while(starting, whom=bell.POOL), self._start, "start a warm gateway")
            self._look_after_ready()
            stopping = gateway_rows.due((GatewayState.STOPPING,), now=self.now(), warm=True)
            each(for_a_while(stopping, whom=bell.POOL), self._steps.stop, "stop a warm gateway")
        self._keep_house()

    def _can_be_warm(self) -> bool:
        try:
            return getattr(self.driver_for(settings.GATEWAY), "can_be_warm", True)
        except Exception:
            return True  # why there is no driver is said where one is needed, and kept with the gateway that failed

    def _order(self) -> pool.Order | None:
        """With which settings this process orders gateways; None where none matter."""
        try:
            driver = self.driver_for(settings.GATEWAY)
        except Exception:
            return None
        return pool.Order.read(driver.mark()) if isinstance(driver, Marking) else None

    # --- as many as there should be ----------------------------------------------------------------------------------

    def _tend(self, wishes: dict[int, pool_rows.Wish], live: list[Gateway]) -> None:
        now = self.now()
        each([row for row in live if row.fleet_id is None], self._let_go, "let go of a fleet's that is gone")
        others = [row for row in live if row.fleet_id is not None and row.driver != settings.GATEWAY]
        each([row for row in others if self._lasts("driver", row.pk, now)], self._let_go, "let go of another driver's")
        ours = [row for row in live if row.fleet_id is not None and row.driver == settings.GATEWAY]
        of_fleet: dict[int, list[Gateway]] = {fleet_id: [] for fleet_id in wishes}
        for row in ours:
            if row.fleet_id is not None:
                of_fleet.setdefault(row.fleet_id, []).append(row)
        sizes = {fleet_id: wishes[fleet_id].size if fleet_id in wishes else 0 for fleet_id in of_fleet}
        too_old = now - timedelta(hours=settings.GATEWAY_WARM_HOURS)
        order = self._order()
        outdated = self._outdated(ours, order, now)
        plan_for = partial(pool.plan, too_old=too_old, outdated=outdated, order=order)
        plans = {pk: plan_for(of_fleet[pk], sizes[pk]) for pk in sorted(of_fleet)}
        failures = 0
        self._is_paused = False
        if any(plan.start for plan in plans.values()) or any(row.state in gateway_rows.NOT_READY for row in ours):
            failures = pool_rows.failures_in_a_row(settings.GATEWAY, now=now)
            self._is_paused = pool_rows.paused_until(settings.GATEWAY, now=now) is not None
        if self._is_paused:
            # Wanted anew after the pause: its time to start must not be over before it is begun.
            wanted = [row for row in ours if row.state == GatewayState.WANTED]
            each(wanted, self._let_go, "put off a warm gateway")
        elif failures:
            each(self._beyond_one_try(ours), self._let_go, "put off a warm gateway")
        for fleet_id, plan in plans.items():
            has_surplus = self._lasts("surplus", fleet_id, now, if_so=bool(plan.surplus))
            # One more than all fleets may have, for what is replaced: its successor comes first.
            room = max(0, settings.GATEWAY_WARM_MAX + 1 - len(ours))
            start = 0 if self._is_paused else min(plan.start, _at_most(ours, failures), room)
            if start or plan.replaced or has_surplus:
                delay = timedelta(seconds=pool.delay_s(failures) * random.uniform(1, 1.3))
                ours += self._carry_out(
                    fleet_id, sizes[fleet_id], start, has_surplus=has_surplus, plan_for=plan_for, due_at=now + delay
                )
            if fleet_id in wishes:
                ready = sum(row.state == GatewayState.READY for row in of_fleet[fleet_id])
                self._note_short(wishes[fleet_id], ready, now)
        self._since = {key: at for key, at in self._since.items() if now - at < timedelta(days=1)}

    def _carry_out(
        self,
        fleet_id: int,
        size: int,
        start: int,
        *,
        has_surplus: bool,
        plan_for: Callable[..., pool.Plan],
        due_at: datetime,
    ) -> list[Gateway]:
        """Counts once more, alone: two workers that count at once would both start what is missing. What is new."""
        with transaction.atomic():
            if Fleet.objects.select_for_update(no_key=True).filter(pk=fleet_id).first() is None:
                return []
            live = Gateway.objects.filter(fleet=fleet_id, driver=settings.GATEWAY, state__in=LIVE_GATEWAY_STATES)
            plan = plan_for(live.filter(session=None), size)
            for row in [*plan.replaced, *(plan.surplus if has_surplus else [])]:
                gateway_rows.give_up(row, failure="", now=self.now())
            new = range(min(plan.start, start))
            return [gateway_rows.want_warm(fleet_id, driver=settings.GATEWAY, due_at=due_at) for _ in new]

    def _outdated(self, ours: Iterable[Gateway], order: pool.Order | None, now: datetime) -> set[UUID]:
        """Those that are ready and were ordered with settings that hold no more."""
        ready = [row for row in ours if row.state == GatewayState.READY] if order is not None else []
        replaced = {row.pk for row in ready if order is not None and order.replaces(pool.Order.read(row.handle))}
        return {pk for pk in replaced if self._lasts("order", pk, now)}

    def _beyond_one_try(self, ours: Iterable[Gateway]) -> list[Gateway]:
        """Those not begun yet, but for one, and for none where one is on its way: it shows whether it is worth it."""
        pending = [row for row in ours if row.state != GatewayState.READY]
        pending.sort(key=lambda row: (row.state == GatewayState.WANTED, -row.due_at.timestamp()))
        return [row for row in pending[1:] if row.state == GatewayState.WANTED]

    def _note_short(self, wish: pool_rows.Wish, ready: int, now: datetime) -> None:
        is_short = ready < wish.size
        if is_short and wish.short_since is None:
            if self._lasts("short", wish.fleet_id, now, if_so=True, for_=SHORT_AFTER):
                pool_rows.set_short(wish.fleet_id, self._since["short", wish.fleet_id])
        elif not is_short:
            self._since.pop(("short", wish.fleet_id), None)
            if wish.short_since is not None:
                pool_rows.set_short(wish.fleet_id, None)

    def _lasts(
        self, what: str, of: object, now: datetime, *, if_so: bool = True, for_: timedelta = SURPLUS_AFTER
    ) -> bool:
        """Whether it has been so in all passes for that long."""
        if not if_so:
            self._since.pop((what, of), None)
            return False
        return now - self._since.setdefault((what, of), now) >= for_

    def _let_go(self, gateway: Gateway) -> None:
        gateway_rows.give_up(gateway, failure="", now=self.now())

    # --- what a step came to -----------------------------------------------------------------------------------------

    def _start(self, gateway: Gateway) -> None:
        if gateway.state == GatewayState.WANTED and (self._has_just_failed or self._is_paused):
            return  # the next pass says when
        deadline = timedelta(seconds=settings.GATEWAY_DEADLINE_S)
        if gateway.state == GatewayState.STARTING and self.now() - gateway.wanted_at >= deadline:
            words = f"It was not ready within {settings.GATEWAY_DEADLINE_S} s."
            if gateway_rows.lease(gateway, owner=self.name, now=self.now()):
                self._has_failed(gateway, Failure(words, words))
            return
        self._steps.start(gateway)

    def _says(self, gateway: Gateway, detail: str) -> None:
        logger.debug("Warm gateway %s: %s", gateway.pk, detail)  # nobody waits for it

    def _needs_room(self, gateway: Gateway) -> None:
        if self._is_paused:
            self._let_go(gateway)  # a rescue waits for the same place

    def _has_failed(self, gateway: Gateway, failure: Failure) -> None:
        self._has_just_failed = True
        now = self.now()
        with transaction.atomic():
            gateway_rows.give_up(gateway, failure=failure.record, now=now)
            gateway_rows.release(gateway, owner=self.name, due_at=now)
        logger.warning("Warm gateway %s of %s failed: %s", gateway.pk, gateway.fleet, failure.record)

    def _look_after_ready(self) -> None:
        now = self.now()
        if self._looked_at and now - self._looked_at < LOOK_EVERY:
            return
        self._looked_at = now
        ready = Gateway.objects.filter(state=GatewayState.READY, session=None)
        self._steps.look_after(ready.select_related("fleet"))

    def _is_lost(self, gateway: Gateway, failure: Failure) -> None:
        # One that a session has claimed since it was read is that session's loss, and its worker sees it.
        if gateway_rows.give_up(gateway, failure=f"The gateway was lost. {failure.record}", now=self.now()):
            logger.warning("Warm gateway %s of %s was lost: %s", gateway.pk, gateway.fleet, failure.record)

    # --- housekeeping ------------------------------------------------------------------------------------------------

    def _keep_house(self) -> None:
        now = self.now()
        if self._kept_house_at is None or now - self._kept_house_at >= _KEEP_HOUSE_EVERY:
            self._kept_house_at = now
            pool_rows.erase_old(now=now)


def _at_most(ours: list[Gateway], failures: int) -> int:
    """So many may be started now: after a failure one at a time, until one is good."""
    if not failures:
        return pool.MOST
    return 1 if all(row.state == GatewayState.READY for row in ours) else 0
