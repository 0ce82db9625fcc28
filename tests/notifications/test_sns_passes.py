"""What the worker does about SNS: each thing once, again when it fails, and said in words when it stays wrong."""

from __future__ import annotations

import http.client
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import connection, transaction

from machines.models import SecurityEvent
from notifications import outbox, sns, sns_certificates, sns_health
from notifications.channels.base import DeliveryError
from notifications.models import Delivery, SnsAnnouncement, SnsCertificate, SnsConfirmation, SnsMessage
from notifications.sns_certificates import CannotFetch, fetch_from_sns
from notifications.sns_messages import Topic, topic_of
from notifications.sns_passes import SnsPasses
from tests.fakes.push_service import PushService
from tests.notifications.posting import message, post, subscribe
from tests.notifications.sns_signer import CERTIFICATE_URL, HOST, TOKEN, TOPIC, certificate
from tests.sessions.rescues import Clock, person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("through_sns")]

THE_TOPIC = topic_of(TOPIC)


class Sns:
    """An SNS that keeps what it is told, and refuses while it has words for it."""

    def __init__(self) -> None:
        self.published: list[list[str]] = []
        self.confirmed: list[str] = []
        self.refusal: DeliveryError | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    def publish(self, topic: Topic, text: str) -> str:
        assert topic == THE_TOPIC
        self.meanwhile()
        if self.refusal:
            raise self.refusal
        self.published.append(json.loads(text)["announcements"])
        return f"m-{len(self.published)}"

    def confirm(self, topic: Topic, token: str) -> str:
        self.meanwhile()
        self.confirmed.append(token)
        if self.refusal:
            raise self.refusal
        return f"{topic.arn}:s-1"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cloud() -> Sns:
    return Sns()


@pytest.fixture
def passes(cloud: Sns, clock: Clock) -> SnsPasses:
    return SnsPasses(THE_TOPIC, now=clock, publish=cloud.publish, confirm=cloud.confirm, fetch=lambda _: b"")


def announce(clock: Clock, key: str = "asked:1") -> SnsAnnouncement:
    """An announcement of one push."""
    subject = uuid.uuid4()
    values = {"kind": "asked", "channel": "web_push", "title": "Help", "expires_at": clock() + timedelta(minutes=9)}
    Delivery.objects.create(subject=subject, key=f"{key}:7:web_push:1", next_try_at=clock() + sns.grace(), **values)
    sns.announce(subject=subject, key=key, now=clock())
    return SnsAnnouncement.objects.get(key=key)


def due(clock: Clock) -> set[uuid.UUID | None]:
    return set(Delivery.objects.filter(next_try_at__lte=clock()).values_list("subject", flat=True))


def test_announcements_go_in_one_message_and_say_nothing_but_their_names(
    passes: SnsPasses, cloud: Sns, clock: Clock
) -> None:
    rows = [announce(clock, f"asked:{number}") for number in range(3)]
    assert passes.run_announcements() == 3
    assert passes.run_announcements() == 0
    assert sorted(cloud.published[0]) == sorted(str(one.pk) for one in rows) and len(cloud.published) == 1
    assert set(SnsAnnouncement.objects.values_list("message_id", "published_at")) == {("m-1", clock())}
    assert due(clock) == set()


def test_two_workers_publish_an_announcement_once(passes: SnsPasses, cloud: Sns, clock: Clock) -> None:
    announce(clock)
    other = SnsPasses(THE_TOPIC, now=clock, publish=cloud.publish)
    took: list[int] = []
    cloud.meanwhile = lambda: took.append(other.run_announcements())
    assert passes.run_announcements() == 1
    assert took == [0] and len(cloud.published) == 1


def test_what_sns_does_not_take_is_due_at_once_without_it(passes: SnsPasses, cloud: Sns, clock: Clock) -> None:
    cloud.refusal = DeliveryError("sns:Publish: NOTIFY_SNS_TOPIC names what is not there in eu-west-1.", permanent=True)
    mine = announce(clock)
    clock.tick(0.1)
    assert passes.run_announcements() == 0
    assert due(clock) == {mine.subject}
    assert passes.run_announcements() == 0
    mine.refresh_from_db()
    assert mine.published_at is None and "NOTIFY_SNS_TOPIC" in mine.problem
    (sentence,) = sns_health.sentences(now=clock())
    assert "its messages went out without it" in sentence and "NOTIFY_SNS_TOPIC" in sentence


