"""The errors that AWS answers with, in its words."""

from __future__ import annotations

from typing import Any

from tests.fakes.ecs.calls import ACCOUNT
from tests.fakes.ecs.plans import Answer
from tests.fakes.ecs.wire import AwsFault

FAULTS = {
    Answer.THROTTLED: ("ThrottlingException", "Rate exceeded", 400),
    Answer.SERVER_ERROR: ("ServerException", "Service Unavailable. Please try again later.", 500),
    Answer.FAILED_LATE: ("ServerException", "Service Unavailable. Please try again later.", 500),
    Answer.NO_INSTANCES: ("InvalidParameterException", "No Container Instances were found in your cluster.", 400),
    Answer.EXPIRED: ("ExpiredTokenException", "The security token included in the request is expired", 400),
    Answer.UNKNOWN_CREDENTIALS: (
        "UnrecognizedClientException",
        "The security token included in the request is invalid.",
        400,
    ),
    Answer.CLUSTER_GONE: ("ClusterNotFoundException", "Cluster not found.", 400),
}
DONE_FIRST = (Answer.LOST, Answer.LATE, Answer.FAILED_LATE)


def fault_of(answer: Answer) -> AwsFault:
    """What an answer that is an error says."""
    code, message, status = FAULTS[answer]
    return AwsFault(code, message, status=status)


def denied(service: str, name: str, arguments: dict[str, Any], region: str) -> AwsFault:
    """What a role without the permission gets."""
    account = ACCOUNT
    cluster = str(arguments.get("cluster", "*")).rpartition("/")[2]
    return AwsFault(
        "AccessDeniedException",
        f"User: arn:aws:sts::{account}:assumed-role/portafilter-worker/i-0a1b2c3d is not authorized to perform: "
        f"{service}:{name} on resource: arn:aws:{service}:{region}:{account}:cluster/{cluster} because no "
        f"identity-based policy allows the {service}:{name} action",
    )
