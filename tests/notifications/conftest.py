"""What several tests of the messages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from notifications import outbox
from tests.fakes.mail_server import MailServer
from tests.fakes.push_service import PushService
from tests.notifications.posting import VAPID_PRIVATE_KEY, VAPID_PUBLIC_KEY


@pytest.fixture
def push_service(settings: Settings) -> Iterator[PushService]:
    """A push service that is the installation's only one."""
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


@pytest.fixture(autouse=True)
def _no_judge() -> Iterator[None]:
    """The rescues' judge knows only rescues: here everything is wanted, unless a test says otherwise."""
    judge = outbox._judge
    outbox.register_judge(None)
    yield
    outbox.register_judge(judge)
