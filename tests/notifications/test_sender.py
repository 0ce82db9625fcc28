"""From a row in the outbox to a screen: a real sender, a real push service that really decrypts (F12)."""

from __future__ import annotations

import threading
import time
import uuid
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import OperationalError, transaction
from django.utils import timezone

from notifications import delivery_rows, outbox, sender, subscriptions
from notifications.channels import email, web_push
from notifications.models import Delivery, PushDevice
from tests.fakes.mail_server import MailServer
from tests.fakes.push_service import Answer, PushService
from tests.notifications.posting import VAPID_PUBLIC_KEY, message, post, sending, subscribe, withdraw
from tests.sessions.rescues import Clock, person
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

# Until it is told otherwise (PushService.end_stalls).
STALLS = Answer(201, stall_s=600)


def ended(delivery: Delivery) -> Delivery:
    """The row, as soon as it is no longer pending."""
    until(lambda: not Delivery.objects.filter(pk=delivery.pk, state="pending").exists(), "the delivery has ended")
    return Delivery.objects.get(pk=delivery.pk)


def test_message_reaches_each_of_a_persons_devices_with_the_right_headers(push_service: PushService) -> None:
    alice = person("Alice")
    phone, desk = push_service.browser(), push_service.browser()
    subscribe(alice, phone), subscribe(alice, desk, "desk")
    subject = uuid.uuid4()
    with sending():
        posted = post(alice, subject=subject)
        push_service.wait_for(2)
        rows = [ended(row) for row in posted]

    assert {row.state for row in rows} == {"sent"}
    assert {row.outcome for row in rows} == {"The push service took it."}
    (push,) = phone.pushes
    at = posted[0].created_at.isoformat().replace("+00:00", "Z")
    assert push.payload == {
        "v": 1, "kind": "asked", "title": "Help at Stazione Centrale", "body": "A1, Milano · E17 · 07:40 there",
        "url": f"/sessions/{subject}/", "tag": f"rescue-{subject.hex}", "subject": str(subject),
        "actions": ["claim", "open"], "silent": False, "at": at,
    }  # fmt: skip
    assert push.headers["urgency"] == "high"
    assert int(posted[0].expires_at.timestamp() - push.wall_at) <= int(push.headers["ttl"]) <= 600
    assert push.topic == desk.pushes[0].topic
    assert push.headers["authorization"] == desk.pushes[0].headers["authorization"], "signed once, for both"
    device = PushDevice.objects.get(name="phone")
    assert device.last_sent_at is not None and device.failures == 0
    assert push_service.problems == []


def test_every_good_device_is_reached_at_once_while_many_others_fail_in_all_ways(push_service: PushService) -> None:
    inward = Answer(307, {"Location": f"{push_service.origin}/inside"})
    bad = [Answer(404), Answer(410), Answer(429, {"Retry-After": "60"}), Answer(500), inward]
    stalling = [STALLS] * 12
    people = [person(f"Person{number}") for number in range(4)]
    good = []
    for number, answer in enumerate([*bad * 2, *stalling]):
        subscribe(people[number % 4], push_service.browser(always=answer))
    for number in range(20):
        good.append(push_service.browser())
        subscribe(people[number % 4], good[-1])
    with sending():
        post(*people)
        # While the others go on stalling: nothing ends that here.
        until(lambda: all(browser.pushes for browser in good), "all good devices were reached")
        until(lambda: Delivery.objects.filter(state="sent").count() == 20, "and it is written down")
        until(lambda: Delivery.objects.filter(state="failed").count() == 6, "and so are the refusals")
        push_service.end_stalls()
        until(lambda: Delivery.objects.filter(state="sent").count() == 32, "in the end those arrived, too")
    assert [problem for problem in push_service.problems if "/inside" in problem] == []
    # Those that answered 404 or 410 are gone for good: their owners read it, and nothing is sent to them any more.
    gone = PushDevice.objects.exclude(disabled_at=None)
    assert [device.last_problem for device in gone] == [subscriptions.GONE] * 4
    assert [len(browser.pushes) for browser in good] == [1] * 20


