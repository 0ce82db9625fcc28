"""What the machines' schema says of answers, problems and parameters."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiParameter

from machines.api.problems import MEDIA_TYPE
from sessions.states import EndReason, State

_SUPPORT_REQUEST: dict[str, Any] = {
    "type": "object",
    "description": "A request for help as its own machine sees it; never a credential.",
    "required": [
        "id", "version", "state", "end_reason", "message", "operator_name", "created_at", "updated_at",
    ],
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "version": {"type": "integer", "minimum": 1, "description": "Grows with every change; give it as `since`."},
        "state": {"type": "string", "enum": [state.value for state in State]},
        "end_reason": {"type": "string", "nullable": True, "enum": [*(reason.value for reason in EndReason), None]},
        "message": {"type": "string", "description": "For the person at the machine."},
        "operator_name": {"type": "string", "nullable": True},
        "created_at": {"type": "string", "format": "date-time"},
        "updated_at": {"type": "string", "format": "date-time"},
    },
}  # fmt: skip
SUPPORT_REQUEST = {"$ref": "#/components/schemas/SupportRequest"}
PROBLEM = {"$ref": "#/components/schemas/Problem"}
HEARTBEAT_ANSWER: dict[str, Any] = {
    "type": "object",
    "required": ["session"],
    "properties": {"session": {"allOf": [SUPPORT_REQUEST], "nullable": True}},
}
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was found, what was expected, what to do."},
        "code": {"type": "string", "description": "What a program branches on."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "found", "expected"],
                "properties": {name: {"type": "string"} for name in ("field", "found", "expected")},
            },
        },
    },
}
IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[\x21-\x7e]+$"},
    OpenApiParameter.HEADER,
    required=True,
    description="The press; a retry of the same press sends the same key.",
)
WAIT = OpenApiParameter(
    "wait",
    {"type": "integer", "minimum": 0, "maximum": 60},
    OpenApiParameter.QUERY,
    description="Seconds to wait for a change.",
)
SINCE = OpenApiParameter(
    "since",
    {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    OpenApiParameter.QUERY,
    description="The version that the machine knows.",
)


def problems(*statuses: int) -> dict[tuple[int, str], dict[str, Any]]:
    """The error answers of a call: those that any call may have, and its own."""
    return {(status, MEDIA_TYPE): PROBLEM for status in sorted({401, 403, 405, 500, *statuses})}


def complete(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A spectacular hook: the serializers refuse members they do not know, and the answers' shapes get names."""
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    for schema in schemas.values():
        if schema.get("type") == "object":
            schema["additionalProperties"] = False
    schemas.update(SupportRequest=_SUPPORT_REQUEST, Problem=_PROBLEM)
    return result
