"""The way through SNS in the admin: to look at, with what is wrong above it, and no token anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from machines.models import User
from notifications import sns
from notifications.models import SnsAnnouncement, SnsCertificate, SnsConfirmation, SnsMessage
from tests.notifications.sns_signer import CERTIFICATE_URL, TOKEN, TOPIC
from tests.sessions.clients import client_of
from tests.sessions.rescues import person, press

pytestmark = pytest.mark.django_db

MODELS = [SnsAnnouncement, SnsCertificate, SnsConfirmation, SnsMessage]


@pytest.fixture
def manager(settings: Any) -> Client:
    settings.NOTIFY_VIA, settings.NOTIFY_SNS_TOPIC = "sns", TOPIC
    return client_of(User.objects.create_superuser("root"))


@pytest.fixture(autouse=True)
def rows() -> None:
    now = timezone.now()
    sns.announce(subject=press().pk, key="asked:1", now=now)
    SnsCertificate.objects.create(url=CERTIFICATE_URL)
    SnsConfirmation.objects.create(
        kind="subscribe", topic=TOPIC, message_id="m-1", token=TOKEN, problem="No permission."
    )
    SnsMessage.objects.create(message_id="m-2")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_rows_can_be_looked_at_and_not_changed(manager: Client, model: Any) -> None:
    name, row = f"admin:notifications_{model._meta.model_name}", model.objects.get()
    change = reverse(f"{name}_change", args=[row.pk])
    for address in (reverse(f"{name}_changelist"), reverse(f"{name}_changelist") + "?q=m-1", change):
        response = manager.get(address)
        assert response.status_code == 200, address
        assert TOKEN not in response.content.decode()
    assert manager.get(reverse(f"{name}_add")).status_code == 403
    assert manager.post(change, {}).status_code == 403
    assert manager.post(reverse(f"{name}_delete", args=[row.pk])).status_code == 403


def test_what_is_wrong_stands_above_the_announcements(manager: Client) -> None:
    page = manager.get(reverse("admin:notifications_snsannouncement_changelist")).content.decode()
    assert "is not confirmed. No permission." in page


def test_supervisors_read_what_is_wrong_on_the_page_of_messages(settings: Any) -> None:
    settings.NOTIFY_VIA, settings.NOTIFY_SNS_TOPIC = "sns", TOPIC
    client = client_of(person("Sue", role="supervisor"))
    assert "is not confirmed. No permission." in client.get("/messages/").content.decode()