def test_announcement_whose_grace_is_over_is_not_published_any_more(
    passes: SnsPasses, cloud: Sns, clock: Clock
) -> None:
    mine = announce(clock)
    clock.tick(60)
    assert passes.run_announcements() == 0 and cloud.published == []
    mine.refresh_from_db()
    assert "SNS_GRACE_S" in mine.problem
    assert due(clock) == {mine.subject}


def test_press_waits_for_sns_and_nothing_else_does(push_service: PushService, clock: Clock, settings: Any) -> None:
    alice = person("Alice")
    subscribe(alice, push_service.browser()), subscribe(alice, push_service.browser(), "desk")
    alice.email = "alice@example.com"
    alice.save()
    settings.NOTIFY_EMAIL_URL = "smtp://127.0.0.1:1"
    rows = post(alice, key="asked:1", now=clock())
    rows += post(alice, key="asked:1", now=clock())  # twice is once
    waits = {(row.channel, (row.next_try_at - clock()).total_seconds()) for row in rows}
    assert waits == {("web_push", 60.0), ("email", 0.0)}
    assert SnsAnnouncement.objects.get().subject == rows[0].subject
    of_nothing = replace(message(), subject=None)
    with transaction.atomic():
        at_once = outbox.post(of_nothing, to=[alice], key="test:1", now=clock())
    at_once += post(alice, key="taken:1", now=clock(), is_silent=True)
    assert {row.next_try_at for row in at_once} == {clock()}
    assert SnsAnnouncement.objects.count() == 1
    assert sns.bring_forward(SnsAnnouncement.objects.all(), now=clock()) == 2
    settings.NOTIFY_VIA = "direct"
    assert {row.next_try_at for row in post(alice, key="asked:2", now=clock())} == {clock()}
    assert SnsAnnouncement.objects.count() == 1


def confirmation(clock: Clock, **over: Any) -> SnsConfirmation:
    values = {"kind": "subscribe", "topic": TOPIC, "token": TOKEN, "asked_at": clock(), "next_try_at": clock()}
    return SnsConfirmation.objects.create(**{**values, "message_id": uuid.uuid4().hex, **over})


def test_subscription_is_confirmed_once_and_its_token_forgotten(passes: SnsPasses, cloud: Sns, clock: Clock) -> None:
    row = confirmation(clock)
    with connection.cursor() as cursor:
        cursor.execute("SELECT token FROM notifications_snsconfirmation")
        assert TOKEN not in cursor.fetchone()[0]
    other = SnsPasses(THE_TOPIC, now=clock, confirm=cloud.confirm)
    cloud.meanwhile = other.run_chores
    passes.run_chores()
    passes.run_chores()
    row.refresh_from_db()
    assert (row.token, row.next_try_at, row.subscription) == (None, None, f"{TOPIC}:s-1")
    assert row.confirmed_at == clock() and cloud.confirmed == [TOKEN]
    assert SecurityEvent.objects.filter(kind="sns_subscribed").count() == 1
    assert sns_health.sentences(now=clock()) == []


def test_two_workers_that_saw_the_same_work_do_it_once(passes: SnsPasses, cloud: Sns, clock: Clock) -> None:
    urls = [CERTIFICATE_URL.replace("0123", start) for start in ("aaaa", "bbbb")]
    for number, url in enumerate(urls):
        confirmation(clock, token=f"token{number}", next_try_at=clock() - timedelta(seconds=2 - number))
        SnsCertificate.objects.create(url=url, next_try_at=clock())
    fetched: list[str] = []

    def fetch(url: str) -> bytes:
        fetched.append(url)
        if len(fetched) == 1:  # while the first is on its way, another worker does what is left
            SnsPasses(THE_TOPIC, now=clock, confirm=cloud.confirm, fetch=fetch).run_chores()
        return certificate().encode()

    passes.fetch = fetch
    cloud.meanwhile = lambda: None if len(cloud.confirmed) > 1 else other.run_chores()
    other = SnsPasses(THE_TOPIC, now=clock, confirm=cloud.confirm, fetch=fetch)
    passes.run_chores()
    assert sorted(fetched) == urls
    assert sorted(cloud.confirmed) == ["token0", "token1"]


