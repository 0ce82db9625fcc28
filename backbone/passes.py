"""The worker's hands at AWS Global Accelerator: carries wishes out, and looks what is there.

Any number of processes may do this: whoever moves a row's time on by a guarded UPDATE is the one who does it. A process
that dies in the middle leaves a wish whose time comes again; what AWS has is read before anything is turned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from backbone.accelerator import AcceleratorMissing, GlobalAccelerator, NotAsExpected
from backbone.models import WISH_LASTS, AcceleratorReading, DialWish
from machines import services
from machines.aws import AwsError

logger = logging.getLogger(__name__)

LOOK_EVERY = timedelta(seconds=30)
# While AWS brings a change to its edges, or somebody has just turned something.
_LOOK_SOON = timedelta(seconds=5)
# Longer than all calls of one try together: two, and each waits 2 s for a connection and 4 s for an answer.
_LEASE = timedelta(seconds=30)
_PAUSES_S = (2, 5, 10, 20, 30)


def names() -> list[str]:
    """The accelerators of the setting."""
    return [name for name in settings.ACCELERATOR.split(",") if name]


class AcceleratorPasses:
    """One look at every wish and every reading that is due. Raises when the database is away."""

    def __init__(self, *, now: Callable[[], datetime] = timezone.now, driver: GlobalAccelerator | None = None) -> None:
        self._now = now
        self._driver = driver or GlobalAccelerator()
        self._said = ""

    def run(self) -> None:
        self._carry_out()
        for name in names():
            self._look(name)

    # --- wishes -------------------------------------------------------------------------------------------------------

    def _carry_out(self) -> None:
        now = self._now()
        for wish in DialWish.objects.filter(done_at=None, failed_at=None, next_try_at__lte=now):
            as_read = DialWish.objects.filter(
                pk=wish.pk, done_at=None, failed_at=None, next_try_at=wish.next_try_at, attempts=wish.attempts
            )
            wish.attempts += 1
            wish.next_try_at = now + _LEASE
            if as_read.update(attempts=wish.attempts, next_try_at=wish.next_try_at):
                self._try(wish)

    def _try(self, wish: DialWish) -> None:
        """One try, with nothing of the database held meanwhile."""
        now = self._now()
        if now - wish.requested_at >= WISH_LASTS:
            minutes = WISH_LASTS // timedelta(minutes=1)
            words = f"It was not carried out within {minutes} minutes, so it no longer counts. {wish.outcome}"
            self._end(wish, words.strip(), has_failed=True)
            return
        try:
            words = self._turn(wish)
        except NotAsExpected as error:
            self._end(wish, str(error), has_failed=True)
        except AwsError as error:
            if error.is_permanent:
                self._end(wish, str(error), has_failed=True)
                return
            logger.warning("%s: %s", wish, error)
            pause_s = _PAUSES_S[min(wish.attempts, len(_PAUSES_S)) - 1]
            _mine(wish).update(outcome=str(error), next_try_at=self._now() + timedelta(seconds=pause_s))
        else:
            self._end(wish, words, has_failed=False)

    def _turn(self, wish: DialWish) -> str:
        if wish.endpoint_id:
            has_turned = self._driver.set_weight(
                wish.group_arn, wish.endpoint_id, expected=int(wish.from_value), to=int(wish.to_value)
            )
        else:
            has_turned = self._driver.turn_dial(wish.group_arn, expected=wish.from_value, to=wish.to_value)
        if has_turned:
            return "AWS has taken it; within a minute or so all of its edges have it."
        return f"It stands at {wish.shown_to}."

    def _end(self, wish: DialWish, words: str, *, has_failed: bool) -> None:
        """Writes down what became of it, for the page and for the security record; once, whoever else tries to."""
        now = self._now()
        ended = {"failed_at": now} if has_failed else {"done_at": now}
        with transaction.atomic():
            if not _mine(wish).update(outcome=words, **ended):
                return
            services.record_security_event(
                "dial_not_turned" if has_failed else "dial_turned",
                user=wish.user,
                detail={**in_record(wish), "outcome": words},
            )
            AcceleratorReading.objects.filter(name=wish.accelerator).update(due_at=now)
        logger.log(logging.WARNING if has_failed else logging.INFO, "%s: %s", wish, words)

    # --- readings -----------------------------------------------------------------------------------------------------

    def _look(self, name: str) -> None:
        now = self._now()
        reading, _ = AcceleratorReading.objects.get_or_create(name=name, defaults={"due_at": now})
        as_read = AcceleratorReading.objects.filter(pk=reading.pk, due_at=reading.due_at)
        if reading.due_at > now or not as_read.update(due_at=now + LOOK_EVERY):
            return
        mine = AcceleratorReading.objects.filter(pk=reading.pk)
        try:
            found = self._driver.read(name)
        except AcceleratorMissing as error:
            self._say(str(error))
            mine.update(found=None, read_at=self._now(), trouble=str(error), trouble_at=self._now())
        except AwsError as error:
            self._say(str(error))
            mine.update(trouble=str(error), trouble_at=self._now())
        else:
            self._said = ""
            mine.update(found=found.as_json(), read_at=self._now(), trouble="", trouble_at=None)
            if not found.is_deployed:
                mine.update(due_at=self._now() + _LOOK_SOON)

    def _say(self, words: str) -> None:
        """Once, not twice a minute for as long as it lasts."""
        if words != self._said:
            logger.warning("The accelerator cannot be read: %s", words)
        self._said = words


def in_record(wish: DialWish) -> dict[str, object]:
    """What the security record says of a wish."""
    return {
        "wish": wish.pk,
        "accelerator": wish.accelerator,
        "listener": wish.listener,
        "region": wish.region,
        "group": wish.group_arn,
        "endpoint": wish.endpoint_id,
        "from": wish.from_value,
        "to": wish.to_value,
        "reason": wish.reason,
    }


def _mine(wish: DialWish) -> QuerySet[DialWish]:
    """The wish as this try took it: who was held up longer than the lease has lost it."""
    return DialWish.objects.filter(pk=wish.pk, done_at=None, failed_at=None, attempts=wish.attempts)
