"""The ladder itself, without rows and clocks: whom the next step asks, and how long it waits before the one after.

Operators are asked one by one, in telemetry's order, supervisors all at once, then an address of last resort. Who
cannot be reached costs no time: the step goes on to the next at once, and so it does past a rung with nobody on it. The
operators' rung has an end, however many they are: then those who are left are asked at once, with the supervisors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sessions.models import Rung


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who may be asked; `why` in short words, `is_reachable`: a message can be sent to them at all."""

    user_id: int
    username: str
    name: str
    why: str
    is_reachable: bool


@dataclass(frozen=True, slots=True)
class Waits:
    """How long nobody may have claimed before the next is asked, the supervisors are, the last resort is."""

    next: timedelta
    supervisors: timedelta
    last_resort: timedelta


@dataclass(frozen=True, slots=True)
class Step:
    """Whom a step asks, on which rung each, and what comes after `wait`: never, where that is None."""

    asked: tuple[tuple[Person, Rung], ...]
    asks_last_resort: bool
    rung: Rung
    wait: timedelta | None


def climb(
    rung: Rung,
    *,
    operators: Sequence[Person],
    supervisors: Sequence[Person],
    has_last_resort: bool,
    waits: Waits,
    operators_left: timedelta,
) -> Step:
    """The step that is due on `rung`. `operators` and `supervisors` are those not asked yet in this round, in order.

    `operators_left` is how long the operators' rung may still last.
    """
    asked: list[tuple[Person, Rung]] = []
    if rung == Rung.OPERATORS and operators_left <= timedelta(0):
        asked = [(person, Rung.OPERATORS) for person in operators]
    elif rung == Rung.OPERATORS:
        for place, person in enumerate(operators, 1):
            asked.append((person, Rung.OPERATORS))
            if person.is_reachable:
                left = operators[place:]
                wait = waits.next if any(one.is_reachable for one in left) else waits.supervisors
                rung = Rung.OPERATORS if left else Rung.SUPERVISORS
                return Step(tuple(asked), False, rung, min(wait, operators_left))
    if rung in (Rung.OPERATORS, Rung.SUPERVISORS):
        already = {person.user_id for person, _ in asked}
        fresh = [person for person in supervisors if person.user_id not in already]
        asked += [(person, Rung.SUPERVISORS) for person in fresh]
        if any(person.is_reachable for person, _ in asked):
            return Step(tuple(asked), False, Rung.LAST_RESORT, waits.last_resort)
        rung = Rung.LAST_RESORT
    return Step(tuple(asked), rung == Rung.LAST_RESORT and has_last_resort, Rung.DONE, None)
