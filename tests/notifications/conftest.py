"""What several tests of the messages share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from django.core.cache import cache
from django.utils import timezone
from pytest_django.fixtures import Settings

from notifications import outbox
from notifications.channels import base, web_push
from notifications.models import SnsCertificate
from tests.fakes.mail_server import MailServer
from tests.fakes.push_service import PushService
from tests.notifications.posting import VAPID_PRIVATE_KEY, VAPID_PUBLIC_KEY
from tests.notifications.sns_hooking import PEM
from tests.notifications.sns_signer import CERTIFICATE_URL, TOPIC


@pytest.fixture
def push_service(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[PushService]:
    """A push service that is the installation's only one; no push is given up, however long this computer takes."""
    monkeypatch.setattr(web_push, "TIMEOUT_S", 600.0)
    monkeypatch.setattr(base, "LONGEST_SEND_S", 600.0)
    with PushService(vapid_public_key=VAPID_PUBLIC_KEY) as service:
        settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY
        settings.PUSH_SERVICES = [service.origin]
        yield service


@pytest.fixture
def mail_server(settings: Settings) -> Iterator[MailServer]:
    """A mail server that is the installation's."""
    with MailServer() as server:
        settings.NOTIFY_EMAIL_URL = server.url
        yield server


@pytest.fixture
def through_sns(settings: Settings) -> Iterator[None]:
    """Messages wait for SNS, on a topic of the tests."""
    settings.NOTIFY_VIA, settings.NOTIFY_SNS_TOPIC, settings.SNS_GRACE_S = "sns", TOPIC, 60
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def nothing_goes_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Any name looked up, and any connection begun, fails the test: whatever swallowed the error, too."""
    tried: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        tried.append(arguments)
        raise AssertionError(f"something outside was called: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    yield tried
    assert tried == []


@pytest.fixture
def known_certificate() -> None:
    """The worker has fetched it before."""
    now = timezone.now()
    SnsCertificate.objects.create(url=CERTIFICATE_URL, pem=PEM, fetched_at=now, next_try_at=None)


@pytest.fixture(autouse=True)
def _no_judge() -> Iterator[None]:
    """The rescues' judge knows only rescues: here everything is wanted, unless a test says otherwise."""
    judge = outbox._judge
    outbox.register_judge(None)
    yield
    outbox.register_judge(judge)
