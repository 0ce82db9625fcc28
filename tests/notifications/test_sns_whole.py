"""The whole way through SNS: a real sender, moto's real SNS server, the hook, and a push service that decrypts.

Moto signs what it posts, each message by a certificate of its own; it posts once and asks for no confirmation. What
stands between it and the hook comes again after a 503, as SNS would, only sooner.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
from django.db import connections
from django.test import Client
from django.utils import timezone

from notifications import bell, sns, sns_certificates, sns_health
from notifications.channels import base
from notifications.channels import sns as channel
from notifications.models import Delivery, SnsAnnouncement, SnsCertificate, SnsConfirmation
from notifications.sender import start_pusher
from notifications.sns_messages import topic_of
from notifications.sns_passes import SnsPasses
from tests.fakes.push_service import PushService
from tests.notifications.posting import post, sending, subscribe
from tests.notifications.sns_signer import HOST, REGION, TOKEN, TOPIC
from tests.sessions.rescues import Clock, person
from tests.waiting import LONG_S, until

pytestmark = pytest.mark.django_db(transaction=True)

# Moto finds out whom a certificate is asked of by how AWS' own calls are signed.
_AS_SNS = f"AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/sns/aws4_request, SignedHeaders=host, Signature=x"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    # Imported only where needed: each process of a run collects this module, and one runs it.
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


class Post:
    """Where SNS delivers: gives everything to the hook, again while it answers 503."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.answers: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                outer.bodies.append(body)
                threading.Thread(target=outer.deliver, args=(body,), daemon=True).start()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def deliver(self, body: bytes) -> None:
        try:
            client, deadline = Client(), time.monotonic() + 2 * LONG_S
            while True:
                answer = client.generic("POST", "/hooks/sns/", body, content_type="text/plain; charset=UTF-8")
                if answer.status_code != 503 or time.monotonic() > deadline:
                    break
                time.sleep(0.05)
        finally:
            connections.close_all()
        self.answers.append(answer.status_code)


@pytest.fixture
def delivered() -> Iterator[Post]:
    made = Post()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(autouse=True)
