"""AWS as this process sees it: who we are there, what we may do, and whether its clock is ours."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from django.conf import settings

from machines.aws import Aws, AwsError, Kind
from notifications.sns_messages import topic_of
from portal.doctor.findings import Check, Finding, attention, ok, wrong

CLOCKS_DIFFER_S = 5.0
_CONNECT_S, _ANSWER_S = 2.0, 5.0
# Of what is looked at here, the worker itself asks this.
_WORKERS_OWN = ("iot:DescribeThingType", "globalaccelerator:")
# What may have passed by the time that somebody reads it.
_PASSING = {Kind.THROTTLED, Kind.FAILED}


def uses_ecs() -> bool:
    return bool(settings.GATEWAY == "ecs")


def uses_iot_core() -> bool:
    return bool(settings.TELEMETRY == "iot_core")


def uses_sns() -> bool:
    return bool(settings.NOTIFY_VIA == "sns" or settings.SMS == "sns")


def uses_aws() -> bool:
    """Whether anything here was chosen that AWS does."""
    return uses_ecs() or uses_iot_core() or uses_sns() or bool(settings.ACCELERATOR)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who AWS takes us for; `ahead_s` is how far its clock is before ours."""

    arn: str
    ahead_s: float | None


class Cloud:
    """AWS in the region of this installation, for the checks of one examination; asked by several threads."""

    def __init__(self) -> None:
        region, setting = settings.AWS_REGION, "AWS_REGION"
        if not region and settings.NOTIFY_SNS_TOPIC:
            region, setting = topic_of(settings.NOTIFY_SNS_TOPIC).region, "NOTIFY_SNS_TOPIC"
        if not region:  # an accelerator and nothing else: its API has one region
            region, setting = "us-west-2", ""
        self.aws = Aws(region, setting=setting, connect_s=_CONNECT_S, answer_s=_ANSWER_S)
        self._lock = threading.Lock()
        self._who: Identity | AwsError | None = None

    def check(self, name: str, look: Callable[[Cloud], Iterable[Finding]]) -> Check:
        """A check that says nothing where AWS does not let us in: that is said once, by `identity`."""

        def guarded() -> Iterator[Finding]:
            if isinstance(self.who(), AwsError):
                return
            try:
                yield from look(self)
            except AwsError as error:
                yield found_of(error)

        return Check(name, guarded)

    def who(self) -> Identity | AwsError:
        """Who we are, or why AWS did not say; asked once."""
        with self._lock:
            if self._who is None:
                self._who = self._ask()
            return self._who

    def _ask(self) -> Identity | AwsError:
        begun = datetime.now(UTC)
        try:
            # The one call that everybody may make (AWS STS API Reference).
            answer = self.aws.call("sts", "GetCallerIdentity", about="ourselves", setting="the AWS credentials")
        except AwsError as error:
            return error
        middle = begun + (datetime.now(UTC) - begun) / 2
        return Identity(str(answer.get("Arn", "")), _ahead_s(answer, middle))


def checks(cloud: Cloud) -> list[Check]:
    return [Check("aws", lambda: identity(cloud)), cloud.check("aws clock", clock), cloud.check("may we", permissions)]


def found_of(error: AwsError) -> Finding:
    """Why something could not be looked at. What only the doctor asks needs permissions that the processes do not."""
    if error.kind is Kind.FORBIDDEN and not str(error).startswith(_WORKERS_OWN):
        return attention(f"{error} It is needed to look at this, and by nothing else.")
    return attention(str(error)) if error.kind in _PASSING else wrong(str(error))


def identity(cloud: Cloud) -> Iterator[Finding]:
    """Who we are at AWS."""
    who = cloud.who()
    if isinstance(who, AwsError):
        yield wrong(f"{who} Nothing else at AWS was looked at.")
        return
    yield ok(f"AWS knows us as {who.arn} in {cloud.aws.region}.")
    if who.arn.endswith(":root"):
        yield attention("These are the account's root credentials. Use a role that may do just what is needed.")


def clock(cloud: Cloud) -> Iterator[Finding]:
    """AWS' clock against ours."""
    who = cloud.who()
    if isinstance(who, Identity) and who.ahead_s is not None:
        yield of_clocks("AWS'", who.ahead_s)


