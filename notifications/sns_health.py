"""What is wrong with the way through SNS, in sentences: for supervisors, the log, the admin and `healthz`."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import QuerySet
from django.utils import timezone

from notifications import sns
from notifications.models import SnsAnnouncement, SnsCertificate, SnsConfirmation

_LATELY = timedelta(minutes=15)
_SETTLED = timedelta(seconds=60)


def sentences(*, now: datetime | None = None) -> list[str]:
    """What somebody must look at; empty when all is well, and where messages do not go through SNS."""
    topic = sns.chosen_topic()
    if topic is None:
        return []
    now = now or timezone.now()
    lately = SnsAnnouncement.objects.filter(created_at__gt=now - _LATELY)
    found = [_of_subscription(topic.arn), _of_publishing(lately), _of_calls(lately, now), _of_certificates(now)]
    return [sentence for sentence in found if sentence]


def _of_subscription(topic: str) -> str:
    rows = SnsConfirmation.objects.filter(topic=topic).defer("token")
    last = rows.order_by("-asked_at", "-pk").first()
    if last is None or last.confirmed_at:
        return ""  # one made before this installation knew of it is heard by its calls
    if last.kind == SnsConfirmation.Kind.UNSUBSCRIBE:
        return (
            f"The portal's subscription to SNS was ended at AWS on {last.asked_at:%Y-%m-%d at %H:%M} UTC, so messages "
            "go out later than they could. If nobody meant it: subscribe /hooks/sns/ to the topic again."
        )
    return f"The portal's subscription to SNS is not confirmed. {last.problem}".strip() if last.problem else ""


def _of_publishing(lately: QuerySet[SnsAnnouncement]) -> str:
    last = lately.filter(taken_at__isnull=False).order_by("-created_at", "-pk").first()
    if last is None or last.published_at or not last.problem:
        return ""
    return f"The last announcement did not get into SNS; its messages went out without it. {last.problem}"


def _of_calls(lately: QuerySet[SnsAnnouncement], now: datetime) -> str:
    published = lately.filter(published_at__lt=now - _SETTLED)
    count = published.count()
    if not count or published.filter(heard_at__isnull=False).exists():
        return ""
    return (
        f"SNS took {count} announcement{'s' if count > 1 else ''} in the last 15 minutes and brought none of them to "
        "/hooks/sns/, so messages go out later than they could. Look at the topic's subscription and its delivery log."
    )


def _of_certificates(now: datetime) -> str:
    row = (
        SnsCertificate.objects.filter(noted_at__gt=now - timedelta(days=1), fetched_at=None).exclude(problem="").first()
    )
    return f"A certificate that SNS signs by could not be fetched: {row.problem}" if row else ""