def cloud(moto: str, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Any:
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", moto)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    # Nobody waits that long in these tests: what arrives, SNS has brought.
    settings.NOTIFY_VIA, settings.NOTIFY_SNS_TOPIC, settings.SNS_GRACE_S = "sns", TOPIC, 60
    settings.SMS, settings.AWS_REGION = "sns", REGION
    channel._aws.cache_clear()
    requests.post(f"{moto}/moto-api/reset", timeout=LONG_S)
    client = boto3.client("sns", region_name=REGION)
    assert client.create_topic(Name="portafilter", Attributes={"SignatureVersion": "2"})["TopicArn"] == TOPIC

    def fetch(url: str) -> bytes:
        path = url.removeprefix(HOST)
        return requests.get(moto + path, headers={"Authorization": _AS_SNS}, timeout=LONG_S).content

    monkeypatch.setattr(sns_certificates, "fetch_from_sns", fetch)
    monkeypatch.setattr(sns_certificates, "NEW_A_DAY", 100)  # moto makes one a message
    return client


def test_press_goes_to_sns_and_comes_back_as_one_push_a_device(
    cloud: Any, delivered: Post, push_service: PushService
) -> None:
    cloud.subscribe(TopicArn=TOPIC, Protocol="http", Endpoint=delivered.url)
    alice = person("Alice")
    phone, desk = push_service.browser(), push_service.browser()
    subscribe(alice, phone), subscribe(alice, desk, "desk")
    subject = uuid.uuid4()
    with sending():
        post(alice, subject=subject, key="asked:1")
        push_service.wait_for(2)
        # SNS delivers everything twice more, in another order; and another press is in between.
        again = uuid.uuid4()
        post(alice, subject=again, key="asked:2")
        push_service.wait_for(4)
        for body in [*reversed(delivered.bodies)] * 2:
            delivered.deliver(body)
        until(lambda: Delivery.objects.filter(state="sent").count() == 4, "all is written down")
        until(lambda: len(delivered.answers) == 6, "the hook has answered")
    assert set(delivered.answers) == {200}
    for device in (phone, desk):
        assert sorted(push.payload["subject"] for push in device.pushes) == sorted([str(subject), str(again)])
    assert set(Delivery.objects.values_list("tries", flat=True)) == {1}
    assert all(SnsAnnouncement.objects.values_list("heard_at", flat=True))
    assert {row.pem[:27] for row in SnsCertificate.objects.all()} == {"-----BEGIN CERTIFICATE-----"}
    assert str(subject).encode() not in b"".join(delivered.bodies), "SNS learns nothing of the rescue"
    assert sns_health.sentences() == []


def test_topic_that_is_not_there_costs_nothing_but_is_said(cloud: Any, push_service: PushService) -> None:
    cloud.delete_topic(TopicArn=TOPIC)
    alice = person("Alice")
    subscribe(alice, push_service.browser())
    with sending():
        post(alice)
        push_service.wait_for(1)
    (sentence,) = sns_health.sentences()
    assert "NOTIFY_SNS_TOPIC names what is not there in eu-west-1" in sentence


def test_message_that_sns_loses_goes_out_when_its_grace_is_over(push_service: PushService) -> None:
    clock = Clock()
    alice, bob = person("Alice"), person("Bob")
    phone = push_service.browser()
    subscribe(alice, phone), subscribe(bob, push_service.browser())
    with sending(now=clock):  # nobody is subscribed to the topic
        post(alice, now=clock())
        until(lambda: SnsAnnouncement.objects.filter(published_at__isnull=False).exists(), "SNS was told")
        clock.tick(59.9)
        post(bob, now=clock(), is_silent=True)  # such do not wait for SNS
        push_service.wait_for(1)
        assert phone.pushes == []
        clock.tick(0.1)
        bell.ring()
        push_service.wait_for(2)
    assert len(phone.pushes) == 1


def test_text_message_reaches_sns() -> None:
    from moto.sns.models import sns_backends

    alice = person("Alice")
    alice.operator.phone, alice.operator.wants_sms = "+393331234567", True
    alice.operator.save()
    with sending():
        (row,) = post(alice)
        until(lambda: not Delivery.objects.filter(pk=row.pk, state="pending").exists(), "it has ended")
    row.refresh_from_db()
    assert (row.channel, row.state, row.outcome) == ("sms", "sent", base.lanes()["sms"].words)
    ((phone, text),) = sns_backends["123456789012"][REGION].sms_messages.values()
    assert phone == "+393331234567" and text.startswith("Help at Stazione Centrale. A1, Milano - E17")


def test_subscription_is_confirmed_by_the_api(cloud: Any) -> None:
    row = SnsConfirmation.objects.create(kind="subscribe", topic=TOPIC, token=TOKEN, message_id="m-1")
    SnsConfirmation.objects.update(next_try_at=row.asked_at)
    SnsPasses(topic_of(TOPIC)).run_chores()
    row.refresh_from_db()
    assert row.confirmed_at is not None and row.token is None and row.subscription.startswith("arn:aws:sns:")


def test_process_that_sns_calls_sends_the_pushes_and_leaves_the_rest_to_the_worker(
    push_service: PushService, settings: Any
) -> None:
    settings.NOTIFY_EMAIL_URL = "smtp://127.0.0.1:1"
    alice = person("Alice")
    alice.email = "alice@example.com"
    alice.save()
    subscribe(alice, push_service.browser())
    stop = threading.Event()
    thread = start_pusher("portal", stop)
    try:
        post(alice, key="asked:1")
        announced = SnsAnnouncement.objects.get()
        sns.bring_forward([announced], now=timezone.now())  # as the hook does
        push_service.wait_for(1)
    finally:
        stop.set()
        bell.ring()
        thread.join(LONG_S)
    assert not thread.is_alive()
    assert set(Delivery.objects.values_list("channel", "state")) == {("web_push", "sent"), ("email", "pending")}
    announced.refresh_from_db()
    assert announced.taken_at is None
