"""The machines' face as an ASGI application: its own URLconf, no browser's middleware, problems instead of pages.

Machines have no browser, so there are no Django sessions, cookies or CSRF here. Forwarding headers mean nothing:
the peer of the socket is the caller (run the server with proxy_headers off).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402
from django.core.exceptions import BadRequest, RequestDataTooBig, SuspiciousOperation  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.http import HttpRequest, HttpResponseBase  # noqa: E402

from machines.api.base import BODY_LIMIT, too_large  # noqa: E402
from machines.api.problems import Problem, http_response, problem_of  # noqa: E402

logger = logging.getLogger(__name__)

_Message = dict[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class MachineHandler(ASGIHandler):
    """Django's handler, bound to the machines' URLconf."""

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        self._middleware_chain = self._answer

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        request.urlconf = settings.MACHINE_URLCONF
        try:
            response: HttpResponseBase = await self._get_response_async(request)  # type: ignore[attr-defined]
        except Exception as error:
            response = http_response(_problem(error))
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers.setdefault("Cache-Control", "no-store")
        return response


class BoundedBody:
    """Refuses bodies beyond the limit before they are kept anywhere; Django would spool any size to disk."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # there are none here; closing before accepting is a 403
                await receive()
                await send({"type": "websocket.close"})
                return
            raise ValueError(f"The machines' face found a scope of type {scope['type']!r}, expected http.")
        seen = 0
        is_refused = False

        async def bounded() -> _Message:
            nonlocal seen, is_refused
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > BODY_LIMIT and not is_refused:
                is_refused = True
                await _send_problem(send, too_large())
            return {"type": "http.disconnect"} if is_refused else message

        await self._app(scope, bounded, send)


def _problem(error: Exception) -> Problem:
    problem = problem_of(error)
    if problem is not None:
        return problem
    if isinstance(error, RequestDataTooBig):
        return too_large()
    if isinstance(error, (BadRequest, SuspiciousOperation)):
        return Problem(400, "bad_request", "The request is malformed.")
    logger.error("Unexpected error on the machines' face", exc_info=error)
    return Problem(500, "error", "The server failed at this. It has noted why; try again in a moment.")


async def _send_problem(send: _Send, problem: Problem) -> None:
    response = http_response(problem)
    headers = [(name.lower().encode(), value.encode()) for name, value in response.items()]
    # The rest of the body is not read: the connection cannot serve another request.
    headers += [(b"content-length", str(len(response.content)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": response.content})


application = BoundedBody(MachineHandler())
