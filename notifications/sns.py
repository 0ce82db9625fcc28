"""The way through SNS: announces messages of the outbox to the topic, and acts on what SNS brings back.

The outbox's rows are the truth. An announcement only makes them due earlier than SNS_GRACE_S, so what SNS loses,
doubles, delays or mixes up changes nothing but a moment.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import OuterRef, Subquery

from machines import services
from notifications import bell
from notifications.models import Delivery, SnsAnnouncement, SnsConfirmation, SnsMessage
from notifications.sns_messages import NOTIFICATION, SUBSCRIBE, Message, Topic, topic_of

logger = logging.getLogger(__name__)

# So many go with one message of SNS, and are looked for in one.
AT_ONCE = 50
_KEEP_HEARD = timedelta(days=2)
_KEEP_ANNOUNCEMENTS = timedelta(days=7)


def is_chosen() -> bool:
    """Whether messages go through SNS here."""
    return bool(settings.NOTIFY_VIA == "sns")


def chosen_topic() -> Topic | None:
    """The one topic whose messages are heard; None where messages do not go through SNS."""
    return topic_of(settings.NOTIFY_SNS_TOPIC) if is_chosen() else None


def grace() -> timedelta:
    """How long a message waits for SNS."""
    return timedelta(seconds=settings.SNS_GRACE_S)


def announce(*, subject: uuid.UUID, key: str, now: datetime) -> None:
    """Wishes that SNS calls back for the subject's messages whose keys begin with `key` and a colon.

    In the caller's transaction, which has made those messages due at `now + grace()`. Twice is once.
    """
    SnsAnnouncement.objects.bulk_create(
        [SnsAnnouncement(key=key, subject=subject, created_at=now)], ignore_conflicts=True
    )


def message_for(announcements: Iterable[SnsAnnouncement]) -> str:
    """What is published: which announcements, and nothing of what they are about."""
    return json.dumps({"v": 1, "announcements": [str(one.pk) for one in announcements]})


def bring_forward(announcements: Iterable[SnsAnnouncement], *, now: datetime) -> int:
    """Makes the announced messages due, those that nobody has tried yet; how many that changed."""
    changed = 0
    for one in announcements:
        changed += Delivery.objects.filter(
            subject=one.subject,
            key__startswith=f"{one.key}:",
            channel=Delivery.Channel.WEB_PUSH,
            state=Delivery.State.PENDING,
            tries=0,
            next_try_at__gt=now,
        ).update(next_try_at=now)
    if changed:
        transaction.on_commit(bell.ring)
    return changed


def hear(message: Message, topic: Topic, *, now: datetime) -> bool:
    """Acts on a message whose signature was found good; False when it was heard before. One transaction."""
    with transaction.atomic():
        if not SnsMessage.objects.get_or_create(message_id=message.id, defaults={"heard_at": now})[1]:
            return False
        if message.kind == NOTIFICATION:
            _called_back(message, now)
        elif message.kind == SUBSCRIBE:
            SnsConfirmation.objects.create(
                kind=SnsConfirmation.Kind.SUBSCRIBE,
                topic=topic.arn,
                message_id=message.id,
                token=message.token,
                asked_at=now,
                next_try_at=now,
            )
        else:
            _unsubscribed(message, topic, now)
    return True


def forget_old(*, now: datetime) -> None:
    """Removes what was heard too long ago to come again, old announcements, and old confirmations that are settled.

    Each topic's last confirmation stays: it says how the subscription stands.
    """
    SnsMessage.objects.filter(heard_at__lt=now - _KEEP_HEARD).delete()
    SnsAnnouncement.objects.filter(created_at__lt=now - _KEEP_ANNOUNCEMENTS).delete()
    of_topic = SnsConfirmation.objects.filter(topic=OuterRef("topic")).order_by("-asked_at", "-pk")
    settled = SnsConfirmation.objects.filter(
        next_try_at=None, asked_at__lt=now - timedelta(days=settings.MESSAGES_KEPT_DAYS)
    )
    old = settled.exclude(pk=Subquery(of_topic.values("pk")[:1])).values_list("pk", flat=True)
    SnsConfirmation.objects.filter(pk__in=list(old[:AT_ONCE])).delete()


def _called_back(message: Message, now: datetime) -> None:
    announcements = list(SnsAnnouncement.objects.filter(pk__in=_announced(message.text)))
    if not announcements:
        logger.info("SNS brought message %s, which announces nothing that is known here", message.id)
        return
    SnsAnnouncement.objects.filter(pk__in=[one.pk for one in announcements], heard_at=None).update(heard_at=now)
    bring_forward(announcements, now=now)


def _announced(text: str) -> list[uuid.UUID]:
    """The announcements that a message names; none for what another publisher of the topic wrote."""
    try:
        named = json.loads(text)["announcements"]
        return [uuid.UUID(one) for one in named[:AT_ONCE]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def _unsubscribed(message: Message, topic: Topic, now: datetime) -> None:
    """Somebody ended the subscription. It is only told: whoever did it may have meant it."""
    SnsConfirmation.objects.create(
        kind=SnsConfirmation.Kind.UNSUBSCRIBE,
        topic=topic.arn,
        message_id=message.id,
        asked_at=now,
        problem="The subscription was ended at AWS.",
    )
    services.record_security_event("sns_unsubscribed", detail={"topic": topic.arn, "message": message.id})
    logger.warning("The subscription of /hooks/sns/ to %s was ended at AWS", topic.arn)