def test_device_that_stalls_is_given_up_for_now_and_tried_again(
    push_service: PushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_push, "TIMEOUT_S", 1.0)
    alice = person("Alice")
    phone = push_service.browser(STALLS)
    subscribe(alice, phone)
    with sending():
        (row,) = post(alice)
        until(lambda: Delivery.objects.filter(outcome="127.0.0.1 did not answer within 1 s.").exists(), "it is said")
        assert ended(row).state == "sent"
    assert len(phone.pushes) >= 2


def test_more_stalling_devices_than_places_keep_no_good_one_waiting(push_service: PushService, settings: Any) -> None:
    settings.SENDER_AT_ONCE = 4
    alice, bob = person("Alice"), person("Bob")
    for _ in range(6):
        subscribe(alice, push_service.browser(always=STALLS))
    good = push_service.browser()
    subscribe(bob, good)
    with sending():
        post(alice)
        push_service.wait_for(4)
        post(bob)  # behind two more that stall
        until(lambda: good.pushes, "Bob was reached before any stall ended")
        push_service.end_stalls()


def test_backlog_for_stalling_devices_keeps_nobody_else_waiting(push_service: PushService, settings: Any) -> None:
    """As of a fleet in which help is pressed everywhere, and whose people's telephones are of no use."""
    settings.SENDER_AT_ONCE = 4
    alice, charlie = person("Alice"), person("Charlie", of="South")
    for _ in range(2):
        subscribe(alice, push_service.browser(always=STALLS))
    good = push_service.browser()
    subscribe(charlie, good)
    for _ in range(20):
        post(alice)
    with sending():
        push_service.wait_for(4)
        post(charlie)
        until(lambda: good.pushes, "Charlie was reached before any stall ended")
        push_service.end_stalls()


