"""What every view of the machines' face has in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from machines.api.authentication import MachineAuthentication, MachineCaller
from machines.api.problems import Problem
from machines.models import Machine

# The largest honest body, every text at its limit and escaped, is below 40 kB.
BODY_LIMIT = 64 * 1024


class BodyParser(BaseParser):
    """JSON in UTF-8, up to BODY_LIMIT bytes. Problems say where a body breaks off, never what is in it."""

    media_type = "application/json"

    def parse(
        self, stream: IO[bytes], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        data = stream.read(BODY_LIMIT + 1)
        if len(data) > BODY_LIMIT:
            raise too_large()
        try:
            return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        except UnicodeDecodeError as error:
            raise _malformed(f"a byte at position {error.start} that is not UTF-8") from None
        except json.JSONDecodeError as error:
            raise _malformed(f"an error at line {error.lineno}, column {error.colno}") from None
        except (ValueError, RecursionError):
            raise _malformed("a number or nesting beyond all bounds") from None


class JsonOnly(BaseContentNegotiation):
    """Answers are JSON, whatever a client says that it accepts."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        content_type = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == content_type), None)

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class MachineView(APIView):
    """A view for an authenticated machine; `machine` is the caller."""

    authentication_classes = [MachineAuthentication]
    permission_classes = [IsAuthenticated]
    parser_classes = [BodyParser]
    content_negotiation_class = JsonOnly
    http_method_names = ["get", "post", "head"]
    request: Request

    @property
    def machine(self) -> Machine:
        caller: MachineCaller = self.request.user  # type: ignore[assignment]
        return caller.machine


def too_large() -> Problem:
    """The answer to a body beyond BODY_LIMIT."""
    return Problem(
        413,
        "body_too_large",
        f"The body has more than {BODY_LIMIT} bytes, expected at most {BODY_LIMIT} bytes of JSON.",
    )


def _malformed(found: str) -> Problem:
    return Problem(
        400,
        "parse_error",
        f"The body is not JSON: found {found}, expected a JSON object in UTF-8.",
        errors=[{"field": "body", "found": found, "expected": "a JSON object in UTF-8"}],
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