def test_confirmation_is_tried_again_ever_later_until_it_is_done(passes: SnsPasses, cloud: Sns, clock: Clock) -> None:
    row = confirmation(clock)
    cloud.refusal = DeliveryError("sns:ConfirmSubscription: the credentials may not do this.", permanent=True)
    for expected in (5, 10, 20):
        passes.run_chores()
        row.refresh_from_db()
        assert row.next_try_at == clock() + timedelta(seconds=expected)
        clock.tick(expected - 1)
        passes.run_chores()  # not yet
        clock.tick(1)
    assert len(cloud.confirmed) == 3 and row.token == TOKEN
    assert "is not confirmed. sns:ConfirmSubscription" in sns_health.sentences(now=clock())[0]
    cloud.refusal = None
    passes.run_chores()
    row.refresh_from_db()
    assert row.confirmed_at is not None and row.problem == ""


def test_confirmation_that_can_no_longer_be_is_given_up_in_words(passes: SnsPasses, cloud: Sns, clock: Clock) -> None:
    cloud.refusal = DeliveryError("SNS no longer takes the token of its own question.", is_gone=True)
    gone, stranger, late = confirmation(clock), confirmation(clock, topic=f"{TOPIC}2"), confirmation(clock)
    SnsConfirmation.objects.filter(pk=late.pk).update(asked_at=clock() - timedelta(days=3))
    passes.run_chores()
    for row in (gone, stranger, late):
        row.refresh_from_db()
        assert row.token is None and row.next_try_at is None and row.confirmed_at is None and row.problem
    assert cloud.confirmed == [TOKEN]


def test_subscription_that_was_ended_is_said_until_there_is_another(passes: SnsPasses, clock: Clock) -> None:
    assert sns_health.sentences(now=clock()) == []
    confirmation(clock)
    passes.run_chores()
    confirmation(clock, kind="unsubscribe", token=None, next_try_at=None, asked_at=clock.tick(60))
    (sentence,) = sns_health.sentences(now=clock())
    assert "was ended at AWS" in sentence and "subscribe /hooks/sns/" in sentence
    passes.run_chores()
    assert len(sns_health.sentences(now=clock())) == 1, "nothing undoes it by itself"
    confirmation(clock, asked_at=clock.tick(60))
    passes.run_chores()
    assert sns_health.sentences(now=clock()) == []


def test_sns_that_takes_and_never_calls_is_said(passes: SnsPasses, clock: Clock, settings: Any) -> None:
    announce(clock, "asked:1"), announce(clock, "asked:2")
    passes.run_announcements()
    assert sns_health.sentences(now=clock()) == []
    clock.tick(61)
    (sentence,) = sns_health.sentences(now=clock())
    assert "took 2 announcements" in sentence and "/hooks/sns/" in sentence
    SnsAnnouncement.objects.filter(key="asked:1").update(heard_at=clock())
    assert sns_health.sentences(now=clock()) == []
    settings.NOTIFY_VIA = "direct"
    SnsAnnouncement.objects.update(heard_at=None)
    assert sns_health.sentences(now=clock()) == []


def test_certificate_is_tried_a_few_times_and_given_up_in_words(clock: Clock) -> None:
    SnsCertificate.objects.create(url=CERTIFICATE_URL, next_try_at=clock())
    asked: list[str] = []

    def away(url: str) -> bytes:
        asked.append(url)
        raise CannotFetch("sns.eu-west-1.amazonaws.com cannot be reached (TimeoutError)")

    for _ in range(20):
        assert sns_certificates.fetch_due(THE_TOPIC, now=clock, fetch=away) == 0
        clock.tick(700)
    assert asked == [CERTIFICATE_URL] * sns_certificates.TRIES
    assert sns_certificates.note(CERTIFICATE_URL, THE_TOPIC, now=clock()) is False
    assert "could not be fetched: sns.eu-west-1" in sns_health.sentences(now=clock())[0]


def test_certificate_of_the_region_of_a_former_topic_is_not_fetched(clock: Clock) -> None:
    SnsCertificate.objects.create(url=CERTIFICATE_URL, next_try_at=clock())
    elsewhere = topic_of("arn:aws:sns:us-east-1:123456789012:portafilter")
    asked: list[str] = []
    sns_certificates.fetch_due(elsewhere, now=clock, fetch=lambda url: asked.append(url) or b"")  # type: ignore[func-returns-value]
    assert asked == [] and SnsCertificate.objects.get().problem
    with pytest.raises(ValueError, match="certificate"):
        sns_certificates.note("https://evil.example/x.pem", THE_TOPIC, now=clock())


