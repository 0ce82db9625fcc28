"""What SNS posts to an HTTPS endpoint: read strictly, and believed only when its signature is good.

Pure: no rows, no network, no settings. The order is: `parse` (is it a message at all), `check` (does it say that it is
ours, and is it fresh), then, with the certificate that its address names, `verify`. Until `verify` has returned,
nothing of a message may be acted on. The rules are AWS' own (SNS Developer Guide, "Verifying the signatures of Amazon
SNS messages"), narrowed: one topic, the exact host of its region, the exact form of every address (T18).
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

BODY_LIMIT = 256 * 1024
OLDEST = timedelta(hours=1)  # SNS gives up a message after 3,600 s
NEWEST = timedelta(minutes=5)  # clocks differ

NOTIFICATION = "Notification"
SUBSCRIBE = "SubscriptionConfirmation"
UNSUBSCRIBE = "UnsubscribeConfirmation"

AWS_REGION_NAME = r"[a-z]{2}(?:-[a-z]{2,20}){1,3}-[0-9]{1,2}"
# A standard topic; a .fifo one has no HTTPS subscribers.
TOPIC = rf"arn:(aws|aws-cn|aws-us-gov):sns:({AWS_REGION_NAME}):([0-9]{{12}}):([A-Za-z0-9_-]{{1,256}})"

# What is signed, in this order: name, line feed, value, line feed. A field that is not there is left out.
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    SUBSCRIBE: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    UNSUBSCRIBE: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_OPTIONAL = {"Subject"}
_ALWAYS = ("Signature", "SignatureVersion", "SigningCertURL")
# No field but Message may hold a line feed: else what is signed could be cut into fields in another way.
_LINE = r"[^\r\n]{0,4000}"
_FORMS = {
    "MessageId": r"[A-Za-z0-9-]{1,100}",
    "Timestamp": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z",
    "Token": r"[A-Za-z0-9_-]{1,2000}",
    **dict.fromkeys(("Subject", "SubscribeURL", "TopicArn", *_ALWAYS), _LINE),
}
_HASHES: dict[str, type[hashes.HashAlgorithm]] = {"1": hashes.SHA1, "2": hashes.SHA256}
_SMALLEST_KEY = 2048


class NotAMessage(Exception):
    """The body is no message of SNS; the text says what was found, never the value."""


class Refused(Exception):
    """The message is not to be believed; the text says why, for the security record."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic by its ARN, and where messages of it can only come from."""

    arn: str
    region: str
    domain: str

    @property
    def host(self) -> str:
        """The one host that serves its certificates and confirmations."""
        return f"sns.{self.region}.{self.domain}"


@dataclass(frozen=True, slots=True)
class Message:
    """A message's fields, by the names that SNS gives them; none of them believed yet."""

    fields: dict[str, str]

    @property
    def kind(self) -> str:
        """NOTIFICATION, SUBSCRIBE or UNSUBSCRIBE."""
        return self.fields["Type"]

    @property
    def id(self) -> str:
        return self.fields["MessageId"]

    @property
    def text(self) -> str:
        return self.fields["Message"]

    @property
    def token(self) -> str:
        return self.fields["Token"]

    @property
    def certificate_url(self) -> str:
        return self.fields["SigningCertURL"]

    def signed_text(self) -> bytes:
        """What the signature is over."""
        names = (name for name in _SIGNED[self.kind] if name in self.fields)
        return "".join(f"{name}\n{self.fields[name]}\n" for name in names).encode()


def topic_of(arn: str) -> Topic:
    """The topic of an ARN; raises ValueError saying what was expected."""
    match = re.fullmatch(TOPIC, arn)
    if match is None:
        raise ValueError("expected the ARN of a standard topic, as in arn:aws:sns:eu-west-1:123456789012:portafilter")
    partition, region = match[1], match[2]
    return Topic(arn=arn, region=region, domain="amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com")


