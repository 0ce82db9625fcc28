"""What tests of the SNS hook share: a caller, presses whose messages wait for SNS, and that nothing has happened."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from notifications import sns
from notifications.models import Delivery, SnsAnnouncement, SnsCertificate, SnsConfirmation, SnsMessage
from tests.notifications.sns_signer import CERTIFICATE_URL, body, certificate

# One for all: each loads the middleware anew.
CLIENT = Client(enforce_csrf_checks=True)
PEM = certificate()


def post(content: bytes | dict[str, Any], **headers: Any) -> Any:
    sent = content if isinstance(content, bytes) else body(content)
    return CLIENT.generic("POST", "/hooks/sns/", sent, content_type="text/plain; charset=UTF-8", **headers)


def announced(subject: uuid.UUID | None = None, *, name: str = "asked:1", devices: int = 1) -> SnsAnnouncement:
    """A press whose messages wait for SNS, as the outbox leaves them."""
    now = timezone.now()
    subject = subject or uuid.uuid4()
    for number in range(devices):
        Delivery.objects.create(
            subject=subject,
            kind="asked",
            channel="web_push",
            key=f"{name}:7:web_push:{number}",
            title="Help",
            next_try_at=now + sns.grace(),
            expires_at=now + timedelta(minutes=10),
        )
    sns.announce(subject=subject, key=name, now=now)
    return SnsAnnouncement.objects.get(key=name)


def nothing_happened() -> None:
    assert not SnsMessage.objects.exists()
    assert not SnsConfirmation.objects.exists()
    assert not SnsCertificate.objects.exclude(url=CERTIFICATE_URL).exists()
    assert not Delivery.objects.filter(next_try_at__lte=timezone.now()).exists()
    assert not SnsAnnouncement.objects.filter(heard_at__isnull=False).exists()
