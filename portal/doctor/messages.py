"""Whether messages get out: through SNS, as text messages, by Web Push and by mail."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Iterator
from typing import Any

from django.conf import settings

from machines.aws import Aws, AwsError
from notifications import mail_server, sns_health
from notifications.channels.mail_line import Backend, Line
from notifications.models import PushDevice
from notifications.sns_messages import topic_of
from portal.doctor.cloud import Cloud
from portal.doctor.findings import Check, Finding, attention, ok, wrong

_MAIL_S = 5
_PAGES = 20
# What a new account may spend on text messages a month, in dollars.
_SMALL_BUDGET = 1.0


def checks(cloud: Cloud | None) -> list[Check]:
    found = [Check("web push", web_push)]
    if settings.NOTIFY_EMAIL_URL:
        found.append(Check("mail", mail))
    if cloud is not None and settings.NOTIFY_VIA == "sns":
        found += [cloud.check("topic", topic), Check("sns", sns_so_far)]
    if cloud is not None and settings.SMS == "sns":
        found.append(cloud.check("text messages", text_messages))
    return found


def topic(cloud: Cloud) -> Iterator[Finding]:
    """It is there, signs well, and the portal is subscribed to it."""
    named = topic_of(settings.NOTIFY_SNS_TOPIC)
    aws = cloud.aws if named.region == cloud.aws.region else Aws(named.region, setting="NOTIFY_SNS_TOPIC", answer_s=5)
    about: dict[str, Any] = {"about": "the topic", "setting": "NOTIFY_SNS_TOPIC", "TopicArn": named.arn}
    attributes = aws.call("sns", "GetTopicAttributes", **about).get("Attributes") or {}
    if attributes.get("SignatureVersion", "1") != "2":
        yield attention("The topic signs with SHA-1. Set its attribute SignatureVersion to 2.")
    wanted = f"{settings.PUBLIC_ORIGINS[0]}/hooks/sns/"
    arns = [one.get("SubscriptionArn") for one in _subscriptions(aws, about) if one.get("Endpoint") == wanted]
    if not arns:
        yield wrong(f"NOTIFY_SNS_TOPIC: nothing of it comes to {wanted}. Subscribe it, protocol https.")
    elif not any(str(arn).startswith("arn:") for arn in arns):
        yield wrong(
            f"NOTIFY_SNS_TOPIC: the subscription of {wanted} is not confirmed. The worker does that: is it running, "
            "and does the internet reach the portal?"
        )
    else:
        yield from _delivery(aws, next(str(arn) for arn in arns if str(arn).startswith("arn:")), wanted)


def _subscriptions(aws: Aws, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    more: dict[str, str] = {}
    for _ in range(_PAGES):
        answer = aws.call("sns", "ListSubscriptionsByTopic", **about, **more)
        yield from answer.get("Subscriptions") or []
        if not answer.get("NextToken"):
            return
        more = {"NextToken": str(answer["NextToken"])}


def _delivery(aws: Aws, arn: str, wanted: str) -> Iterator[Finding]:
    about: dict[str, Any] = {"about": "the portal's subscription", "setting": "NOTIFY_SNS_TOPIC"}
    attributes = aws.call("sns", "GetSubscriptionAttributes", **about, SubscriptionArn=arn).get("Attributes") or {}
    if attributes.get("RawMessageDelivery") == "true":
        yield wrong(f"The subscription of {wanted} has raw message delivery on, so no signature comes. Switch it off.")
    else:
        yield ok(f"The topic is there, and {wanted} is subscribed to it.")


def sns_so_far() -> Iterator[Finding]:
    """What the rows say of the last quarter of an hour."""
    yield from (attention(sentence) for sentence in sns_health.sentences())


def text_messages(cloud: Cloud) -> Iterator[Finding]:
    """Whether the account may send them to everybody, and how many."""
    about: dict[str, Any] = {"about": "text messages (Resource *)", "setting": "SMS"}
    try:
        is_in_sandbox = cloud.aws.call("sns", "GetSMSSandboxAccountStatus", **about).get("IsInSandbox")
    except AwsError as error:
        yield attention(f"{error} So whether the account is in the SMS sandbox is not known.")
        return
    if is_in_sandbox:
        yield wrong(
            "The AWS account is in the SMS sandbox: only verified numbers get text messages. Ask AWS to leave it."
        )
    attributes = cloud.aws.call("sns", "GetSMSAttributes", **about).get("attributes") or {}
    limit = float(attributes.get("MonthlySpendLimit") or _SMALL_BUDGET)
    if limit <= _SMALL_BUDGET:
        yield attention(
            f"The account spends {limit:g} USD a month on text messages at most; past it SNS drops them. Raise it."
        )
    elif not is_in_sandbox:
        yield ok(f"Text messages may cost {limit:g} USD a month.")


def web_push() -> Iterator[Finding]:
    """Whether browsers can be told."""
    if not settings.VAPID_PRIVATE_KEY:
        yield attention("VAPID_PRIVATE_KEY is not set, so no browser gets messages. Make one: manage.py make_secrets.")
    elif settings.SECURE and "@localhost" in settings.VAPID_SUBJECT:
        yield attention("VAPID_SUBJECT is at localhost, which Apple's push service refuses. Name an address of yours.")
    else:
        count = PushDevice.objects.count()
        yield ok(f"The key for Web Push is there; {count} browsers are subscribed.")


def mail() -> Iterator[Finding]:
    """The mail server lets us in; nothing is sent."""
    server = mail_server.parse(settings.NOTIFY_EMAIL_URL)
    if server is None:
        return
    where = f"{server.host}:{server.port} (NOTIFY_EMAIL_URL)"
    line = Line()
    backend = Backend(line, server, timeout_s=_MAIL_S)
    try:
        backend.open()
        yield ok(f"The mail server {server.host}:{server.port} lets us in.")
    except smtplib.SMTPAuthenticationError as error:
        yield wrong(f"The mail server {where} does not accept the name and password ({error.smtp_code}).")
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or type(error).__name__
        yield wrong(f"The mail server {where} has no certificate that is good for its name ({reason}).")
    except (smtplib.SMTPException, OSError) as error:
        yield wrong(f"The mail server {where} cannot be used ({type(error).__name__}). Is the way there open?")
    finally:
        line.cut()
