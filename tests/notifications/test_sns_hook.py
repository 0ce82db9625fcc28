"""The SNS hook: what is forged changes nothing and reaches nobody; what is genuine counts once, however it comes."""

from __future__ import annotations

import json
import random
import socket
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from machines.models import SecurityEvent
from notifications import sns, sns_certificates, sns_hook
from notifications.models import Delivery, SnsAnnouncement, SnsCertificate, SnsConfirmation, SnsMessage
from notifications.sns_messages import BODY_LIMIT, topic_of
from tests.notifications.sns_signer import (
    CERTIFICATE_URL,
    CONFIRMATION_FIELDS,
    HOST,
    NOTIFICATION_FIELDS,
    REGION,
    TOKEN,
    TOPIC,
    Signer,
    body,
    certificate,
    key,
    stamp,
)

pytestmark = pytest.mark.django_db

# One for all: each loads the middleware anew.
CLIENT = Client(enforce_csrf_checks=True)
PEM = certificate()
ELSEWHERE = "arn:aws:sns:us-east-1:123456789012:portafilter"
PATH = CERTIFICATE_URL.removeprefix(HOST)


@pytest.fixture(autouse=True)
def through_sns(settings: Any) -> Iterator[None]:
    settings.NOTIFY_VIA, settings.NOTIFY_SNS_TOPIC, settings.SNS_GRACE_S = "sns", TOPIC, 5
    cache.clear()
    yield
    cache.clear()


@pytest.fixture(autouse=True)
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
def known() -> None:
    """The worker has fetched the certificate before."""
    now = timezone.now()
    SnsCertificate.objects.create(url=CERTIFICATE_URL, pem=PEM, fetched_at=now, next_try_at=None)


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


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("over", [{}, {"Subject": "A press"}], ids=["no subject", "subject"])
@pytest.mark.usefixtures("known")
def test_genuine_notification_makes_its_messages_due(version: str, over: dict[str, Any]) -> None:
    mine, other = announced(devices=2), announced(name="asked:2")
    response = post(Signer(version=version).notification(sns.message_for([mine]), **over))
    assert (response.status_code, response.json()) == (200, {"heard": "now"})
    due = Delivery.objects.filter(next_try_at__lte=timezone.now())
    assert set(due.values_list("subject", flat=True)) == {mine.subject} and due.count() == 2
    assert Delivery.objects.get(subject=other.subject).next_try_at > timezone.now()
    mine.refresh_from_db()
    assert mine.heard_at is not None


@pytest.mark.usefixtures("known")
def test_notification_makes_no_other_announcements_messages_due() -> None:
    """Of the same rescue: the next one who is asked is asked when it is their turn."""
    subject = uuid.uuid4()
    first, later = announced(subject), announced(subject, name="asked:10")
    assert post(Signer().notification(sns.message_for([first]))).status_code == 200
    due = Delivery.objects.filter(next_try_at__lte=timezone.now())
    assert list(due.values_list("key", flat=True)) == [f"{first.key}:7:web_push:0"]
    assert later.heard_at is None


