"""Amazon SNS by its API: announcements to the topic, the confirmation of its subscription, and text messages.

boto3 is imported at the first call and not before: installations without SNS never load it. Each call waits 3 s for a
connection and 10 s for an answer and is tried once; who calls tries again. What goes wrong reads as one sentence that
names the call and what to look at.
"""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings

from notifications.channels.base import DeliveryError, Parcel
from notifications.sns_messages import Topic, topic_of

TEXT_LIMIT = 140
_CONNECT_S, _ANSWER_S = 3, 10
_E164 = r"\+[1-9][0-9]{6,14}"
# Typographic marks that would make a text message of 160 characters one of 70 (they are not in GSM 03.38).
_PLAIN = str.maketrans({"·": "-", "–": "-", "—": "-", "…": "...", "’": "'", "‘": "'", "“": '"', "”": '"', "\xa0": " "})

_CREDENTIALS = "the AWS credentials of this process (its computer's role, or AWS_ACCESS_KEY_ID and what belongs to it)"
_THROTTLED = {"Throttling", "Throttled", "ThrottlingException", "ThrottledException", "TooManyRequestsException"}
_STRANGERS = {"InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "IncompleteSignature"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException"}
_FORBIDDEN = {"AuthorizationError", "AuthorizationErrorException", "AccessDenied", "AccessDeniedException"}
_CLOCK = {"RequestExpired", "RequestTimeTooSkewed", "SignatureNotYetCurrent"}

_of_thread = threading.local()
_threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sns")


def publish(topic: Topic, text: str) -> str:
    """Publishes to the topic, without a Subject; the message's id. Raises DeliveryError."""
    answer = _call("Publish", topic.region, "NOTIFY_SNS_TOPIC", TopicArn=topic.arn, Message=text)
    return str(answer["MessageId"])


def confirm(topic: Topic, token: str) -> str:
    """Confirms a subscription so that only AWS credentials can end it; its ARN. Raises DeliveryError."""
    arguments = {"TopicArn": topic.arn, "Token": token, "AuthenticateOnUnsubscribe": "true"}
    return str(_call("ConfirmSubscription", topic.region, "NOTIFY_SNS_TOPIC", **arguments)["SubscriptionArn"])


def send_text(phone: str, text: str) -> str:
    """Sends a text message to a phone; the message's id. Raises DeliveryError.

    A call whose answer was lost may have sent it: a second try is a second message then, since SNS knows no key for it.
    """
    if not re.fullmatch(_E164, phone):
        raise DeliveryError("The phone number is not E.164: expected + and 7 to 15 digits.", permanent=True)
    region = settings.AWS_REGION or topic_of(settings.NOTIFY_SNS_TOPIC).region
    kind = {"AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"}}
    answer = _call("Publish", region, "AWS_REGION", PhoneNumber=phone, Message=text, MessageAttributes=kind)
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


def _client(region: str) -> Any:
    """This thread's client for the region; sessions of boto3 are not for several threads at once."""
    import boto3
    from botocore.config import Config

    clients: dict[str, Any] = _of_thread.__dict__.setdefault("clients", {})
    if region not in clients:
        config = Config(connect_timeout=_CONNECT_S, read_timeout=_ANSWER_S, retries={"total_max_attempts": 1})
        clients[region] = boto3.session.Session().client("sns", region_name=region, config=config)
    return clients[region]


def _call(name: str, region: str, setting: str, **arguments: Any) -> dict[str, Any]:
    from botocore.exceptions import BotoCoreError, ClientError

    method = {"Publish": "publish", "ConfirmSubscription": "confirm_subscription"}[name]
    try:
        answer: dict[str, Any] = getattr(_client(region), method)(**arguments)
    except ClientError as error:
        raise _refused(f"sns:{name}", region, setting, error) from error
    except BotoCoreError as error:
        raise _unreachable(f"sns:{name}", region, error) from error
    return answer


