"""A process's keepers: one for each ready gateway that nobody else keeps, started and ended as the rows say.

Several processes share the work by leases on the gateways' rows. The bell wakes this one at once when something
changed in its own process; a look every second finds the rest, and renews the leases.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from uuid import UUID

from django.utils import timezone

from sessions import bell, keeper_rows, leases, signs_of_life
from sessions.keeper import InThread, Keeper, Limits, in_thread

logger = logging.getLogger(__name__)

POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class _Kept:
    keeper: Keeper
    task: asyncio.Task[None]


class KeeperSupervisor:
    """Runs in the server's loop; `name` stands in the leases it takes, so no two processes may share one."""

    def __init__(self, name: str, *, limits: Limits | None = None, in_thread: InThread = in_thread) -> None:
        self.name = name[:64]
        self._limits = limits or Limits()
        self._in_thread = in_thread
        self._kept: dict[UUID, _Kept] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps desktops until `stop` is set; then lets go of all, so that the next process takes them up at once."""
        stopping = asyncio.create_task(stop.wait())
        try:
            async with bell.Listener() as listener:
                while not stop.is_set():
                    try:
                        await self._look()
                    except Exception:
                        # Desktops are held on meanwhile: with the database away nobody else can take them.
                        logger.exception("Keepers of %s: a look at the rows failed; the next one is soon", self.name)
                        await asyncio.wait([stopping], timeout=POLL_S)
                    ringing = asyncio.create_task(listener.wait(timeout_s=POLL_S))
                    await asyncio.wait([stopping, ringing], return_when=asyncio.FIRST_COMPLETED)
                    ringing.cancel()
        finally:
            stopping.cancel()
            await self._let_go(set(self._kept), detail="The keeper was told to stop.")

    async def _look(self) -> None:
        await self._in_thread(signs_of_life.bury_dead, leases.forget_process)
        ours: set[UUID] = await self._in_thread(keeper_rows.take, self.name, now=timezone.now())
        over = {pk for pk, kept in self._kept.items() if kept.task.done()} | (self._kept.keys() - ours)
        await self._let_go(over - ours, detail="The rescue ended, or its gateway did.")
        for pk in ours:
            if pk not in self._kept or self._kept[pk].task.done():
                keeper = Keeper(pk, self.name, limits=self._limits, in_thread=self._in_thread)
                self._kept[pk] = _Kept(keeper, asyncio.create_task(keeper.run(), name=f"keeper {pk}"))

    async def _let_go(self, gateways: set[UUID], *, detail: str) -> None:
        tasks = [self._kept.pop(pk).task for pk in gateways]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pk in gateways:
            try:
                await self._in_thread(
                    keeper_rows.let_go, pk, self.name, detail=detail, notice=keeper_rows.RESTARTING, now=timezone.now()
                )
            except Exception:
                # The lease runs out by itself, and the next keeper tidies up.
                logger.exception("Gateway %s could not be let go of", pk)
