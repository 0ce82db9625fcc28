"""What is ordered of ECS for one attempt: the arguments of RunTask, and the tags by which its task is known."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from django.conf import settings

from sessions.gateways.base import GatewayRequest
from sessions.gateways.ecs_tasks import ATTEMPT_TAG, INSTALLATION_TAG, SESSION_TAG

# What a tag's value may hold (ECS API Reference, Tag), and startedBy.
_TAG_VALUE = re.compile(r"[A-Za-z0-9 +\-=._:/@]{1,256}")
_NOT_IN_STARTED_BY = re.compile(r"[^A-Za-z0-9_/-]")


def order(request: GatewayRequest, *, installation: str) -> dict[str, Any]:
    """RunTask's arguments, always the same for one attempt: else ECS answers ConflictException.

    Nothing of the machine is among them, and no login ever is in a request.
    """
    tags = {INSTALLATION_TAG: installation, ATTEMPT_TAG: request.attempt_id}
    if request.session_id:
        tags[SESSION_TAG] = request.session_id
    arguments: dict[str, Any] = {
        "taskDefinition": settings.ECS_TASK_DEFINITION,
        "count": 1,
        "clientToken": request.attempt_id,
        "startedBy": _NOT_IN_STARTED_BY.sub("-", request.session_id or f"warm-{request.fleet}")[:128],
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
        "enableECSManagedTags": False,
        "networkConfiguration": {
            "awsvpcConfiguration": {
                "subnets": list(settings.ECS_SUBNETS),
                "securityGroups": list(settings.ECS_SECURITY_GROUPS),
            }
        },
        # A zone that is lost takes a part of the gateways with it; within one, computers that stay empty can go.
        "placementStrategy": [
            {"type": "spread", "field": "attribute:ecs.availability-zone"},
            {"type": "binpack", "field": "memory"},
        ],
    }
    if settings.ECS_CAPACITY_PROVIDER:
        arguments["capacityProviderStrategy"] = [{"capacityProvider": settings.ECS_CAPACITY_PROVIDER, "weight": 1}]
    else:
        arguments["launchType"] = "EC2"
    return arguments


def mark() -> str:
    """A digest of all that a gateway without a rescue is ordered with: another one means that something has changed."""
    tunnel = (settings.GATEWAY_VPN_REMOTE, settings.VPN_PORT, settings.VPN_PROTOCOL)
    said = {
        "order": order(GatewayRequest("", session_id="", machine_address="", machine_port=0), installation=""),
        "where": (settings.AWS_REGION, settings.ECS_CLUSTER),
        "network": (settings.ECS_NETWORK, *(tunnel if settings.ECS_NETWORK == "tunnel" else ())),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


def tag_value(text: str) -> str:
    """A text as a tag's value: itself, or where it cannot be one, a digest."""
    if _TAG_VALUE.fullmatch(text) and text == text.strip():
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
