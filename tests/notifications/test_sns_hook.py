"""The SNS hook: what is genuine counts once, however it comes, and whatever else comes."""

from __future__ import annotations

import json
import random
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from machines.models import SecurityEvent
from notifications import sns, sns_hook
from notifications.models import Delivery, SnsConfirmation
from tests.notifications.sns_hooking import announced, nothing_happened, post
from tests.notifications.sns_signer import TOKEN, TOPIC, Signer

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("through_sns", "nothing_goes_out")]


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("over", [{}, {"Subject": "A press"}], ids=["no subject", "subject"])
@pytest.mark.usefixtures("known_certificate")
def test_genuine_notification_makes_its_messages_due(version: str, over: dict[str, Any]) -> None:
    mine, other = announced(devices=2), announced(name="asked:2")
    response = post(Signer(version=version).notification(sns.message_for([mine]), **over))
    assert (response.status_code, response.json()) == (200, {"heard": "now"})
    due = Delivery.objects.filter(next_try_at__lte=timezone.now())
    assert set(due.values_list("subject", flat=True)) == {mine.subject} and due.count() == 2
    assert Delivery.objects.get(subject=other.subject).next_try_at > timezone.now()
    mine.refresh_from_db()
    assert mine.heard_at is not None


@pytest.mark.usefixtures("known_certificate")
def test_notification_makes_no_other_announcements_messages_due() -> None:
    """Of the same rescue: the next one who is asked is asked when it is their turn."""
    subject = uuid.uuid4()
    first, later = announced(subject), announced(subject, name="asked:10")
    assert post(Signer().notification(sns.message_for([first]))).status_code == 200
    due = Delivery.objects.filter(next_try_at__lte=timezone.now())
    assert list(due.values_list("key", flat=True)) == [f"{first.key}:7:web_push:0"]
    assert later.heard_at is None


@pytest.mark.usefixtures("known_certificate")
def test_duplicates_shuffled_and_late_ones_make_each_message_due_once() -> None:
    rows = [announced(name=f"asked:{number}") for number in range(4)]
    mail = [Signer().notification(sns.message_for([one])) for one in rows] * 3
    random.Random(11).shuffle(mail)
    answers = [post(one).json()["heard"] for one in mail]
    assert sorted(answers) == ["before"] * 8 + ["now"] * 4
    # The sender has begun: what SNS repeats, or publishes again with another id, moves no retry forward.
    later = timezone.now() + timedelta(minutes=1)
    Delivery.objects.update(tries=1, next_try_at=later)
    late = timezone.now() - timedelta(minutes=50)
    for one in rows:
        assert post(Signer().notification(sns.message_for([one]), at=late)).json() == {"heard": "now"}
    assert set(Delivery.objects.values_list("next_try_at", flat=True)) == {later}


@pytest.mark.usefixtures("known_certificate")
def test_late_message_does_not_raise_what_is_over() -> None:
    mine = announced()
    Delivery.objects.update(state="withdrawn", ended_at=timezone.now())
    before = Delivery.objects.get().next_try_at
    assert post(Signer().notification(sns.message_for([mine]))).status_code == 200
    row = Delivery.objects.get()
    assert (row.state, row.next_try_at) == ("withdrawn", before)


STRANGE = [
    "",
    "hello",
    "[]",
    "{}",
    '{"announcements": 7}',
    '{"announcements": ["x"]}',
    '{"announcements": [7]}',
    "[" * 9999,
]


@pytest.mark.parametrize("text", [*STRANGE, json.dumps({"announcements": ["e85d9d84-5fbd-4671-8858-31678d308e5e"]})])
@pytest.mark.usefixtures("known_certificate")
def test_what_others_publish_on_the_topic_is_heard_and_means_nothing(text: str) -> None:
    announced()
    assert post(Signer().notification(text)).status_code == 200
    assert not Delivery.objects.filter(next_try_at__lte=timezone.now()).exists()


@pytest.mark.usefixtures("known_certificate")
def test_confirmation_is_a_wish_for_the_worker_and_nothing_is_called() -> None:
    asked = Signer().confirmation()
    assert [post(asked).json()["heard"] for _ in range(2)] == ["now", "before"]
    row = SnsConfirmation.objects.get()
    assert (row.kind, row.topic, row.token, row.confirmed_at) == ("subscribe", TOPIC, TOKEN, None)
    assert row.next_try_at is not None


@pytest.mark.usefixtures("known_certificate")
def test_end_of_the_subscription_is_told_and_never_undone() -> None:
    assert post(Signer().confirmation("UnsubscribeConfirmation")).status_code == 200
    row = SnsConfirmation.objects.get()
    assert (row.kind, row.token, row.next_try_at) == ("unsubscribe", None, None)
    assert SecurityEvent.objects.filter(kind="sns_unsubscribed").count() == 1


@pytest.mark.usefixtures("known_certificate")
def test_rubbish_is_bounded_in_rows_and_in_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sns_hook, "RUBBISH_A_MINUTE", 25)
    statuses = [post(b"rubbish").status_code for _ in range(30)]
    assert statuses == [400] * 25 + [503] * 5
    assert SecurityEvent.objects.filter(kind="sns_refused").count() == sns_hook.ROWS_AN_HOUR
    # Whoever else calls is heard.
    mine = announced()
    assert post(Signer().notification(sns.message_for([mine])), REMOTE_ADDR="192.0.2.7").status_code == 200


@pytest.mark.usefixtures("known_certificate")
def test_cache_that_is_away_keeps_nobody_from_being_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("redis is away")

    monkeypatch.setattr(cache, "add", away)
    assert post(Signer().notification("{}")).status_code == 200
    assert post(b"rubbish").status_code == 400


def test_only_posts_are_taken() -> None:
    response = Client().get("/hooks/sns/")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.usefixtures("known_certificate")
def test_hook_is_not_there_where_messages_go_directly(settings: Any) -> None:
    settings.NOTIFY_VIA = "direct"
    assert post(Signer().notification("{}")).status_code == 404
    nothing_happened()