def of_clocks(whose: str, ahead_s: float) -> Finding:
    """How another clock stands to ours; certificates, signatures and leases go by both."""
    if abs(ahead_s) <= CLOCKS_DIFFER_S:
        return ok(f"{whose[0].upper()}{whose[1:]} clock and this computer's are together.")
    way = "behind" if ahead_s > 0 else "ahead of"
    words = f"This computer's clock is {abs(ahead_s):.0f} s {way} {whose}."
    return attention(f"{words} Set it by NTP (chrony; at AWS 169.254.169.123).")


def _ahead_s(answer: dict[str, Any], at: datetime) -> float | None:
    headers = (answer.get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
    try:
        # A date has whole seconds: half of one is what it lacks on average.
        return (parsedate_to_datetime(str(headers.get("date"))) - at).total_seconds() + 0.5
    except (ValueError, TypeError):
        return None


# --- what the worker calls, tried where it comes to nothing -----------------------------------------------------------


def permissions(cloud: Cloud) -> Iterator[Finding]:
    """Whether these credentials may call what the worker calls: about things that do not exist, so nothing happens.

    StopTask is not among them: the worker's role may stop tasks with a gateway's tag alone, and what does not exist has
    none. RunTask and Publish would do it.
    """
    tries = [*_of_ecs(cloud.aws), *_of_iot(cloud.aws), *_of_sns(cloud.aws)]
    allowed = 0
    for attempt in tries:
        try:
            attempt()
            allowed += 1
        except AwsError as error:
            if error.kind is Kind.FORBIDDEN:
                yield wrong(str(error))
            elif _proves_permission(error):
                allowed += 1
            else:
                yield attention(f"{error} So whether the worker's call is allowed is not known.")
    if tries and allowed == len(tries):
        yield ok(f"Of what the worker calls, {len(tries)} kinds were tried with what does not exist: all are allowed.")


def _proves_permission(error: AwsError) -> bool:
    """AWS looks for a thing, and at what is asked of it, once the call is allowed.

    But for SQS: to it a queue that is not there and one that is not ours are the same.
    """
    if error.kind is Kind.NOT_FOUND:
        return not str(error).startswith("sqs:")
    return error.kind is Kind.REFUSED and ("Invalid" in error.code or "Validation" in error.code)


def _of_ecs(aws: Aws) -> list[Callable[[], object]]:
    if not uses_ecs():
        return []
    cluster = {"cluster": settings.ECS_CLUSTER}
    about: dict[str, Any] = {"about": f"the cluster {settings.ECS_CLUSTER}", "setting": "ECS_CLUSTER"}
    nowhere = uuid.uuid4().hex
    tries: list[Callable[[], object]] = [
        lambda: aws.call("ecs", "ListTasks", **about, **cluster, maxResults=1),
        lambda: aws.call("ecs", "DescribeTasks", **about, **cluster, tasks=[nowhere], include=["TAGS"]),
    ]
    if url := settings.ECS_EVENTS_QUEUE:
        queue: dict[str, Any] = {"about": "the queue of events", "setting": "ECS_EVENTS_QUEUE"}
        tries.append(lambda: aws.call("sqs", "DeleteMessage", **queue, QueueUrl=url, ReceiptHandle="none"))
    return tries


def _of_iot(aws: Aws) -> list[Callable[[], object]]:
    if not uses_iot_core():
        return []
    thing = f"portafilter-doctor-{uuid.uuid4().hex}"
    about: dict[str, Any] = {"about": "things", "setting": "IOT_THING_NAME"}
    return [
        lambda: aws.call("iot", "DescribeThing", **about, thingName=thing),
        lambda: aws.call("iot", "DescribeJobExecution", **about, thingName=thing, jobId="portafilter-0"),
        lambda: aws.call("iot-data", "GetThingShadow", **about, thingName=thing, shadowName="remote-desktop"),
    ]


def _of_sns(aws: Aws) -> list[Callable[[], object]]:
    if settings.NOTIFY_VIA != "sns":
        return []
    topic = topic_of(settings.NOTIFY_SNS_TOPIC)
    sns = aws if topic.region == aws.region else Aws(topic.region, setting="NOTIFY_SNS_TOPIC", answer_s=_ANSWER_S)
    about: dict[str, Any] = {"about": "the topic", "setting": "NOTIFY_SNS_TOPIC", "TopicArn": topic.arn}
    return [lambda: sns.call("sns", "ConfirmSubscription", **about, Token="0", AuthenticateOnUnsubscribe="true")]
