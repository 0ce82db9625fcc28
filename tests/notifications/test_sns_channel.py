"""Amazon SNS by its API: what is sent there, and how each refusal reads. Against a server that answers as SNS does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs

import pytest
from django.utils import timezone

from notifications.channels import base, sns
from notifications.channels.base import DeliveryError, Parcel
from notifications.sns_messages import topic_of
from tests.notifications.sns_signer import REGION, TOKEN, TOPIC
from tests.ports import refusing_port

PHONE = "+393331234567"


class Aws:
    """An SNS of one's own: says what it is told to say, and keeps what it was asked."""

    def __init__(self) -> None:
        self.status, self.code, self.words = 200, "", ""
        self.may_answer = Event()
        self.may_answer.set()
        self.asked: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.asked.append({name: values[0] for name, values in parse_qs(sent).items()})
                outer.may_answer.wait()
                answer = outer.answer(outer.asked[-1]["Action"]).encode()
                self.send_response(outer.status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, action: str) -> str:
        if self.status == 200:
            inner = f"<MessageId>m-1</MessageId><SubscriptionArn>{TOPIC}:s-1</SubscriptionArn>"
            return f"<{action}Response><{action}Result>{inner}</{action}Result></{action}Response>"
        error = f"<Error><Type>Sender</Type><Code>{self.code}</Code><Message>{self.words}</Message></Error>"
        return f"<ErrorResponse>{error}<RequestId>r-1</RequestId></ErrorResponse>"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-of-aws")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    settings.SMS, settings.AWS_REGION = "sns", REGION
    sns._aws.cache_clear()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    made = Aws()
    monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", made.url)
    yield made
    made.may_answer.set()
    made.server.shutdown()
    made.server.server_close()


def parcel(**over: Any) -> Parcel:
    now = timezone.now()
    values: dict[str, Any] = {
        **{"id": uuid.uuid4(), "kind": "asked", "title": "Help at Stazione Centrale"},
        **{"body": "IT-0042, Milano · E17 · 07:40 there", "url": "/sessions/1/", "tag": "t", "address": PHONE},
    }
    return Parcel(**{**values, **over}, expires_at=now + timedelta(minutes=5), created_at=now)


async def test_text_message_is_transactional_plain_and_goes_to_the_number(aws: Aws, settings: Any) -> None:
    settings.PUBLIC_ORIGINS = ["https://help.example"]
    await base.lanes()["sms"].open().send(parcel())
    (asked,) = aws.asked
    assert asked["PhoneNumber"] == PHONE and "TopicArn" not in asked and "Subject" not in asked
    words = "Help at Stazione Centrale. IT-0042, Milano - E17 - 07:40 there https://help.example/sessions/1/"
    assert asked["Message"] == words
    attribute = {name.rpartition("entry.1.")[2]: value for name, value in asked.items() if "Attribute" in name}
    assert attribute == {
        "Name": "AWS.SNS.SMS.SMSType",
        "Value.DataType": "String",
        "Value.StringValue": "Transactional",
    }


def test_announcement_has_no_subject_and_confirmation_needs_credentials_to_be_undone(aws: Aws) -> None:
    topic = topic_of(TOPIC)
    assert sns.publish(topic, "{}") == "m-1"
    assert sns.confirm(topic, TOKEN) == f"{TOPIC}:s-1"
    published, confirmed = aws.asked
    assert (published["TopicArn"], published["Message"], "Subject" in published) == (TOPIC, "{}", False)
    assert (confirmed["Token"], confirmed["AuthenticateOnUnsubscribe"]) == (TOKEN, "true")


@pytest.mark.parametrize("link", ["https://help.example/sessions/0d5c0e5e-0000/", "", "https://x/" + "y" * 200])
@pytest.mark.parametrize("body", ["", "short", "è" * 500, "line\nline\ttab " * 40])
def test_text_is_short_one_line_and_keeps_its_link(link: str, body: str) -> None:
    text = sns.text_of("Help", body, link)
    assert len(text) <= sns.TEXT_LIMIT and "\n" not in text and text.startswith("Help")
    if 0 < len(link) < 70:
        assert text.endswith(f" {link}")
    if len(body) > 200:
        assert "..." in text


@pytest.mark.parametrize(
    "phone",
    ["", "0393331234567", "+0123456789", "+39 333 1234567", "+39333", "+1" * 9, "+٣٩٣٣٣١٢٣٤٥٦٧", "+39333123456\n"],
)
def test_what_is_no_number_is_never_sent(aws: Aws, phone: str) -> None:
    with pytest.raises(DeliveryError, match=r"E\.164") as refused:
        sns.send_text(phone, "Help")
    assert refused.value.permanent and aws.asked == []