def test_push_service_that_stalls_with_many_devices_leaves_half_of_the_places_to_others(
    push_service: PushService, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SENDER_AT_ONCE = 8
    # The sender's seconds: what has just begun hangs when a second is over, and that is when we say so.
    seconds = [1000.0]
    monkeypatch.setattr(sender, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    alice, bob, carla = person("Alice"), person("Bob"), person("Carla")
    with PushService(vapid_public_key=VAPID_PUBLIC_KEY) as other:
        settings.PUSH_SERVICES = [push_service.origin, other.origin]
        for number in range(40):
            subscribe((alice, carla)[number % 2], push_service.browser(always=STALLS))
        subscribe(bob, other.browser())
        post(alice, carla)
        with sending():
            for round, stalling in enumerate((8, 12, 16, 16)):
                push_service.wait_for(stalling)
                # Eight may have just begun. At first that is all of them; then half of it, at most, stalls with more.
                if round:
                    post(bob)  # behind all that is left for the others
                    other.wait_for(round)
                assert len(push_service.pushes) == stalling
                seconds[0] += 1
            push_service.end_stalls()
        assert other.problems == []


def test_push_service_that_asks_for_patience_gets_it_and_the_message_arrives(push_service: PushService) -> None:
    clock = Clock()
    phone = push_service.browser(Answer(429, {"Retry-After": "2"}), Answer(503))
    alice, bob = person("Alice"), person("Bob")
    subscribe(alice, phone), subscribe(bob, push_service.browser())

    def next_try(row: Delivery, *, tries: int) -> float:
        """After how many seconds it is tried again, when it was tried so often."""
        until(lambda: Delivery.objects.filter(pk=row.pk, tries=tries, lease_until=None).exists(), f"{tries} tries")
        return (Delivery.objects.get(pk=row.pk).next_try_at - clock()).total_seconds()

    with sending(now=clock):
        (row,) = post(alice, now=clock())
        assert next_try(row, tries=1) == 2, "as the push service said"
        clock.tick(1.9)
        (other,) = post(bob, now=clock())
        assert ended(other).state == "sent"  # so it has looked
        assert len(phone.pushes) == 1
        clock.tick(0.1)
        assert 2 <= next_try(row, tries=2) <= 3, "as nobody said otherwise"
        clock.tick(3)
        assert ended(row).state == "sent"
    first, second, third = phone.pushes
    assert first.topic == second.topic == third.topic
    assert PushDevice.objects.get(user=alice).last_problem == ""


def test_message_that_cannot_arrive_in_time_ends_at_once_in_words(push_service: PushService) -> None:
    alice = person("Alice")
    subscribe(alice, push_service.browser(always=Answer(429, {"Retry-After": "3000"})))
    with sending():
        (row,) = post(alice)
        assert ended(row).state == "expired"
        assert ended(row).outcome == "Not sent in time: 127.0.0.1 answered 429."
        assert outbox.standing(row.subject) == {alice.pk: "failed"}  # type: ignore[arg-type]


def test_what_is_out_of_time_is_never_sent(push_service: PushService) -> None:
    alice = person("Alice")
    phone = push_service.browser()
    subscribe(alice, phone)
    (late,) = post(alice, expires_at=timezone.now() - timedelta(seconds=1))
    with sending():
        assert ended(late).state == "expired"
    assert phone.pushes == []


def test_device_refused_five_times_is_switched_off_and_says_why(push_service: PushService) -> None:
    phone = push_service.browser(always=Answer(403))
    alice = person("Alice")
    subscribe(alice, phone)
    with sending():
        for count in range(1, 6):
            (row,) = post(alice)
            assert ended(row).state == "failed"
            assert PushDevice.objects.get().failures == count
        assert post(alice) == []
    device = PushDevice.objects.get()
    assert device.disabled_at is not None
    assert device.last_problem.startswith("Switched off after 5 refusals in a row: 127.0.0.1 answered 403.")
    assert len(phone.pushes) == 5


def test_device_that_took_messages_of_late_is_not_switched_off(push_service: PushService) -> None:
    """Our own clock or key may be wrong for an hour: then push services refuse all devices alike."""
    alice = person("Alice")
    subscribe(alice, push_service.browser(*[Answer(403)] * 6))
    PushDevice.objects.update(last_sent_at=timezone.now() - timedelta(hours=3))
    with sending():
        for _ in range(6):
            (row,) = post(alice)
            assert ended(row).state == "failed"
        (row,) = post(alice)
        assert ended(row).state == "sent"


def test_one_success_ends_the_count_of_refusals(push_service: PushService) -> None:
    alice = person("Alice")
    device = subscribe(alice, push_service.browser())
    PushDevice.objects.update(failures=4, last_problem="127.0.0.1 answered 403.")
    with sending():
        (row,) = post(alice)
        assert ended(row).state == "sent"
    device.refresh_from_db()
    assert (device.failures, device.last_problem) == (0, "")


def test_message_that_the_judge_no_longer_wants_is_withdrawn_and_not_sent(push_service: PushService) -> None:
    alice, bob = person("Alice"), person("Bob")
    phones = {one: push_service.browser() for one in (alice, bob)}
    for one, phone in phones.items():
        subscribe(one, phone)
    asked: list[tuple[Any, ...]] = []

    def judge(*about: Any) -> bool:
        asked.append(about)
        return bool(about[2] == bob.pk)

    outbox.register_judge(judge)
    subject = uuid.uuid4()
    with sending():
        rows = {row.recipient_id: row for row in post(alice, bob, subject=subject)}
        assert ended(rows[alice.pk]).state == "withdrawn"
        assert ended(rows[bob.pk]).state == "sent"
    assert phones[alice].pushes == [] and len(phones[bob].pushes) == 1
    assert sorted(asked) == sorted((subject, "asked", one.pk) for one in (alice, bob))


def test_judge_that_fails_keeps_nobody_from_being_told(push_service: PushService) -> None:
    alice = person("Alice")
    subscribe(alice, push_service.browser())
    outbox.register_judge(lambda *_: 1 / 0 > 1)
    with sending():
        (row,) = post(alice)
        assert ended(row).state == "sent"


def test_two_senders_send_each_row_once(push_service: PushService) -> None:
    people = [person(f"Person{number}") for number in range(5)]
    for number in range(40):
        subscribe(people[number % 5], push_service.browser())
    with sending("first:1"), sending("second:1"):
        for _ in range(3):
            post(*people)
        until(lambda: Delivery.objects.filter(state="sent").count() == 120, "all are sent")
    assert len(push_service.pushes) == 120
    assert len({(push.browser.endpoint, push.topic) for push in push_service.pushes}) == 120


def test_lease_of_another_sender_is_respected_until_it_ends_or_its_process_is_dead(push_service: PushService) -> None:
    alice, bob = person("Alice"), person("Bob")
    phone = push_service.browser()
    subscribe(alice, phone), subscribe(bob, push_service.browser())
    (row,) = post(alice)
    Delivery.objects.update(lease_owner="dead:sender", lease_until=timezone.now() + timedelta(seconds=30), tries=1)
    with sending():
        (other,) = post(bob)
        assert ended(other).state == "sent"  # so it has looked
        assert phone.pushes == []
        with transaction.atomic():
            outbox.release("dead")
        assert ended(row).state == "sent"
    assert len(phone.pushes) == 1


def test_sender_survives_a_database_that_is_away(push_service: PushService, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = person("Alice")
    phone = push_service.browser()
    subscribe(alice, phone)
    is_away = threading.Event()
    met: list[str] = []

    def away(name: str) -> None:
        real = getattr(delivery_rows, name)

        def act(*arguments: Any, **how: Any) -> Any:
            if is_away.is_set():
                met.append(name)
                raise OperationalError("away")
            return real(*arguments, **how)

        monkeypatch.setattr(delivery_rows, name, act)

    for name in ("lease", "settle"):
        away(name)
    push_service.hold()
    with sending():
        (row,) = post(alice)
        push_service.wait_for(1)
        is_away.set()
        push_service.let_go()
        until(lambda: "settle" in met, "the result could not be written down")
        is_away.clear()
        assert ended(row).state == "sent"
    assert len(phone.pushes) == 1, "what was sent is written down later, not sent again"


def test_claim_takes_back_what_is_unsent_and_replaces_what_is_on_screens_once(push_service: PushService) -> None:
    alice, bob, charles = person("Alice"), person("Bob"), person("Charles")
    phones = {one.pk: push_service.browser() for one in (alice, bob, charles)}
    for one in (alice, bob, charles):
        subscribe(one, phones[one.pk])
    phones[charles.pk].answers = [Answer(503, {"Retry-After": "60"})]
    subject = uuid.uuid4()
    with sending():
        rows = {row.recipient_id: row for row in post(alice, bob, charles, subject=subject)}
        for one in (alice, bob):
            ended(rows[one.pk])
        until(
            lambda: Delivery.objects.filter(recipient=charles, tries=1, lease_until=None).exists(), "Charles' is tried"
        )
        withdraw(subject, keep=(bob.pk,))
        withdraw(subject, keep=(bob.pk,))
        push_service.wait_for(5)
        until(lambda: not Delivery.objects.filter(state="pending").exists(), "all has ended")
    for one in (alice, charles):
        first, second = phones[one.pk].pushes
        assert second.topic == first.topic
        assert second.payload["tag"] == first.payload["tag"]
        assert (second.payload["silent"], second.payload["title"]) == (True, "Bob has it.")
    assert len(phones[bob.pk].pushes) == 1, "who claimed it reads nothing new"
    assert ended(rows[charles.pk]).state == "withdrawn"
    assert outbox.standing(subject) == {alice.pk: "reached", bob.pk: "reached", charles.pk: "none"}


def test_replacement_comes_after_the_message_that_was_on_its_way(
    push_service: PushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When nobody says what became of the first, it comes after so long; here somebody says it.
    monkeypatch.setattr(outbox, "_UNDER_WAY", timedelta(hours=1))
    alice, bob = person("Alice"), person("Bob")
    phone, other = push_service.browser(), push_service.browser()
    subscribe(alice, phone), subscribe(bob, other)
    subject = uuid.uuid4()
    push_service.hold()
    with sending("first:1"), sending("second:1"):
        (row,) = post(alice, subject=subject)
        push_service.wait_for(1)
        withdraw(subject)
        post(bob)
        push_service.wait_for(2)  # so one has looked
        assert len(phone.pushes) == 1, "not before the first was answered"
        push_service.let_go()
        push_service.wait_for(3)
        until(lambda: not Delivery.objects.filter(state="pending").exists(), "all has ended")
    asked, taken = phone.pushes
    assert (asked.payload["kind"], taken.payload["kind"]) == ("asked", "taken")
    assert ended(row).state == "withdrawn"


def test_device_that_changed_hands_gets_nothing_of_its_former_owners(push_service: PushService) -> None:
    alice, bob = person("Alice"), person("Bob")
    browser = push_service.browser()
    subscribe(alice, browser)
    (row,) = post(alice)
    subscribe(bob, browser, "shared")
    with sending():
        assert ended(row).state == "withdrawn"
        (for_bob,) = post(bob, title="For Bob")
        ended(for_bob)
    assert [push.payload["title"] for push in browser.pushes] == ["For Bob"]


def test_person_switched_off_after_posting_is_told_nothing(push_service: PushService) -> None:
    alice = person("Alice")
    browser = push_service.browser()
    subscribe(alice, browser)
    (row,) = post(alice)
    alice.is_active = False
    alice.save()
    with sending():
        assert ended(row).state == "failed"
    assert browser.pushes == []
    assert post(alice) == []


def test_mail_and_push_go_side_by_side_and_a_stalling_mail_server_delays_no_push(
    push_service: PushService, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("TIMEOUT_S", "LONGEST_S"):
        monkeypatch.setattr(email, limit, 600)  # nothing but the mail server ends its stall
    alice = person("Alice")
    alice.email = "alice@example.com"
    alice.save()
    phone = push_service.browser()
    subscribe(alice, phone)
    mail_server.hold()
    with sending():
        for number in range(8):
            post(alice, title=f"Help {number}")
        push_service.wait_for(8)
        assert mail_server.mails == []
        mail_server.let_go()
        mail_server.wait_for(8)
        until(lambda: Delivery.objects.filter(state="sent").count() == 16, "all is written down")


def test_sender_stops_within_moments_and_what_it_was_sending_is_written_down(push_service: PushService) -> None:
    alice = person("Alice")
    subscribe(alice, push_service.browser(Answer(201, stall_s=0.3)))
    with sending():
        (row,) = post(alice)
        push_service.wait_for(1)
    row.refresh_from_db()
    assert row.state == "sent"


def test_what_ended_long_ago_is_forgotten_while_nothing_is_to_be_sent(
    push_service: PushService, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    real = delivery_rows.forget_old

    def look(**how: Any) -> int:
        looks.append(time.monotonic())
        return real(**how)

    monkeypatch.setattr(delivery_rows, "forget_old", look)
    alice = person("Alice")
    subscribe(alice, push_service.browser())
    (old,), (young,) = post(alice), post(alice)
    long_ago = timezone.now() - timedelta(days=91)
    Delivery.objects.filter(pk=old.pk).update(state="sent", ended_at=long_ago)
    with sending(sees_to_the_rest=False):
        assert ended(young).state == "sent"
    assert looks == [], "another process' sender does"
    with sending():
        until(lambda: not Delivery.objects.filter(pk=old.pk).exists(), "the old one was forgotten")
        (newest,) = post(alice)
        assert ended(newest).state == "sent"
    assert len(looks) == 1, "once a minute"
    assert Delivery.objects.count() == 2


def test_message_rung_for_waits_for_no_poll(push_service: PushService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "POLL_S", 600.0)
    alice = person("Alice")
    subscribe(alice, push_service.browser())
    with sending():
        for number in range(10):
            (row,) = post(alice, title=f"Help {number}")
            push_service.wait_for(number + 1)
            ended(row)  # then the sender has nothing to do until it hears the bell


def test_message_says_nothing_of_how_it_is_kept(push_service: PushService) -> None:
    """The words of `message()` and its addresses are all there is: no key, no endpoint, no e-mail address."""
    alice = person("Alice")
    alice.email = "alice@example.com"
    alice.save()
    phone = push_service.browser()
    subscribe(alice, phone)
    with sending():
        post(alice, title=message().title)
        push_service.wait_for(1)
    assert set(phone.pushes[0].payload) == {
        "v", "kind", "title", "body", "url", "tag", "subject", "actions", "silent", "at",
    }  # fmt: skip
