"""Amazon SNS by its API: announcements to the topic, the confirmation of its subscription, and text messages.

Each call waits 3 s for a connection and 10 s for an answer and is tried once; who calls tries again. What goes wrong
reads as one sentence that names the call and what to look at (machines/aws.py).
"""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from django.conf import settings

from machines.aws import Aws, AwsError, Kind
from notifications.channels.base import DeliveryError, Parcel
from notifications.sns_messages import Topic, topic_of

TEXT_LIMIT = 140
_CONNECT_S, _ANSWER_S = 3, 10
_E164 = r"\+[1-9][0-9]{6,14}"
# Typographic marks that would make a text message of 160 characters one of 70 (they are not in GSM 03.38).
_PLAIN = str.maketrans({"·": "-", "–": "-", "—": "-", "…": "...", "’": "'", "‘": "'", "“": '"', "”": '"', "\xa0": " "})

_TOPIC = {"about": "the topic", "setting": "NOTIFY_SNS_TOPIC"}
_TEXT = {"about": "text messages (Resource *)", "setting": "the phone number or its country"}

_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sns")


def publish(topic: Topic, text: str) -> str:
    """Publishes to the topic, without a Subject; the message's id. Raises DeliveryError."""
    try:
        answer = _of(topic).call("sns", "Publish", **_TOPIC, TopicArn=topic.arn, Message=text)
    except AwsError as error:
        raise _delivery_error(error) from error
    return str(answer["MessageId"])


def confirm(topic: Topic, token: str) -> str:
    """Confirms a subscription so that only AWS credentials can end it; its ARN. Raises DeliveryError."""
    arguments = {"TopicArn": topic.arn, "Token": token, "AuthenticateOnUnsubscribe": "true"}
    try:
        answer = _of(topic).call("sns", "ConfirmSubscription", **_TOPIC, **arguments)
    except AwsError as error:
        if error.code.startswith("InvalidParameter"):
            words = (
                "sns:ConfirmSubscription: SNS no longer takes the token of its own question. Subscribe the hook anew."
            )
            raise DeliveryError(words, permanent=True, is_gone=True) from error
        raise _delivery_error(error) from error
    return str(answer["SubscriptionArn"])


def send_text(phone: str, text: str) -> str:
    """Sends a text message to a phone; the message's id. Raises DeliveryError.

    A call whose answer was lost may have sent it: a second try is a second message then, since SNS knows no key for it.
    """
    if not re.fullmatch(_E164, phone):
        raise DeliveryError("The phone number is not E.164: expected + and 7 to 15 digits.", permanent=True)
    region = settings.AWS_REGION or topic_of(settings.NOTIFY_SNS_TOPIC).region
    kind = {"AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"}}
    aws = _aws(region, "AWS_REGION" if settings.AWS_REGION else "NOTIFY_SNS_TOPIC")
    try:
        answer = aws.call("sns", "Publish", **_TEXT, PhoneNumber=phone, Message=text, MessageAttributes=kind)
    except AwsError as error:
        raise _text_error(error, region) from error
    return str(answer["MessageId"])


def text_of(title: str, body: str, link: str) -> str:
    """A text message of TEXT_LIMIT characters at most; the link stays whole where it fits at all."""
    words = " ".join(f"{title}. {body}".translate(_PLAIN).split())
    room = TEXT_LIMIT - len(link) - 1 if len(link) < TEXT_LIMIT // 2 else TEXT_LIMIT
    if len(words) > room:
        words = words[: room - 3].rstrip() + "..."
    return f"{words} {link}" if room < TEXT_LIMIT else words


class SmsChannel:
    """The `sms` channel by Amazon SNS."""

    async def send(self, parcel: Parcel) -> None:
        """Sends it to the parcel's address, a phone number; raises DeliveryError."""
        text = text_of(parcel.title, parcel.body, f"{settings.PUBLIC_ORIGINS[0]}{parcel.url}" if parcel.url else "")
        await asyncio.get_running_loop().run_in_executor(_threads, send_text, parcel.address, text)


@lru_cache(maxsize=8)
def _aws(region: str, setting: str) -> Aws:
    return Aws(region, setting=setting, connect_s=_CONNECT_S, answer_s=_ANSWER_S)


def _of(topic: Topic) -> Aws:
    return _aws(topic.region, "NOTIFY_SNS_TOPIC")


def _delivery_error(error: AwsError) -> DeliveryError:
    retry_after_s = 5 if error.kind is Kind.THROTTLED else None
    return DeliveryError(str(error), permanent=error.is_permanent, retry_after_s=retry_after_s)


def _text_error(error: AwsError, region: str) -> DeliveryError:
    """What SNS says of text messages with codes that mean anything, in words of our own."""
    code, said = error.code, error.said.lower()
    if error.kind is not Kind.REFUSED:
        return _delivery_error(error)
    if "spend" in said or "quota" in said:
        words = "sns:Publish: the account's monthly limit for text messages (MonthlySpendLimit) is spent; "
        words += "raise it in the SNS console."
    elif "opted out" in said or "optedout" in code.lower():
        words = "The phone's owner has opted out of text messages; only they can opt in again."
    elif code == "OptInRequired" or "sandbox" in said:
        words = "sns:Publish: the AWS account is not signed up for this, or in the SMS sandbox."
    elif code in {"NotSupported", "UnsupportedOperation", "InvalidAction"}:
        words = f"sns:Publish: {region} (AWS_REGION) sends no text messages ({code})."
    else:
        return _delivery_error(error)
    return DeliveryError(words, permanent=True)