# Status, code, what SNS says; what is read; whether it is final.
REFUSALS: list[tuple[int, str, str, str, bool]] = [
    (400, "InvalidParameter", "Invalid parameter: PhoneNumber", "look at the phone number or its country", True),
    (400, "InvalidParameter", "Phone number is opted out", "has opted out", True),
    (400, "OptedOut", "", "has opted out", True),
    (400, "Throttling", "Rate exceeded", "takes no more at the moment", False),
    (400, "ThrottledException", "Rate exceeded", "takes no more at the moment", False),
    (429, "TooManyRequests", "", "takes no more at the moment", False),
    (400, "NotSupported", "SMS is not supported here", "AWS_REGION", True),
    (
        403,
        "AuthorizationError",
        f"User: me is not authorized on {PHONE}",
        "Allow sns:Publish on text messages (Resource *) in eu-west-1 (AWS_REGION).",
        True,
    ),
    (403, "ExpiredToken", "The security token included in the request is expired", "have expired", False),
    (403, "InvalidClientTokenId", "The security token included in the request is invalid", "does not know", True),
    (403, "SignatureDoesNotMatch", "The signature we calculated does not match", "does not know", True),
    (403, "SignatureDoesNotMatch", "Signature expired: 20261123T100000Z is now earlier than", "clock", False),
    (400, "RequestExpired", "", "clock", False),
    (400, "ValidationException", "Monthly spend limit reached", "MonthlySpendLimit", True),
    (403, "OptInRequired", "", "sandbox", True),
    (500, "InternalError", "", "SNS failed", False),
    (503, "ServiceUnavailable", "", "SNS failed", False),
    (418, "Teapot", "", "refused it (Teapot)", True),
]


@pytest.mark.parametrize(("status", "code", "said", "expected", "is_final"), REFUSALS, ids=[one[1] for one in REFUSALS])
def test_refused_text_message_reads_as_one_sentence(
    aws: Aws, status: int, code: str, said: str, expected: str, is_final: bool
) -> None:
    aws.status, aws.code, aws.words = status, code, said
    with pytest.raises(DeliveryError) as refused:
        sns.send_text(PHONE, "Help")
    words = str(refused.value)
    assert expected in words and words.endswith(".") and "\n" not in words and len(words) < 280
    assert refused.value.permanent is is_final
    assert PHONE not in words and "canary-of-aws" not in words
    # Whoever tries again is the outbox.
    assert len(aws.asked) == 1


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NotFound", 404, f"sns:Publish: NOTIFY_SNS_TOPIC names what is not there in {REGION}: the topic."),
        ("AuthorizationError", 403, f"Allow sns:Publish on the topic in {REGION}."),
        ("InvalidParameter", 400, "look at NOTIFY_SNS_TOPIC."),
        ("KMSAccessDenied", 400, "refused it (KMSAccessDenied)"),
    ],
)
def test_refused_announcement_names_the_call_and_the_setting(aws: Aws, code: str, status: int, expected: str) -> None:
    aws.status, aws.code = status, code
    with pytest.raises(DeliveryError) as refused:
        sns.publish(topic_of(TOPIC), "{}")
    assert expected in str(refused.value) and "sns:Publish" in str(refused.value)


def test_token_that_is_no_longer_good_is_gone(aws: Aws) -> None:
    aws.status, aws.code, aws.words = 400, "InvalidParameter", "Invalid parameter: Token"
    with pytest.raises(DeliveryError, match="Subscribe the hook anew") as refused:
        sns.confirm(topic_of(TOPIC), TOKEN)
    assert refused.value.is_gone


def test_sns_that_does_not_answer_is_given_up_and_tried_again_later(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sns, "_ANSWER_S", 0.2)
    aws.may_answer.clear()
    with pytest.raises(DeliveryError, match=r"did not answer within 0\.2 s") as refused:
        sns.send_text(PHONE, "Help")
    assert not refused.value.permanent and len(aws.asked) == 1


def test_sns_that_is_away_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_port() as port, pytest.raises(DeliveryError, match="cannot be reached") as refused:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", f"http://127.0.0.1:{port}")
        sns.publish(topic_of(TOPIC), "{}")
    assert not refused.value.permanent


def test_missing_credentials_are_said(monkeypatch: pytest.MonkeyPatch, aws: Aws) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with pytest.raises(DeliveryError, match="AWS credentials") as refused:
        sns.publish(topic_of(TOPIC), "{}")
    assert refused.value.permanent and aws.asked == []