def parse(body: bytes) -> Message:
    """The message in a request's body; raises NotAMessage. Fields that are of no use here are left out."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise NotAMessage("found bytes that are not UTF-8, expected JSON in UTF-8") from None
    except (ValueError, RecursionError):
        raise NotAMessage("found what is not JSON, expected one JSON object") from None
    if not isinstance(document, dict):
        raise NotAMessage("found JSON that is no object, expected one JSON object")
    kind = document.get("Type")
    if not isinstance(kind, str) or kind not in _SIGNED:
        raise NotAMessage(f"Type: found another one, expected {', '.join(_SIGNED)}")
    fields = {}
    for name in (*_SIGNED[kind], *_ALWAYS):
        value = document.get(name)
        if value is None and name in _OPTIONAL:
            continue
        if not isinstance(value, str):
            raise NotAMessage(f"{name}: found {'nothing' if value is None else 'no text'}, expected a text")
        if name in _FORMS and not re.fullmatch(_FORMS[name], value):
            raise NotAMessage(f"{name}: found a text of another form, expected what SNS sends")
        fields[name] = value
    try:
        "".join(fields.values()).encode()
    except UnicodeEncodeError:
        raise NotAMessage("found half a character (a lone surrogate), expected text") from None
    return Message(fields)


def check(message: Message, topic: Topic, *, now: datetime) -> None:
    """Raises Refused unless the message says that it is of this topic, is fresh, and names only SNS' own addresses."""
    if message.fields["TopicArn"] != topic.arn:
        raise Refused("The message is of another topic than NOTIFY_SNS_TOPIC.")
    if message.fields["SignatureVersion"] not in _HASHES:
        raise Refused(f"SignatureVersion: expected one of {', '.join(_HASHES)}.")
    if not is_certificate_url(message.certificate_url, topic):
        raise Refused(f"SigningCertURL: expected a certificate's address at https://{topic.host}.")
    at = _moment(message.fields["Timestamp"])
    if at is None:
        raise Refused("Timestamp: expected a moment that there is.")
    if now - at > OLDEST:
        raise Refused("The message is more than an hour old.")
    if at - now > NEWEST:
        raise Refused("The message is from the future; this computer's clock may be wrong.")
    if message.kind != NOTIFICATION and not _is_subscribe_url(message.fields["SubscribeURL"], message.token, topic):
        raise Refused(f"SubscribeURL: expected a confirmation of this topic at https://{topic.host}.")


def is_certificate_url(url: str, topic: Topic) -> bool:
    """Whether this is, letter for letter, where SNS keeps a certificate for this topic's region."""
    pattern = rf"https://{re.escape(topic.host)}/SimpleNotificationService-[0-9a-f]{{16,64}}\.pem"
    return re.fullmatch(pattern, url) is not None


def load_certificate(pem: str) -> x509.Certificate:
    """The certificate in a PEM; raises ValueError for what SNS cannot have signed by."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
        key = certificate.public_key()
    except Exception as error:  # of many kinds, for what is no certificate or one with a key of an unknown kind
        raise ValueError("found no certificate in PEM") from error
    if not isinstance(key, RSAPublicKey) or key.key_size < _SMALLEST_KEY:
        raise ValueError(f"found a key of another kind, expected RSA of {_SMALLEST_KEY} bits or more")
    return certificate


def verify(message: Message, pem: str, *, now: datetime) -> None:
    """Raises Refused unless the certificate is good now and its key has signed the message."""
    try:
        certificate = _loaded(pem)
    except ValueError as error:
        raise Refused(f"The certificate that SNS signs by cannot be used: {error}.") from error
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Refused("The certificate that the message is signed by has ended, or is not good yet.")
    key = certificate.public_key()
    assert isinstance(key, RSAPublicKey)  # load_certificate takes no other
    algorithm = _HASHES[message.fields["SignatureVersion"]]()
    try:
        signature = base64.b64decode(message.fields["Signature"], validate=True)
        key.verify(signature, message.signed_text(), PKCS1v15(), algorithm)
    except (ValueError, InvalidSignature) as error:
        raise Refused("The signature is not that of this message.") from error


# The same few for every message.
_loaded = lru_cache(maxsize=16)(load_certificate)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _is_subscribe_url(url: str, token: str, topic: Topic) -> bool:
    """Never fetched, whatever it says; another form tells that somebody else wrote the message."""
    start, _, query = url.partition("?")
    expected = {"Action": "ConfirmSubscription", "TopicArn": topic.arn, "Token": token}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=10)
    except ValueError:
        return False
    return start == f"https://{topic.host}/" and len(pairs) == len(expected) and dict(pairs) == expected


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
