"""The worker's pass over who is asked to take a rescue: what is taken or over is settled, what waits climbs on.

Telemetry is asked outside any transaction, for all that need it at once, with one deadline (machines.telemetry.asking);
each rescue then has a short transaction of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import InterfaceError, OperationalError

from machines.models import Machine
from machines.telemetry import asking
from machines.telemetry.base import Duty
from sessions import escalation
from sessions.models import Escalation
from sessions.passes import each

logger = logging.getLogger(__name__)

_STEP = "ask somebody to take a rescue"
# Deliveries fail in their own time, and a press wakes this pass: not each need look at all who wait.
_LOOK_EVERY = timedelta(seconds=0.25)


@dataclass
class AskingPasses:
    """What a worker does so that each rescue finds somebody; `ask_all` as in machines.telemetry.asking."""

    now: Callable[[], datetime]
    ask_all: Callable[..., dict[int, Duty]] = asking.ask_all
    _looked_at: datetime | None = None

    def run(self) -> None:
        """Looks at everything once. Raises when the database is away; one rescue's failure is only logged."""
        now = self.now()
        found = list(escalation.due(now=now))
        each([one for one in found if escalation.must_settle(one)], self._settle, "take back what was asked")
        waiting = [one for one in found if not escalation.must_settle(one)]
        each([one for one in waiting if not escalation.needs_duty(one)], self._step, _STEP)
        self._ask([one for one in waiting if escalation.needs_duty(one)], now)
        if self._looked_at is None or not timedelta(0) <= now - self._looked_at < _LOOK_EVERY:
            self._looked_at = now
            each(list(escalation.unreachable(now=now)), self._step, _STEP)

    def _settle(self, one: Escalation) -> None:
        escalation.settle(one, now=self.now())

    def _step(self, one: Escalation) -> None:
        escalation.step(one, None, now=self.now())

    def _ask(self, those: Sequence[Escalation], now: datetime) -> None:
        if not those:
            return
        duties = self._duties([one.session.machine for one in those], now)

        def step(one: Escalation) -> None:
            if duty := duties.get(one.session.machine_id):
                escalation.step(one, duty, now=self.now())

        each(those, step, _STEP)

    def _duties(self, machines: Sequence[Machine], now: datetime) -> dict[int, Duty]:
        try:
            return self.ask_all(machines, now=now)
        except (OperationalError, InterfaceError):
            raise
        except Exception:
            logger.exception("Asking who is responsible failed; each machine is asked about by itself")
        duties: dict[int, Duty] = {}

        def ask(machine: Machine) -> None:
            duties.update(self.ask_all([machine], now=now))

        each(machines, ask, "ask who is responsible for a machine")
        return duties
