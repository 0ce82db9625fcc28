"""Stands in for Amazon SNS: signs messages with keys and certificates of its own, as SNS signs them."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import NameOID
from django.utils import timezone

REGION = "eu-west-1"
TOPIC = f"arn:aws:sns:{REGION}:123456789012:portafilter"
HOST = f"https://sns.{REGION}.amazonaws.com"
CERTIFICATE_URL = f"{HOST}/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"
TOKEN = "2336412f37fb687f5d51e6e241d09c805a5a57b30d712f794cc5f6a988666d92"
# As the SNS Developer Guide has them; written down here once more, so that the product's list is compared with it.
NOTIFICATION_FIELDS = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
CONFIRMATION_FIELDS = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")


@cache
def key(name: str = "sns", bits: int = 2048) -> rsa.RSAPrivateKey:
    """One key a name in a run of tests: making one takes a while."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def certificate(
    private_key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | None = None,
    *,
    begins: datetime | None = None,
    ends: datetime | None = None,
) -> str:
    """A certificate in PEM; good from yesterday for a year unless told otherwise."""
    signer = private_key or key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(signer.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or now - timedelta(days=1))
        .not_valid_after(ends or now + timedelta(days=365))
        .sign(signer, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass
class Signer:
    """Makes messages. What a test gives in `over` replaces fields before they are signed, `after` those that were."""

    private_key: rsa.RSAPrivateKey = field(default_factory=key)
    version: str = "2"

    def notification(self, text: str = "{}", *, at: datetime | None = None, **over: Any) -> dict[str, Any]:
        return self.sign(
            {
                "Type": "Notification",
                "MessageId": str(uuid.uuid4()),
                "TopicArn": TOPIC,
                "Message": text,
                "Timestamp": stamp(at or timezone.now()),
                "UnsubscribeURL": f"{HOST}/?Action=Unsubscribe&SubscriptionArn={TOPIC}:1",
                **over,
            }
        )

    def confirmation(self, kind: str = "SubscriptionConfirmation", **over: Any) -> dict[str, Any]:
        return self.sign(
            {
                "Type": kind,
                "MessageId": str(uuid.uuid4()),
                "TopicArn": TOPIC,
                "Token": TOKEN,
                "Message": "You have chosen to subscribe to the topic. Visit the SubscribeURL.",
                "SubscribeURL": f"{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token={TOKEN}",
                "Timestamp": stamp(timezone.now()),
                **over,
            }
        )

    def sign(self, fields: dict[str, Any]) -> dict[str, Any]:
        names = NOTIFICATION_FIELDS if fields.get("Type") == "Notification" else CONFIRMATION_FIELDS
        text = "".join(f"{name}\n{fields[name]}\n" for name in names if name in fields)
        algorithm = hashes.SHA1() if self.version == "1" else hashes.SHA256()
        signature = self.private_key.sign(text.encode("utf-8", "surrogatepass"), PKCS1v15(), algorithm)
        return {
            "SignatureVersion": self.version,
            "Signature": base64.b64encode(signature).decode(),
            "SigningCertURL": CERTIFICATE_URL,
            **fields,
        }


def body(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()
