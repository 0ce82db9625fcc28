"""Whether the news of gateways' tasks comes: the queue, who may fill it, and the rule of EventBridge that does."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from django.conf import settings

from machines.aws import AwsError
from portal.doctor.cloud import Cloud
from portal.doctor.findings import Finding, attention, ok, wrong

_MANY_EVENTS = 200
_FILLER = "events.amazonaws.com"
_SEND = "sqs:sendmessage"
# What comes without TLS is refused, and EventBridge comes with it.
_TLS_ALONE = {"Bool": {"aws:SecureTransport": "false"}}


def events(cloud: Cloud) -> Iterator[Finding]:
    """The queue is there, EventBridge may fill it by a rule that is on, and not much waits in it."""
    about: dict[str, Any] = {"about": "the queue of events", "setting": "ECS_EVENTS_QUEUE"}
    url = settings.ECS_EVENTS_QUEUE
    answer = cloud.aws.call("sqs", "GetQueueAttributes", **about, QueueUrl=url, AttributeNames=["All"])
    attributes = answer.get("Attributes") or {}
    faults = [*_faults_of_policy(str(attributes.get("Policy") or "")), *_faults_of_rules(cloud, attributes)]
    waiting = int(attributes.get("ApproximateNumberOfMessages") or 0)
    if waiting > _MANY_EVENTS:
        faults.append(attention(f"{waiting} events wait in ECS_EVENTS_QUEUE: nobody reads it. Is a worker running?"))
    yield from faults
    if not faults:
        yield ok(f"The queue of events is there, a rule of EventBridge that is on fills it, and {waiting} wait in it.")


def _faults_of_rules(cloud: Cloud, attributes: Mapping[str, Any]) -> Iterator[Finding]:
    about: dict[str, Any] = {"about": "the queue of events", "setting": "ECS_EVENTS_QUEUE"}
    arn = str(attributes.get("QueueArn") or "")
    try:
        names = cloud.aws.call("events", "ListRuleNamesByTarget", **about, TargetArn=arn).get("RuleNames") or []
        # It lists those that are off, too.
        states = [
            cloud.aws.call("events", "DescribeRule", about=f"the rule {name}", setting="ECS_EVENTS_QUEUE", Name=name)
            for name in names
        ]
    except AwsError as error:
        yield attention(f"{error} Without it nobody can say whether a rule of EventBridge fills the queue.")
        return
    if not names:
        yield wrong(
            "ECS_EVENTS_QUEUE: no rule of EventBridge puts events into it, so the API is asked instead. "
            "Deploy the stack notify again."
        )
    elif not any(str(one.get("State")).startswith("ENABLED") for one in states):
        yield wrong(
            f"ECS_EVENTS_QUEUE: what puts events into it is off ({', '.join(names)}), so the API is asked instead. "
            "Enable the rule in EventBridge."
        )


# --- the queue's policy -----------------------------------------------------------------------------------------------


def _faults_of_policy(policy: str) -> Iterator[Finding]:
    statements = [one for one in _statements(policy) if _is_for_eventbridge(one) and _is_for_sending(one)]
    denied = [one for one in statements if one.get("Effect") == "Deny" and one.get("Condition") != _TLS_ALONE]
    if not any(one.get("Effect") == "Allow" for one in statements):
        yield wrong(
            f"ECS_EVENTS_QUEUE: its policy does not let {_FILLER} send to it (sqs:SendMessage). "
            "Deploy the stack notify again."
        )
    elif any(not one.get("Condition") for one in denied):
        yield wrong(
            f"ECS_EVENTS_QUEUE: its policy denies {_FILLER} to send to it (sqs:SendMessage). "
            "Deploy the stack notify again."
        )
    elif denied:
        yield attention(
            f"ECS_EVENTS_QUEUE: its policy denies {_FILLER} to send to it on a condition that is not weighed here. "
            "See that it lets in what the rule sends."
        )


def _statements(policy: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(policy or "{}").get("Statement") or []
    except (ValueError, AttributeError):
        return []
    return [one for one in _listed(found) if isinstance(one, dict)]


def _is_for_eventbridge(statement: Mapping[str, Any]) -> bool:
    if "NotPrincipal" in statement:
        return statement.get("Effect") == "Deny" and _FILLER not in _named(statement["NotPrincipal"])
    return bool({_FILLER, "*"} & _named(statement.get("Principal")))


def _named(principal: Any) -> set[Any]:
    """Services, and `*` where it is everybody; what names an account alone is not EventBridge."""
    if not isinstance(principal, dict):
        return set(_listed(principal))
    return {*_listed(principal.get("Service")), *({"*"} & set(_listed(principal.get("AWS"))))}


def _is_for_sending(statement: Mapping[str, Any]) -> bool:
    is_all_but = "NotAction" in statement
    patterns = _listed(statement.get("NotAction" if is_all_but else "Action"))
    return any(fnmatchcase(_SEND, str(pattern).lower()) for pattern in patterns) is not is_all_but


def _listed(value: Any) -> list[Any]:
    """AWS takes one thing for a list of it."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
