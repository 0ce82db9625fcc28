"""What is forged, or no message at all, changes nothing and reaches nobody."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from machines.models import SecurityEvent
from notifications import sns
from notifications.sns_messages import BODY_LIMIT
from tests.notifications.sns_hooking import announced, nothing_happened, post
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
    key,
    stamp,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("through_sns", "nothing_goes_out")]

ELSEWHERE = "arn:aws:sns:us-east-1:123456789012:portafilter"
PATH = CERTIFICATE_URL.removeprefix(HOST)

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
@pytest.mark.usefixtures("known_certificate")
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
@pytest.mark.usefixtures("known_certificate")
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


@pytest.mark.usefixtures("known_certificate")
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
@pytest.mark.usefixtures("known_certificate")
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
@pytest.mark.usefixtures("known_certificate")
def test_what_is_no_message_is_400(make: Callable[[], bytes]) -> None:
    announced()
    assert post(make()).status_code == 400
    nothing_happened()


@pytest.mark.usefixtures("known_certificate")
def test_huge_body_is_413_with_and_without_its_length() -> None:
    huge = body(Signer().notification("x" * BODY_LIMIT))
    assert post(huge).status_code == 413
    assert post(huge, CONTENT_LENGTH="").status_code in (400, 413)
    nothing_happened()