def _refused(call: str, region: str, setting: str, error: Any) -> DeliveryError:
    """What SNS answered, as a sentence; its own message may hold a phone number, so only its code is repeated."""
    told = error.response.get("Error", {})
    code, said = str(told.get("Code", "")), str(told.get("Message", "")).lower()
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    is_text = setting != "NOTIFY_SNS_TOPIC"
    if code in _EXPIRED:
        _of_thread.__dict__.pop("clients", None)  # the next try reads the credentials anew
        return DeliveryError(f"{call}: {_CREDENTIALS} have expired.")
    if code in _CLOCK or (code == "SignatureDoesNotMatch" and "expired" in said):
        return DeliveryError(f"{call}: this computer's clock is wrong by minutes, so AWS refuses what it signs.")
    if code in _STRANGERS:
        return DeliveryError(f"{call}: AWS does not know {_CREDENTIALS}.", permanent=True)
    if is_text and ("spend" in said or "quota" in said):
        limit = "the account's monthly limit for text messages (MonthlySpendLimit) is spent"
        return DeliveryError(f"{call}: {limit}; raise it in the SNS console.", permanent=True)
    if is_text and ("opted out" in said or "optedout" in code.lower()):
        return DeliveryError(
            "The phone's owner has opted out of text messages; only they can opt in again.", permanent=True
        )
    if code in _THROTTLED or status == 429:
        return DeliveryError(f"{call}: SNS takes no more at the moment ({code}).", retry_after_s=5)
    if code in _FORBIDDEN:
        target = "text messages (Resource *)" if is_text else f"the topic in {setting}"
        return DeliveryError(f"{call}: {_CREDENTIALS} may not do this on {target}.", permanent=True)
    if code in {"NotFound", "NotFoundException"}:
        return DeliveryError(f"{call}: {setting} names what is not there in {region}.", permanent=True)
    if code == "OptInRequired" or "sandbox" in said:
        return DeliveryError(
            f"{call}: the AWS account is not signed up for this, or in the SMS sandbox.", permanent=True
        )
    if is_text and code in {"NotSupported", "UnsupportedOperation", "InvalidAction"}:
        return DeliveryError(f"{call}: {region} (AWS_REGION) sends no text messages ({code}).", permanent=True)
    if call == "sns:ConfirmSubscription" and code.startswith("InvalidParameter"):
        words = f"{call}: SNS no longer takes the token of its own question. Subscribe the hook anew."
        return DeliveryError(words, permanent=True, is_gone=True)
    if status >= 500 or code in {"InternalError", "InternalErrorException", "InternalFailure", "ServiceUnavailable"}:
        return DeliveryError(f"{call}: SNS failed ({code or status}); another try may do.")
    what = "the phone number or its country" if is_text else f"what {setting} names"
    return DeliveryError(f"{call}: SNS refused it ({code or status}); look at {what}.", permanent=True)


def _unreachable(call: str, region: str, error: Exception) -> DeliveryError:
    """What botocore says before or instead of an answer, as a sentence."""
    from botocore import exceptions as aws

    if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError)):
        return DeliveryError(f"{call}: found no whole set of {_CREDENTIALS}.", permanent=True)
    if isinstance(error, (aws.CredentialRetrievalError, aws.MetadataRetrievalError, aws.TokenRetrievalError)):
        return DeliveryError(f"{call}: {_CREDENTIALS} could not be fetched.")
    if isinstance(error, aws.ConnectTimeoutError):
        return DeliveryError(f"{call}: no connection to SNS in {region} within {_CONNECT_S} s.")
    if isinstance(error, aws.ReadTimeoutError):
        return DeliveryError(f"{call}: SNS in {region} did not answer within {_ANSWER_S} s.")
    if isinstance(error, (aws.HTTPClientError, aws.ConnectionError)):
        return DeliveryError(f"{call}: SNS in {region} cannot be reached ({type(error).__name__}).")
    return DeliveryError(f"{call}: boto3 cannot do this ({type(error).__name__}).", permanent=True)
