"""What the worker does about SNS: publishes announcements, fetches certificates, confirms the subscription.

Two threads: announcements are in a hurry, so nothing else of SNS is done before them, and none of it in the sender's
loop. Rows are the truth; whatever is under way is taken before anything outside is called, so that several processes
do it once, and a dead one's work is left to the grace (announcements) or to the next try (the rest).
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db import close_old_connections, connections, transaction
from django.db.models import F
from django.utils import timezone

from machines import services
from notifications import bell, sns, sns_certificates, sns_health
from notifications.channels.base import DeliveryError
from notifications.models import SnsAnnouncement, SnsConfirmation
from notifications.sns_messages import Topic

logger = logging.getLogger(__name__)

POLL_S = 1.0
_AFTER_FAILURE_S = 5.0
_FIRST_DELAY = timedelta(seconds=5)
_LONGEST_DELAY = timedelta(minutes=15)
_TOKEN_LIFE = timedelta(days=3)  # of a confirmation, as SNS says
_TIDY_EVERY = timedelta(hours=1)


def _publish(topic: Topic, text: str) -> str:
    from notifications.channels import sns as channel

    return channel.publish(topic, text)


def _confirm(topic: Topic, token: str) -> str:
    from notifications.channels import sns as channel

    return channel.confirm(topic, token)


@dataclass
class SnsPasses:
    """What is done about one topic; each method looks once, and raises when the database is away."""

    topic: Topic
    now: Callable[[], datetime] = timezone.now
    publish: Callable[[Topic, str], str] = _publish
    confirm: Callable[[Topic, str], str] = _confirm
    fetch: Callable[[str], bytes] | None = None
    _tidied_at: datetime | None = field(default=None, init=False)

    def run_announcements(self) -> int:
        """Publishes what waits, in one message as long as there are few; how many SNS took.

        What SNS does not take is due at once without it: a second try would come later than the grace.
        """
        now = self.now()
        waiting = SnsAnnouncement.objects.filter(taken_at=None)
        # Their messages go out by themselves at this moment.
        waiting.filter(created_at__lte=now - sns.grace()).update(
            taken_at=now, problem="No worker published it within SNS_GRACE_S; the messages went out without SNS."
        )
        attempt = uuid.uuid4()
        due = waiting.order_by("created_at").values_list("pk", flat=True)[: sns.AT_ONCE]
        if not waiting.filter(pk__in=list(due)).update(taken_at=now, attempt=attempt):
            return 0
        taken = list(SnsAnnouncement.objects.filter(attempt=attempt))
        mine = SnsAnnouncement.objects.filter(attempt=attempt)
        try:
            message_id = self.publish(self.topic, sns.message_for(taken))
        except DeliveryError as error:
            logger.warning("SNS was not told of %d announcements: %s", len(taken), error)
            with transaction.atomic():
                mine.update(problem=str(error)[:300])
                sns.bring_forward(taken, now=self.now())
            return 0
        mine.update(published_at=self.now(), message_id=message_id)
        return len(taken)

    def run_chores(self) -> None:
        """Fetches certificates, confirms, and tidies; says once an hour what is wrong."""
        sns_certificates.fetch_due(self.topic, now=self.now, fetch=self.fetch)
        now = self.now()
        for row in SnsConfirmation.objects.filter(next_try_at__lte=now).order_by("next_try_at")[:5]:
            self._confirm_one(row)
        if self._tidied_at is None or now - self._tidied_at >= _TIDY_EVERY:
            self._tidied_at = now
            sns.forget_old(now=now)
            for sentence in sns_health.sentences(now=now):
                logger.warning(sentence)

    def _confirm_one(self, row: SnsConfirmation) -> None:
        now = self.now()
        delay = min(_FIRST_DELAY * 2 ** min(row.tries, 12), _LONGEST_DELAY)
        mine = SnsConfirmation.objects.filter(pk=row.pk, tries=row.tries, next_try_at=row.next_try_at)
        if not mine.update(tries=F("tries") + 1, next_try_at=now + delay):
            return  # another worker has it
        it = SnsConfirmation.objects.filter(pk=row.pk, confirmed_at=None)
        if row.topic != self.topic.arn or not row.token or now - row.asked_at >= _TOKEN_LIFE:
            words = "It was not confirmed within three days, or is of another topic. Subscribe the hook anew."
            it.update(next_try_at=None, token=None, problem=row.problem or words)
            return
        try:
            subscription = self.confirm(self.topic, row.token)
        except DeliveryError as error:
            logger.warning("The subscription to %s was not confirmed: %s", row.topic, error)
            if error.is_gone:
                it.update(next_try_at=None, token=None, problem=str(error)[:300])
            else:  # a missing permission, too: whoever reads it can grant it while the token lives
                it.update(problem=str(error)[:300])
            return
        with transaction.atomic():
            done = it.update(
                confirmed_at=self.now(), subscription=subscription[:400], next_try_at=None, token=None, problem=""
            )
            if done:
                services.record_security_event("sns_subscribed", detail={"topic": row.topic})
        logger.info("The hook is subscribed to %s", row.topic)


def start_threads(stop: threading.Event) -> list[threading.Thread]:
    """Starts what is to be done for the chosen topic, if any; join the threads after setting `stop` and ringing."""
    topic = sns.chosen_topic()
    if topic is None:
        return []
    passes = SnsPasses(topic)
    threads = []
    for name, run in (("sns announcements", passes.run_announcements), ("sns chores", passes.run_chores)):
        thread = threading.Thread(target=_run_for_ever, args=(name, run, stop), name=name, daemon=True)
        thread.start()
        threads.append(thread)
    return threads


def _run_for_ever(name: str, run: Callable[[], object], stop: threading.Event) -> None:
    """Passes until `stop` is set; nothing that goes wrong ends it."""
    try:
        while not stop.is_set():
            seen = bell.count()
            close_old_connections()
            try:
                busy = run()
            except Exception:
                logger.exception("Thread %s: a pass failed; the next one is in %.0f s", name, _AFTER_FAILURE_S)
                stop.wait(_AFTER_FAILURE_S)
                continue
            if not busy:
                bell.wait(seen=seen, timeout_s=POLL_S)
    finally:
        connections.close_all()