def test_what_was_heard_is_kept_for_two_days(passes: SnsPasses, clock: Clock) -> None:
    for hours in (1, 47, 49):
        SnsMessage.objects.create(message_id=str(hours), heard_at=clock() - timedelta(hours=hours))
    announce(clock)
    SnsAnnouncement.objects.update(created_at=clock() - timedelta(days=8), taken_at=clock())
    passes.run_chores()
    assert set(SnsMessage.objects.values_list("message_id", flat=True)) == {"1", "47"}
    assert not SnsAnnouncement.objects.exists()


class Host:
    """Answers as SNS' host would, or as it should not."""

    def __init__(self) -> None:
        self.status, self.content, self.drip_s = 200, certificate().encode(), 0.0
        self.may_send = threading.Event()
        self.may_send.set()
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.send_response(outer.status)
                self.send_header("Location", f"http://127.0.0.1:{outer.port}/inside")
                self.send_header("Content-Length", str(len(outer.content)))
                self.end_headers()
                outer.may_send.wait()
                try:
                    for start in range(0, len(outer.content), 100 if outer.drip_s else 65536):
                        self.wfile.write(outer.content[start : start + (100 if outer.drip_s else 65536)])
                        time.sleep(outer.drip_s)
                except OSError:
                    pass

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


def test_settled_confirmations_go_after_a_time_but_for_the_last_of_a_topic(passes: SnsPasses, clock: Clock) -> None:
    kept: set[str] = set()

    def asked(name: str, *, days: int, topic: str = TOPIC, is_waiting: bool = False, stays: bool) -> None:
        at = clock() - timedelta(days=days)
        due = clock() + timedelta(hours=1) if is_waiting else None
        SnsConfirmation.objects.create(
            kind="subscribe", topic=topic, message_id=name, asked_at=at, next_try_at=due, confirmed_at=at
        )
        kept.update({name} if stays else ())

    asked("old", days=91, stays=False)
    asked("waiting", days=99, is_waiting=True, stays=True)
    asked("young", days=89, stays=True)
    asked("older of another topic", days=200, topic=f"{TOPIC}-before", stays=False)
    asked("last of another topic", days=150, topic=f"{TOPIC}-before", stays=True)
    passes.run_chores()
    assert set(SnsConfirmation.objects.values_list("message_id", flat=True)) == kept


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made, dialled = Host(), []

    class Plain(http.client.HTTPConnection):
        """The same without TLS, to the host of the test, whatever was asked for."""

        def __init__(self, host: str, port: int, *, timeout: float, context: Any) -> None:
            dialled.append((host, port, context.check_hostname, context.verify_mode.name))
            super().__init__("127.0.0.1", made.port, timeout=timeout)

    monkeypatch.setattr(http.client, "HTTPSConnection", Plain)
    yield made
    made.may_send.set()
    made.server.shutdown()
    made.server.server_close()
    assert set(dialled) <= {("sns.eu-west-1.amazonaws.com", 443, True, "CERT_REQUIRED")}


def test_certificate_is_fetched_from_the_host_that_it_names(host: Host) -> None:
    assert fetch_from_sns(CERTIFICATE_URL) == host.content
    assert host.asked == [CERTIFICATE_URL.removeprefix(HOST)]


def test_fetching_follows_nobody_reads_no_more_and_waits_no_longer(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for status in (301, 302, 307, 404, 500):
        host.status = status
        with pytest.raises(CannotFetch, match=str(status)):
            fetch_from_sns(CERTIFICATE_URL)
    assert len(host.asked) == 5, "no redirect was followed"
    host.status, host.content = 200, b"x" * (sns_certificates.SIZE_LIMIT + 1)
    with pytest.raises(CannotFetch, match="more than"):
        fetch_from_sns(CERTIFICATE_URL)
    monkeypatch.setattr(sns_certificates, "_TIMEOUT_S", 0.5)
    host.content, host.drip_s = b"x" * 8000, 0.05
    with pytest.raises(CannotFetch, match=r"longer than|cannot be reached"):
        fetch_from_sns(CERTIFICATE_URL)
    host.may_send.clear()
    with pytest.raises(CannotFetch, match="cannot be reached"):
        fetch_from_sns(CERTIFICATE_URL)