BAD_ADDRESSES = {
    "a bucket": f"https://s3.amazonaws.com/evil{PATH}",
    "a bucket's host": f"https://sns.{REGION}.s3.amazonaws.com{PATH}",
    "a host that begins alike": f"{HOST}.evil.example{PATH}",
    "a host that ends alike": f"https://evilsns.{REGION}.amazonaws.com{PATH}",
    "no dots": f"https://snsx{REGION}xamazonawsxcom{PATH}",
    "a sub-domain": f"https://evil.sns.{REGION}.amazonaws.com{PATH}",
    "the host as user": f"{HOST}@evil.example{PATH}",
    "a user": f"https://me@sns.{REGION}.amazonaws.com{PATH}",
    "a user and password": f"https://me:you@sns.{REGION}.amazonaws.com{PATH}",
    "the default port": f"{HOST}:443{PATH}",
    "another port": f"{HOST}:8443{PATH}",
    "a query": f"{CERTIFICATE_URL}?x=1",
    "an empty query": f"{CERTIFICATE_URL}?",
    "a fragment": f"{CERTIFICATE_URL}#x",
    "capitals in the host": f"https://SNS.{REGION}.amazonaws.com{PATH}",
    "capitals in the scheme": f"HTTPS://sns.{REGION}.amazonaws.com{PATH}",
    "no TLS": f"http://sns.{REGION}.amazonaws.com{PATH}",
    "another scheme": f"ftp://sns.{REGION}.amazonaws.com{PATH}",
    "a file": "file:///etc/passwd",
    "a dot at the end": f"{HOST}.{PATH}",
    "another region": f"https://sns.us-east-1.amazonaws.com{PATH}",
    "China": f"{HOST}.cn{PATH}",
    "no region": f"https://sns.amazonaws.com{PATH}",
    "letters that look alike": f"https://sns.{REGION}.am\u0430zonaws.com{PATH}",
    "full-width letters": f"https://sns.{REGION}.amazonaws\uff0ecom{PATH}",
    "IDN": f"https://xn--sns-5cd.{REGION}.amazonaws.com{PATH}",
    "a backslash": f"{HOST}\\@evil.example{PATH}",
    "two slashes": f"{HOST}/{PATH}",
    "a way up": f"{HOST}/x/..{PATH}",
    "an escaped letter": f"{HOST}/%53impleNotificationService-0123456789abcdef0123456789abcdef.pem",
    "another file": f"{HOST}/SimpleNotificationService-xyz.pem",
    "capitals in the file": f"{HOST}/SimpleNotificationService-0123456789ABCDEF0123456789ABCDEF.pem",
    "a blank": f" {CERTIFICATE_URL}",
    "an address inside": "http://169.254.169.254/latest/meta-data/",
    "nothing": "",
}


@pytest.mark.parametrize("address", BAD_ADDRESSES.values(), ids=BAD_ADDRESSES.keys())
@pytest.mark.usefixtures("known")
def test_certificate_from_anywhere_else_is_refused_whoever_signed(address: str) -> None:
    mine = announced()
    for signer in (Signer(), Signer(key("mallory"))):
        assert post(signer.notification(sns.message_for([mine]), SigningCertURL=address)).status_code == 403
    nothing_happened()


SIGNED = [
    *(("Notification", name) for name in NOTIFICATION_FIELDS),
    *((kind, name) for kind in ("SubscriptionConfirmation", "UnsubscribeConfirmation") for name in CONFIRMATION_FIELDS),
]
OTHER_TOKEN = TOKEN[::-1]
# Values as good as those that were signed, so that nothing but the signature tells.
OTHERWISE = {
    "Message": "something else",
    "MessageId": str(uuid.uuid4()),
    "Subject": "another subject",
    "Timestamp": None,
    "TopicArn": f"{TOPIC}2",
    "Token": OTHER_TOKEN,
    "SubscribeURL": f"{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token={OTHER_TOKEN}",
}


@pytest.mark.parametrize(("kind", "name"), SIGNED)
@pytest.mark.usefixtures("known")
def test_message_that_was_changed_after_it_was_signed_is_refused(kind: str, name: str) -> None:
    mine = announced()
    signer = Signer()
    if kind == "Notification":
        genuine = signer.notification(sns.message_for([mine]), Subject="A press")
    else:
        genuine = signer.confirmation(kind)
    changed = dict(genuine)
    if name == "Type":
        changed["Type"] = (
            "UnsubscribeConfirmation" if kind == "SubscriptionConfirmation" else "SubscriptionConfirmation"
        )
        changed |= {
            "Token": TOKEN,
            "SubscribeURL": f"{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token={TOKEN}",
        }
    else:
        changed[name] = OTHERWISE[name] or stamp(timezone.now() - timedelta(minutes=3))
    if name == "Token":  # the address goes with it, else it is refused for that
        changed["SubscribeURL"] = OTHERWISE["SubscribeURL"]
    assert post(changed).status_code == 403
    nothing_happened()
    assert post(genuine).status_code == 200


@pytest.mark.usefixtures("known")
def test_subject_can_be_neither_added_nor_taken_away() -> None:
    plain, titled = Signer().notification("x"), Signer().notification("x", Subject="A press")
    assert post({**plain, "Subject": "added"}).status_code == 403
    assert post({name: value for name, value in titled.items() if name != "Subject"}).status_code == 403
    nothing_happened()


