"""The outbox: what is put down, once, for whom, over which channel; and how it is taken back."""

from __future__ import annotations

import uuid
from collections import Counter
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from machines.models import User
from notifications import outbox
from notifications.models import Delivery, PushDevice
from tests.fakes.push_service import Answer, Browser
from tests.notifications.posting import VAPID_PRIVATE_KEY, message, post, subscribe, withdraw
from tests.sessions.rescues import fleet, person

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _all_channels(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY
    settings.PUSH_SERVICES = ["https://fcm.googleapis.com"]
    settings.NOTIFY_EMAIL_URL = "smtp://127.0.0.1:1025"
    settings.SMS = "sns"
    settings.NOTIFY_VIA = "direct"


def reachable(name: str, *devices: str, email: bool = True, phone: bool = False) -> User:
    user = person(name)
    user.email = f"{name.lower()}@example.com" if email else ""
    user.save()
    user.operator.phone, user.operator.wants_sms = "+390212345678", phone
    user.operator.save()
    for device in devices:
        subscribe(user, Browser(f"https://fcm.googleapis.com/{name}/{device}", [], Answer()), device)
    return user


def arrived(rows: list[Delivery]) -> None:
    """As the sender notes it."""
    now = timezone.now()
    Delivery.objects.filter(pk__in=[row.pk for row in rows]).update(state="sent", tries=1, sent_at=now, ended_at=now)


def channels(rows: list[Delivery]) -> Counter[tuple[str, str]]:
    return Counter((row.channel, row.device_name) for row in rows)


def test_each_channel_that_a_person_has_and_wants_gets_one_row() -> None:
    alice = reachable("Alice", "phone", "desk", phone=True)
    assert channels(post(alice)) == Counter([("web_push", "phone"), ("web_push", "desk"), ("email", ""), ("sms", "")])
    alice.operator.wants_email = alice.operator.wants_sms = False
    alice.operator.save()
    PushDevice.objects.filter(name="desk").update(disabled_at=timezone.now())
    assert channels(post(alice)) == Counter([("web_push", "phone")])


def test_channels_that_the_installation_lacks_are_not_used(settings: Settings) -> None:
    alice = reachable("Alice", "phone", phone=True)
    settings.SMS, settings.NOTIFY_EMAIL_URL, settings.VAPID_PRIVATE_KEY = "none", "", ""
    assert post(alice) == []
    with transaction.atomic():
        nobody = outbox.post_to_address(
            message(), email="a@example.com", phone="+390212345678", key="k", now=timezone.now()
        )
    assert nobody == []


def test_caller_may_choose_among_the_channels() -> None:
    alice = reachable("Alice", "phone", phone=True)
    with transaction.atomic():
        rows = outbox.post(message(), to=[alice], key="k", now=timezone.now(), channels={"email"})
    assert channels(rows) == Counter([("email", "")])


def test_posting_twice_with_one_key_is_one_message() -> None:
    alice, bob = reachable("Alice", "phone", "desk"), reachable("Bob", "phone")
    first = post(alice, key="press-1", title="First")
    again = post(alice, bob, key="press-1", title="Second")
    assert {row.pk for row in first} <= {row.pk for row in again}
    assert {row.title for row in again if row.recipient_id == alice.pk} == {"First"}
    assert len(again) == 5 == Delivery.objects.count()


def test_what_a_rolled_back_transaction_posted_was_never_posted() -> None:
    alice = reachable("Alice", "phone")
    with transaction.atomic():
        outbox.post(message(), to=[alice], key="k", now=timezone.now())
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()


def test_posting_to_many_costs_as_many_queries_as_to_one(django_assert_max_num_queries: DjangoAssertNumQueries) -> None:
    people = [reachable(f"Person{number}", "phone", "desk") for number in range(10)]
    with django_assert_max_num_queries(9):  # two of them are the transaction's, one locks rows where there are locks
        assert len(post(*people)) == 30


def test_address_of_last_resort_is_told_without_an_account() -> None:
    with transaction.atomic():
        rows = outbox.post_to_address(
            message(kind="last_resort"), email="desk@example.com", phone="+390212345678", key="k", now=timezone.now()
        )
    assert [(row.channel, row.address, row.recipient) for row in rows] == [
        ("email", "desk@example.com", None), ("sms", "+390212345678", None),
    ]  # fmt: skip


def test_words_are_made_to_fit_and_hold_no_control_characters() -> None:
    alice = reachable("Alice", "phone")
    row = post(alice, title="Help\r\nBcc: evil@example.com" + " far" * 100, body="a\x00b\r\nc\u2028d " + "long " * 500)[
        0
    ]
    assert row.title.startswith("Help Bcc: evil@example.com far") and row.title.endswith("far…")
    assert len(row.title) <= outbox.MAX_TITLE_CHARS and len(row.body) <= outbox.MAX_BODY_CHARS
    assert row.body.startswith("a b\nc") and "\x00" not in row.body


def test_standing_says_who_was_reached_over_any_channel() -> None:
    people = [reachable(name, "phone") for name in ("Alice", "Bob", "Carla", "Dan")]
    subject = uuid.uuid4()
    rows = post(*people, subject=subject)
    assert outbox.standing(subject) == {one.pk: "trying" for one in people}
    now = timezone.now()
    states = {"Alice": ("sent", "failed"), "Bob": ("failed", "pending"), "Carla": ("failed", "expired")}
    for row in rows:
        assert row.recipient is not None
        push_and_mail = states.get(row.recipient.first_name, ("withdrawn", "withdrawn"))
        state = push_and_mail[row.channel == "email"]
        Delivery.objects.filter(pk=row.pk).update(state=state, ended_at=None if state == "pending" else now)
    alice, bob, carla, dan = (one.pk for one in people)
    assert outbox.standing(subject) == {alice: "reached", bob: "trying", carla: "failed", dan: "none"}
    assert outbox.standing(subject, kinds={"handed_over"}) == {}
    assert outbox.standing(uuid.uuid4()) == {}


def test_withdrawing_before_anything_was_sent_disturbs_no_screen() -> None:
    alice = reachable("Alice", "phone")
    subject = uuid.uuid4()
    post(alice, subject=subject)
    assert withdraw(subject) == 2
    assert set(Delivery.objects.values_list("state", flat=True)) == {"withdrawn"}
    assert withdraw(subject) == 0


def test_withdrawal_replaces_each_screen_once_silently_and_again_after_a_new_round() -> None:
    alice = reachable("Alice", "phone", "desk", email=False)
    subject = uuid.uuid4()
    arrived(post(alice, subject=subject, key="round-1"))
    assert withdraw(subject) == 2
    assert withdraw(subject) == 0
    silent = Delivery.objects.filter(is_silent=True)
    assert {row.payload["tag"] for row in silent} == {f"rescue-{subject.hex}"}
    arrived(list(silent))

    arrived(post(alice, subject=subject, key="round-2"))
    assert withdraw(subject, words="It is over.") == 2
    assert Counter(silent.values_list("title", flat=True)) == {"Bob has it.": 2, "It is over.": 2}


def test_new_round_takes_back_the_silence_of_the_one_before() -> None:
    """Else a replacement that was late would silently take the new message off the screen."""
    alice = reachable("Alice", "phone", email=False)
    subject = uuid.uuid4()
    arrived(post(alice, subject=subject, key="round-1"))
    withdraw(subject)
    post(alice, subject=subject, key="round-2")
    assert dict(Delivery.objects.filter(state="pending").values_list("is_silent", "kind")) == {False: "asked"}


def test_message_on_its_way_while_it_is_withdrawn_is_replaced_afterwards() -> None:
    alice = reachable("Alice", "phone", email=False)
    subject = uuid.uuid4()
    (row,) = post(alice, subject=subject)
    now = timezone.now()
    Delivery.objects.update(lease_owner="one", lease_until=now + timedelta(seconds=30), tries=1)
    withdraw(subject)
    row.refresh_from_db()
    silent = Delivery.objects.get(is_silent=True)
    assert row.state == "withdrawn"
    assert silent.next_try_at > now + timedelta(seconds=5)


def test_device_that_never_got_it_for_good_is_not_replaced() -> None:
    alice = reachable("Alice", "phone", email=False)
    subject = uuid.uuid4()
    post(alice, subject=subject)
    Delivery.objects.update(state="failed", tries=1, ended_at=timezone.now())
    assert withdraw(subject) == 0


def test_withdrawal_without_a_replacement_leaves_screens_alone_and_kept_people_too() -> None:
    alice, bob = reachable("Alice", "phone", email=False), reachable("Bob", "phone", email=False)
    subject = uuid.uuid4()
    arrived(post(alice, subject=subject, key="one"))
    post(bob, subject=subject, key="two")
    with transaction.atomic():
        assert outbox.withdraw(subject, now=timezone.now(), replacement=None, keep={bob.pk}) == 0
        assert outbox.withdraw(subject, now=timezone.now(), replacement=None) == 1
    assert not Delivery.objects.filter(is_silent=True).exists()


def test_supervisors_read_what_failed_in_their_fleets_alone() -> None:
    alice, charlie = reachable("Alice", "phone", email=False), reachable("Charlie", "phone", email=False)
    north, south = fleet("North"), fleet("South")
    for user, owner, state in ((alice, north, "failed"), (alice, north, "sent"), (charlie, south, "expired")):
        (row,) = post(user, fleet=owner, title=state)
        Delivery.objects.filter(pk=row.pk).update(state=state, ended_at=timezone.now(), outcome=f"It {state}.")
    since = timezone.now() - timedelta(hours=1)
    assert [row.outcome for row in outbox.failures_for([north], since=since)] == ["It failed."]
    assert {row.title for row in outbox.recent_for([north])} == {"failed", "sent"}
    assert not outbox.failures_for([north], since=timezone.now() + timedelta(hours=1)).exists()
    assert not outbox.recent_for([]).exists()


def test_dead_processs_leases_are_freed_and_no_others() -> None:
    alice, bob = reachable("Alice", "phone", email=False), reachable("Bob", "phone", email=False)
    for user, owner in ((alice, "host:1:ab:sender"), (bob, "host:1:abc:sender")):
        Delivery.objects.filter(pk=post(user)[0].pk).update(
            lease_owner=owner, lease_until=timezone.now() + timedelta(seconds=30)
        )
    outbox.release("host:1:ab")
    assert Delivery.objects.get(recipient=alice).lease_until is None
    assert Delivery.objects.get(recipient=bob).lease_owner == "host:1:abc:sender"
