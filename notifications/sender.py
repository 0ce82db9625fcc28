"""The sender: hands over what the outbox holds, each message apart, so that one that hangs costs no other anything.

A thread with an event loop of its own, and beside it one thread for the rows. A turn writes down what became of the
last messages and leases the next ones; then each goes its way. Whoever dies half-way leaves leases that run out (or are
freed, `outbox.release`): what may have been sent is sent once more, with the same tag, Topic and Message-ID.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from django.db import close_old_connections, connections
from django.utils import timezone

from notifications import bell, delivery_rows, push_shares, sns_passes
from notifications.channels import base
from notifications.channels.base import Channel, DeliveryError, Lane
from notifications.delivery_rows import Result
from notifications.models import Delivery

logger = logging.getLogger(__name__)

T = TypeVar("T")

POLL_S = 1.0
FORGETS_EVERY_S = 60.0
# Rings within this time are one turn: on SQLite each turn that finds something writes twice.
_GATHER_S = 0.015
# Results may wait so long for a turn; a turn that is made anyway takes them along.
_RESULTS_WAIT_S = 0.2
# A send that lasts longer hangs, and no longer counts among those that have just begun.
_HANGS_AFTER_S = 1.0
_LAST_SENDS_S = 6.0
_CONNECTION_LASTS_S = 10.0
# The database is back for whoever waits for it within seconds, also after a long time (F10).
_MAX_BACK_OFF_S = 5.0


class Sender:
    """One sender; `name` stands in the leases it takes, so no two may share one.

    `sees_to_the_rest`: to what SNS is told and asks, and to old rows, too; one process' sender is enough for that.
    """

    def __init__(
        self,
        name: str,
        *,
        now: Callable[[], datetime] = timezone.now,
        lanes: Callable[[], dict[str, Lane]] = base.lanes,
        sees_to_the_rest: bool = True,
    ) -> None:
        self.name = name[:100]
        self._now = now
        self._sees_to_the_rest = sees_to_the_rest
        self._lanes = lanes()
        self._channels: dict[str, Channel] = {}
        self._running: dict[asyncio.Task[None], tuple[Delivery, float]] = {}
        self._on_screen: dict[tuple[int, str], asyncio.Task[None]] = {}
        self._results: list[Result] = []
        self._results_timer: asyncio.TimerHandle | None = None
        # Of the thread that has the rows: what is leased and not settled, and what of it was never begun.
        self._unsettled: dict[UUID, Delivery] = {}
        self._not_begun: list[Delivery] = []
        self._expired_at = self._connected_at = self._forgot_at = float("-inf")
        self._rows = ThreadPoolExecutor(1, thread_name_prefix="sender's rows")

    def run_for_ever(self, stop: threading.Event) -> None:
        """Sends until `stop` is set (ringing the bell spares a second); nothing that goes wrong ends it.

        With NOTIFY_VIA=sns two threads beside it see to what SNS is told and asks, unless another process does.
        """
        beside = sns_passes.start_threads(stop) if self._sees_to_the_rest else []
        try:
            asyncio.run(self._run(stop))
        finally:
            self._rows.shutdown()
            for thread in beside:
                thread.join(_LAST_SENDS_S)

    async def _run(self, stop: threading.Event) -> None:
        failures = 0
        async with bell.Listener() as listener:
            self._event = listener.event
            try:
                while not stop.is_set():
                    self._event.clear()
                    try:
                        leased = await self._in_rows(self._turn, self._free_places(), self._hanging(), self._rooms())
                        failures = 0
                    except Exception:
                        failures += 1
                        self._connected_at = float("-inf")
                        delay_s = min(2.0 ** (failures - 1), _MAX_BACK_OFF_S)
                        logger.exception("Sender %s: a turn failed; the next one is in %.0f s", self.name, delay_s)
                        await _sleep_unless(stop, delay_s)
                        continue
                    for delivery in leased:
                        self._start(delivery)
                    await self._pause()
            finally:
                await self._end()

    # --- the rows: in the one thread that has the database's connection -----------------------------------------------

    def _turn(self, free: dict[str, int], hanging: set[int], rooms: dict[str, int]) -> list[Delivery]:
        """Settles, expires, leases: what is to be sent now. Raises when the database is away, and loses nothing."""
        self._look_at_connection()
        self._settle()
        delivery_rows.give_back(self._not_begun, owner=self.name)
        self._not_begun = []
        now = self._now()
        if time.monotonic() - self._expired_at >= POLL_S:
            delivery_rows.expire(now=now)
            self._expired_at = time.monotonic()
        leased = delivery_rows.lease(self._lanes, free, owner=self.name, now=now, hanging=hanging, rooms=rooms)
        self._not_begun = leased
        wanted = delivery_rows.keep_wanted(leased, owner=self.name, now=now)
        self._unsettled.update({one.pk: one for one in wanted})
        self._not_begun = []
        if self._sees_to_the_rest and not wanted and time.monotonic() - self._forgot_at >= FORGETS_EVERY_S:
            # Only when there is nothing to send: no message waits for it.
            self._forgot_at = time.monotonic()
            delivery_rows.forget_old(now=now)
        return wanted

    def _settle(self) -> None:
        results = self._results[:]
        if results:
            delivery_rows.settle(results, self._lanes, owner=self.name, now=self._now())
            # Only now: what the database did not take is written down in the next turn.
            del self._results[: len(results)]
            for result in results:
                self._unsettled.pop(result.delivery.pk, None)

    def _look_at_connection(self) -> None:
        """Not in every turn: on SQLite, where connections do not last, each would open one."""
        if time.monotonic() - self._connected_at >= _CONNECTION_LASTS_S:
            close_old_connections()
            self._connected_at = time.monotonic()

    async def _in_rows(self, do: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._rows, do, *arguments)

    # --- sending: in the loop ---------------------------------------------------------------------------------------

    def _free_places(self) -> dict[str, int]:
        """How many more each lane carries: what has just begun is bounded, and so is all together."""
        now = time.monotonic()
        begun = [*self._running.values()]
        free = {}
        for channel, lane in self._lanes.items():
            times = [at for delivery, at in begun if delivery.channel == channel]
            young = sum(now - at < _HANGS_AFTER_S for at in times)
            free[channel] = min(lane.at_once - young, lane.most - len(times))
        return free

    def _hanging(self) -> set[int]:
        """The devices that have kept a message waiting for a while: one is not to fill a lane with what it is sent."""
        since = time.monotonic() - _HANGS_AFTER_S
        hung = {delivery.device_id for delivery, at in self._running.values() if at <= since}
        return {device for device in hung if device is not None}

    def _rooms(self) -> dict[str, int]:
        """How many more each push service takes that has something on its way."""
        lane = self._lanes.get(Delivery.Channel.WEB_PUSH)
        since = time.monotonic() - _HANGS_AFTER_S
        sends = [(delivery.device, at <= since) for delivery, at in self._running.values()]
        begun = [(device.subscription.endpoint, hangs) for device, hangs in sends if device is not None]
        return push_shares.rooms(lane, begun) if lane is not None else {}

    def _is_full(self) -> bool:
        return any(places <= 0 for places in self._free_places().values())

    def _start(self, delivery: Delivery) -> None:
        place = (delivery.device_id or 0, str(delivery.payload.get("tag", "")))
        before = self._on_screen.get(place)
        task = asyncio.create_task(self._send(delivery, before))
        self._running[task] = (delivery, time.monotonic())
        if delivery.device_id is not None:
            self._on_screen[place] = task
        task.add_done_callback(lambda ended: self._done(ended, place))

    def _done(self, task: asyncio.Task[None], place: tuple[int, str]) -> None:
        was_full = self._is_full()
        self._running.pop(task, None)
        if self._on_screen.get(place) is task:
            del self._on_screen[place]
        if was_full:
            self._event.set()
        elif self._results_timer is None:
            self._results_timer = asyncio.get_running_loop().call_later(_RESULTS_WAIT_S, self._event.set)

    async def _send(self, delivery: Delivery, before: asyncio.Task[None] | None) -> None:
        """Hands one over and keeps the result; when it is broken off there is none."""
        error: DeliveryError | None = None
        try:
            if before is not None:
                # What replaces a message on a screen does not overtake it.
                await asyncio.wait([before], timeout=_LAST_SENDS_S)
            async with asyncio.timeout(base.LONGEST_SEND_S):
                await self._channel(delivery.channel).send(delivery_rows.parcel_of(delivery))
        except DeliveryError as refusal:
            error = refusal
        except TimeoutError:
            error = DeliveryError(f"It was not taken within {base.LONGEST_SEND_S:.0f} s.")
        except Exception as fault:
            logger.exception("Delivery %s could not be sent", delivery.pk)
            error = DeliveryError(f"It could not be sent ({type(fault).__name__}).")
        self._results.append(Result(delivery, error))

    def _channel(self, name: str) -> Channel:
        if name not in self._channels:
            self._channels[name] = self._lanes[name].open()
        return self._channels[name]

    async def _pause(self) -> None:
        """Until the bell rings, results are to be written down, a lane has places again, or the poll is due."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RESULTS_WAIT_S if self._is_full() else POLL_S):
                await self._event.wait()
        await asyncio.sleep(_GATHER_S)
        if self._results_timer is not None:
            self._results_timer.cancel()
            self._results_timer = None

    async def _end(self) -> None:
        """Lets what is on its way arrive, writes down what became of it, and gives the rest back."""
        if self._running:
            _, late = await asyncio.wait([*self._running], timeout=_LAST_SENDS_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for channel in self._channels.values():
            close = getattr(channel, "close", None)
            if close is not None:
                await close()
        try:
            await self._in_rows(self._leave)
        except Exception:
            logger.exception("Sender %s: the last results were not written down; its leases run out", self.name)
        finally:
            await self._in_rows(connections.close_all)

    def _leave(self) -> None:
        close_old_connections()
        self._settle()
        delivery_rows.give_back(list(self._unsettled.values()), owner=self.name)


async def _sleep_unless(stop: threading.Event, delay_s: float) -> None:
    until = time.monotonic() + delay_s
    while not stop.is_set() and (left_s := until - time.monotonic()) > 0:
        await asyncio.sleep(min(left_s, POLL_S / 4))


def start_pusher(process: str, stop: threading.Event) -> threading.Thread:
    """Starts what sends pushes alone, in a process that has no worker: the one that SNS calls.

    What such a call makes due goes out at once then, from where it is known, and not when the worker looks again.
    """
    sender = Sender(f"{process}:sender", lanes=_pushes, sees_to_the_rest=False)
    thread = threading.Thread(target=sender.run_for_ever, args=(stop,), name="sender", daemon=True)
    thread.start()
    return thread


def _pushes() -> dict[str, Lane]:
    return {channel: lane for channel, lane in base.lanes().items() if channel == Delivery.Channel.WEB_PUSH}