def _signed(**over: Any) -> Callable[[], dict[str, Any]]:
    return lambda: Signer().notification("{}", **over)


def _subscribe(**over: Any) -> Callable[[], dict[str, Any]]:
    return lambda: Signer().confirmation(**over)


ASK = "/?Action=ConfirmSubscription"
FORGED: dict[str, Callable[[], dict[str, Any]]] = {
    "signed by somebody else": lambda: Signer(key("mallory")).notification("{}"),
    "no signature": _signed(Signature=""),
    "signature that is no base64": _signed(Signature="not base64!"),
    "signature with letters beyond ASCII": _signed(Signature="ä" * 8),
    "signature of another length": _signed(Signature="AAAA"),
    "SHA-1 that says it is SHA-256": lambda: {**Signer(version="1").notification("{}"), "SignatureVersion": "2"},
    "SHA-256 that says it is SHA-1": lambda: {**Signer().notification("{}"), "SignatureVersion": "1"},
    "unknown SignatureVersion": _signed(SignatureVersion="3"),
    "empty SignatureVersion": _signed(SignatureVersion=""),
    "SignatureVersion with a blank": _signed(SignatureVersion="2 "),
    "another topic of SNS": _signed(TopicArn=f"arn:aws:sns:{REGION}:666666666666:portafilter"),
    "another region's topic": _signed(TopicArn=ELSEWHERE),
    "topic with a blank": _signed(TopicArn=f"{TOPIC} "),
    "stale": lambda: Signer().notification("{}", at=timezone.now() - timedelta(minutes=61)),
    "from the future": lambda: Signer().notification("{}", at=timezone.now() + timedelta(minutes=6)),
    "no moment that there is": _signed(Timestamp="2026-02-30T10:00:00.000Z"),
    "stale confirmation": _subscribe(Timestamp=stamp(timezone.now() - timedelta(hours=2))),
    "evil SubscribeURL": _subscribe(SubscribeURL=f"https://evil.example{ASK}&TopicArn={TOPIC}&Token={TOKEN}"),
    "SubscribeURL inside": _subscribe(SubscribeURL="http://169.254.169.254/latest/meta-data/"),
    "SubscribeURL with a user": _subscribe(
        SubscribeURL=f"https://sns.{REGION}.amazonaws.com@evil.example{ASK}&TopicArn={TOPIC}&Token={TOKEN}"
    ),
    "SubscribeURL that does something else": _subscribe(
        SubscribeURL=f"{HOST}/?Action=DeleteTopic&TopicArn={TOPIC}&Token={TOKEN}"
    ),
    "SubscribeURL of another topic": _subscribe(SubscribeURL=f"{HOST}{ASK}&TopicArn={ELSEWHERE}&Token={TOKEN}"),
    "SubscribeURL with another token": _subscribe(SubscribeURL=f"{HOST}{ASK}&TopicArn={TOPIC}&Token=other"),
    "SubscribeURL with more": _subscribe(SubscribeURL=f"{HOST}{ASK}&TopicArn={TOPIC}&Token={TOKEN}&Token={TOKEN}"),
    "SubscribeURL without TLS": _subscribe(
        SubscribeURL=f"http://sns.{REGION}.amazonaws.com{ASK}&TopicArn={TOPIC}&Token={TOKEN}"
    ),
    "evil re-subscription": lambda: Signer().confirmation(
        "UnsubscribeConfirmation", SubscribeURL=f"https://evil.example{ASK}&TopicArn={TOPIC}&Token={TOKEN}"
    ),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
@pytest.mark.usefixtures("known")
def test_forged_message_is_403_and_noted(forged: Callable[[], dict[str, Any]]) -> None:
    announced()
    response = post(forged())
    assert response.status_code == 403, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    nothing_happened()
    noted = SecurityEvent.objects.get(kind="sns_refused")
    assert noted.address == "127.0.0.1" and noted.detail["status"] == 403
    assert TOKEN not in str(noted.detail) and noted.detail["words"] not in response.content.decode()


def _with(name: str, value: object) -> Callable[[], bytes]:
    return lambda: body({**Signer().notification("{}"), name: value})


def _without(name: str, kind: str = "Notification") -> Callable[[], bytes]:
    made = Signer().notification("{}") if kind == "Notification" else Signer().confirmation(kind)
    return lambda: body({field: value for field, value in made.items() if field != name})


def _doubled(name: str) -> bytes:
    genuine = Signer().notification("{}")
    return (json.dumps({name: genuine[name]})[:-1] + ", " + json.dumps(genuine)[1:]).encode()


NO_MESSAGES: dict[str, Callable[[], bytes]] = {
    **{
        f"no {name}": _without(name)
        for name in ("Type", "Message", "MessageId", "Timestamp", "TopicArn", "Signature", "SignatureVersion")
    },
    "no SigningCertURL": _without("SigningCertURL"),
    "no Token": _without("Token", "SubscriptionConfirmation"),
    "no SubscribeURL": _without("SubscribeURL", "UnsubscribeConfirmation"),
    **{f"{name} is a number": _with(name, 7) for name in ("Message", "SigningCertURL", "SignatureVersion", "Type")},
    **{f"{name} is a list": _with(name, ["x"]) for name in ("MessageId", "TopicArn", "Signature", "Timestamp")},
    "Subject is an object": _with("Subject", {"a": "b"}),
    "Subject of two lines": _with("Subject", "a\nTimestamp\nb"),
    "MessageId of two lines": _with("MessageId", "a\nb"),
    "Timestamp without a zone": _with("Timestamp", "2026-11-23T10:00:00"),
    "Type that SNS does not have": _with("Type", "Confirmation"),
    "address of two lines": _with("SigningCertURL", f"{CERTIFICATE_URL}\n"),
    "half a character": _with("Message", "\ud800"),
    **{f"{name} twice": partial(_doubled, name) for name in ("TopicArn", "SigningCertURL", "UnsubscribeURL")},
    "nothing": lambda: b"",
    "no JSON": lambda: b"Type=Notification",
    "a list": lambda: b"[]",
    "a text": lambda: b'"Notification"',
    "no number": lambda: b'{"Type": NaN}',
    "a number beyond all bounds": lambda: b'{"Type": ' + b"9" * 10_000 + b"}",
    "deep lists": lambda: b"[" * 100_000,
    "deep objects": lambda: b'{"a":' * 40_000,
    "no UTF-8": lambda: b'{"Type": "\xff"}',
    "UTF-16": lambda: '{"Type": "Notification"}'.encode("utf-16"),
}


@pytest.mark.parametrize("make", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
@pytest.mark.usefixtures("known")
def test_what_is_no_message_is_400(make: Callable[[], bytes]) -> None:
    announced()
    assert post(make()).status_code == 400
    nothing_happened()


@pytest.mark.usefixtures("known")
def test_huge_body_is_413_with_and_without_its_length() -> None:
    huge = body(Signer().notification("x" * BODY_LIMIT))
    assert post(huge).status_code == 413
    assert post(huge, CONTENT_LENGTH="").status_code in (400, 413)
    nothing_happened()


def test_unknown_certificate_is_noted_for_the_worker_and_sns_comes_again() -> None:
    genuine = Signer().notification(sns.message_for([announced()]))
    for _ in range(3):
        response = post(genuine)
        assert (response.status_code, response.headers["Retry-After"]) == (503, "20")
    noted = SnsCertificate.objects.get()
    assert (noted.url, noted.pem, noted.fetched_at) == (CERTIFICATE_URL, "", None)
    assert not SnsMessage.objects.exists()

    def fetch(url: str) -> bytes:
        assert url == CERTIFICATE_URL
        return PEM.encode()

    assert sns_certificates.fetch_due(topic_of(TOPIC), now=timezone.now, fetch=fetch) == 1
    assert post(genuine).status_code == 200
    assert Delivery.objects.get().next_try_at <= timezone.now()


def test_few_unknown_certificates_a_day_are_noted() -> None:
    statuses = [
        post(
            Signer().notification("{}", SigningCertURL=f"{HOST}/SimpleNotificationService-{number:032x}.pem")
        ).status_code
        for number in range(8)
    ]
    assert statuses == [503] * 5 + [403] * 3
    assert SnsCertificate.objects.count() == 5
    # One of those days ago leaves room again, and what is noted goes on being answered.
    SnsCertificate.objects.update(noted_at=timezone.now() - timedelta(hours=25))
    assert post(Signer().notification("{}")).status_code == 503


BAD_CERTIFICATES = {
    "ended": lambda: certificate(ends=timezone.now() - timedelta(minutes=1)),
    "not good yet": lambda: certificate(begins=timezone.now() + timedelta(minutes=9)),
    "of a small key": lambda: certificate(key("small", 1024)),
    "of another kind": lambda: certificate(ec.generate_private_key(ec.SECP256R1())),
    "broken": lambda: PEM.replace("A", "B"),
}


@pytest.mark.parametrize("make", BAD_CERTIFICATES.values(), ids=BAD_CERTIFICATES.keys())
def test_certificate_that_is_no_good_is_neither_kept_nor_believed(make: Callable[[], str]) -> None:
    signer = Signer(key("small", 1024)) if make is BAD_CERTIFICATES["of a small key"] else Signer()
    pem = make()
    SnsCertificate.objects.create(url=CERTIFICATE_URL)
    assert sns_certificates.fetch_due(topic_of(TOPIC), now=timezone.now, fetch=lambda _: pem.encode()) == 0
    assert SnsCertificate.objects.get().problem.startswith("found ")
    # Were it kept all the same (it ends while it is here), it would not be believed either.
    SnsCertificate.objects.update(pem=pem, fetched_at=timezone.now())
    assert post(signer.notification("{}")).status_code == 403


@pytest.mark.usefixtures("known")
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


@pytest.mark.usefixtures("known")
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
@pytest.mark.usefixtures("known")
def test_what_others_publish_on_the_topic_is_heard_and_means_nothing(text: str) -> None:
    announced()
    assert post(Signer().notification(text)).status_code == 200
    assert not Delivery.objects.filter(next_try_at__lte=timezone.now()).exists()


@pytest.mark.usefixtures("known")
def test_confirmation_is_a_wish_for_the_worker_and_nothing_is_called() -> None:
    asked = Signer().confirmation()
    assert [post(asked).json()["heard"] for _ in range(2)] == ["now", "before"]
    row = SnsConfirmation.objects.get()
    assert (row.kind, row.topic, row.token, row.confirmed_at) == ("subscribe", TOPIC, TOKEN, None)
    assert row.next_try_at is not None


@pytest.mark.usefixtures("known")
def test_end_of_the_subscription_is_told_and_never_undone() -> None:
    assert post(Signer().confirmation("UnsubscribeConfirmation")).status_code == 200
    row = SnsConfirmation.objects.get()
    assert (row.kind, row.token, row.next_try_at) == ("unsubscribe", None, None)
    assert SecurityEvent.objects.filter(kind="sns_unsubscribed").count() == 1


@pytest.mark.usefixtures("known")
def test_rubbish_is_bounded_in_rows_and_in_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sns_hook, "RUBBISH_A_MINUTE", 25)
    statuses = [post(b"rubbish").status_code for _ in range(30)]
    assert statuses == [400] * 25 + [503] * 5
    assert SecurityEvent.objects.filter(kind="sns_refused").count() == sns_hook.ROWS_AN_HOUR
    # Whoever else calls is heard.
    mine = announced()
    assert post(Signer().notification(sns.message_for([mine])), REMOTE_ADDR="192.0.2.7").status_code == 200


@pytest.mark.usefixtures("known")
def test_cache_that_is_away_keeps_nobody_from_being_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("redis is away")

    monkeypatch.setattr(cache, "add", away)
    assert post(Signer().notification("{}")).status_code == 200
    assert post(b"rubbish").status_code == 400


def test_only_posts_are_taken() -> None:
    response = Client().get("/hooks/sns/")
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")


@pytest.mark.usefixtures("known")
def test_hook_is_not_there_where_messages_go_directly(settings: Any) -> None:
    settings.NOTIFY_VIA = "direct"
    assert post(Signer().notification("{}")).status_code == 404
    nothing_happened()
