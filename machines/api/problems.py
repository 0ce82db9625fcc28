"""RFC 9457 problem documents: the one shape of every error of both REST faces.

Services raise errors of their own; each app registers with `problem_of` how its errors read over HTTP:

    @problem_of.register
    def _(error: AlreadyClaimed) -> Problem: ...

What was found is described, never repeated: a body may hold credentials.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from functools import singledispatch
from http import HTTPStatus
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from rest_framework import exceptions
from rest_framework.response import Response

from machines.errors import AddressRefused, TokenRefused

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

_DETAILS = {
    "not_authenticated": "You are not signed in, or no longer. Sign in, then try again.",
    "not_found": "There is nothing at this address. It may be gone, or belong to another fleet.",
    "error": "The server failed at this. It has noted why; try again in a moment.",
}
# What Django REST framework's own validators mean, as something that was expected.
_EXPECTED = {
    "required": "a value",
    "null": "a value, not null",
    "blank": "at least one character",
    "not_a_list": "a list",
    "not_a_dict": "an object",
}


class Problem(exceptions.APIException):
    """An error answer that a view raises: a status, a code for programs, a sentence for people, and further members."""

    def __init__(
        self, status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ):
        super().__init__(detail, code)
        self.status_code = status
        self.code = code
        self.text = detail
        self.headers = dict(headers or {})
        self.members = members

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status_code).phrase,
            "status": self.status_code,
            "detail": self.text,
            "code": self.code,
            **self.members,
        }


@singledispatch
def problem_of(error: Exception) -> Problem | None:
    """How an error reads over HTTP; None for one that nobody expected."""
    return None


@problem_of.register
def _(error: Problem) -> Problem:
    return error


@problem_of.register
def _(error: Http404) -> Problem:
    return Problem(404, "not_found", _DETAILS["not_found"])


@problem_of.register
def _(error: PermissionDenied) -> Problem:
    return Problem(403, "permission_denied", str(error) or "You may not do this.")


@problem_of.register
def _(error: TokenRefused) -> Problem:
    return Problem(401, error.code, str(error), headers={"WWW-Authenticate": 'Bearer realm="portafilter"'})


@problem_of.register
def _(error: AddressRefused) -> Problem:
    return Problem(403, error.code, str(error))


@problem_of.register
def _(error: exceptions.APIException) -> Problem:
    codes = error.get_codes()
    code = codes if isinstance(codes, str) else error.default_code
    headers = {}
    if header := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = header
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = str(int(wait) + 1)
    detail = _DETAILS.get(code) or (error.detail if isinstance(error.detail, str) else error.default_detail)
    return Problem(error.status_code, code, str(detail), headers=headers)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response:
    """Django REST framework's EXCEPTION_HANDLER: whatever a view raises becomes a problem document."""
    if isinstance(error, exceptions.ValidationError):
        problem = _invalid(error, context)
    else:
        problem = problem_of(error) or _unexpected(error)
    response = Response(problem.document(), status=problem.status_code, content_type=MEDIA_TYPE)
    for name, value in problem.headers.items():
        response[name] = value
    return response


def http_response(problem: Problem) -> HttpResponse:
    """The same document for views and handlers outside Django REST framework."""
    response = HttpResponse(json.dumps(problem.document()), status=problem.status_code, content_type=MEDIA_TYPE)
    for name, value in problem.headers.items():
        response[name] = value
    return response


def _unexpected(error: Exception) -> Problem:
    # The traceback goes to the log alone; logging's own rendering leaves local variables, so secrets, out.
    logger.error("Unexpected error in a REST call", exc_info=error)
    return Problem(500, "error", _DETAILS["error"])


def _invalid(error: exceptions.ValidationError, context: dict[str, Any]) -> Problem:
    request = context.get("request")
    body = _MISSING if request is None else request.data
    errors = [
        {"field": ".".join(path) or "body", "found": describe(_at(body, path), code), "expected": expected}
        for path, expected, code in _leaves(error.detail, ())
    ]
    first = errors[0] if errors else {"field": "body", "found": "something else", "expected": "a valid body"}
    more = f" {len(errors) - 1} more in `errors`." if len(errors) > 1 else ""
    detail = f"{first['field']}: found {first['found']}, expected {first['expected']}.{more}"
    return Problem(400, "invalid", detail, errors=errors)


def _leaves(detail: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    if isinstance(detail, Mapping):
        for key, value in detail.items():
            yield from _leaves(value, path if key == "non_field_errors" else (*path, str(key)[:40]))
    elif isinstance(detail, list):
        for index, value in enumerate(detail):
            is_item = isinstance(value, (Mapping, list))
            yield from _leaves(value, (*path, str(index)) if is_item else path)
    else:
        code = getattr(detail, "code", "invalid")
        yield path, _EXPECTED.get(code, str(detail).rstrip(".")), code


_MISSING = object()


def _at(body: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if isinstance(body, Mapping):
            body = body.get(key, _MISSING)
        elif isinstance(body, list) and key.isdigit() and int(key) < len(body):
            body = body[int(key)]
        else:
            return _MISSING
    return body


def describe(value: Any, code: str = "") -> str:
    """What a value is, without the value: what somebody sent by mistake may be a secret.

    Only a wrong choice (`code` invalid_choice) is repeated, shortened: there the word itself is the news.
    """
    if value is _MISSING:
        return "nothing"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value[:40]) if code == "invalid_choice" else f"text of {len(value)} characters"
    if isinstance(value, (int, float)):
        return f"the number {value}" if abs(value) < 1e15 else "a huge number"
    if isinstance(value, list):
        return f"a list of {len(value)} entries"
    return "an object"


def invalid(field: str, *, found: str, expected: str) -> Problem:
    """The answer to one wrong header or parameter."""
    error = {"field": field, "found": found, "expected": expected}
    return Problem(400, "invalid", f"{field}: found {found}, expected {expected}.", errors=[error])
