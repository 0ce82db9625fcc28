"""The machines' face: asking for help, following it, withdrawing it, and the sign of life."""

from __future__ import annotations

import re
from collections.abc import Awaitable
from inspect import isawaitable
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

import sessions.api.errors  # noqa: F401  (how the services' errors read)
from machines import services as fleet_services
from machines.api.base import MachineView
from machines.api.problems import invalid
from machines.api.serializers import HeartbeatSerializer
from machines.models import Machine
from sessions import presses, selectors, services
from sessions.api import documents, waiting
from sessions.api.serializers import AskSerializer, NothingSerializer
from sessions.models import SupportSession
from sessions.states import OPEN_STATES, State

LONGEST_WAIT_S = 60
_LARGEST_VERSION = 2**31 - 1
_KEY = re.compile(r"[\x21-\x7e]{1,128}")


class SupportRequests(MachineView):
    """Where help is asked for."""

    @extend_schema(
        operation_id="ask_for_help",
        summary="Ask for help",
        description=(
            "The same key again, with the same body, gives 200 and the same request, over or not. A new key while a "
            "request is open gives 200 and that one; the new login replaces its old."
        ),
        parameters=[documents.IDEMPOTENCY_KEY],
        request=AskSerializer,
        responses={
            (201, "application/json"): documents.SUPPORT_REQUEST,
            (200, "application/json"): documents.SUPPORT_REQUEST,
            **documents.problems(400, 409, 413, 415),
        },
    )
    def post(self, request: Request) -> Response:
        key = _idempotency_key(request)
        asked = AskSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        session, is_new = presses.request_support(self.machine, idempotency_key=key, **asked.arguments())
        return Response(_serve(session), status=201 if is_new else 200)


class Cancel(MachineView):
    """Where the person at the machine withdraws the request."""

    @extend_schema(
        operation_id="cancel_request",
        summary="The person at the machine no longer needs help",
        description="Cancelling again, or what is over already, changes nothing.",
        request=NothingSerializer,
        responses={
            (200, "application/json"): documents.SUPPORT_REQUEST,
            **documents.problems(400, 404, 409, 413, 415),
        },
    )
    def post(self, request: Request, request_id: UUID) -> Response:
        NothingSerializer(data=request.data).is_valid(raise_exception=True)
        return Response(_serve(services.cancel(_own_session(self.machine, request_id))))


class Heartbeat(MachineView):
    """The machine lives."""

    @extend_schema(
        operation_id="heartbeat",
        summary="Say that the machine lives, and hear whether a request of it is open",
        request=HeartbeatSerializer,
        responses={
            (200, "application/json"): documents.HEARTBEAT_ANSWER,
            **documents.problems(400, 413, 415),
        },
    )
    def post(self, request: Request) -> Response:
        beat = HeartbeatSerializer(data=request.data)
        beat.is_valid(raise_exception=True)
        values = {"software": None, "faults": None, "rtt_ms": None, **beat.validated_data}
        fleet_services.record_heartbeat(self.machine, **values)
        session = _sessions_of(self.machine).filter(state__in=[state.value for state in OPEN_STATES]).first()
        return Response({"session": selectors.request_document(session) if session else None})


class SupportRequest(MachineView):
    """One request; asynchronous, since a machine waits here for as long as it likes and must not hold a thread."""

    @extend_schema(
        operation_id="read_request",
        summary="The request, at once or as soon as it changes",
        description=(
            "Without `wait` at once. With it after a change, counted from version `since` if that is given, from now "
            "if not; or when the time is over. What is over does not wait."
        ),
        parameters=[documents.WAIT, documents.SINCE],
        responses={
            (200, "application/json"): documents.SUPPORT_REQUEST,
            **documents.problems(400, 404, 429),
        },
    )
    async def get(self, request: Request, request_id: UUID) -> Response:
        wait_s = _whole_number(request, "wait", most=LONGEST_WAIT_S)
        since = _whole_number(request, "since", most=_LARGEST_VERSION)
        session = await waiting.in_pool(_own_session, self.machine, request_id)
        # Who gives no version may not know yet that the request ends; who gives it waits on, for `closed`.
        is_news = not session.is_open if since is None else since != session.version
        if wait_s and not is_news and session.state != State.CLOSED:
            with waiting.one_of_few(self.machine.pk):
                await waiting.for_change(session.pk, since=session.version, timeout_s=wait_s)
            session = await waiting.in_pool(_own_session, self.machine, request_id)
        return Response(await waiting.in_pool(_serve, session))

    async def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As APIView.dispatch, with the blocking steps in the shared pool and the handler awaited."""
        self.args, self.kwargs = args, kwargs
        self.headers = self.default_response_headers
        self.request = wrapped = self.initialize_request(request, *args, **kwargs)
        try:
            await waiting.in_pool(self.initial, wrapped)
            method = str(request.method).lower()
            handler = getattr(self, method, None) if method in self.http_method_names else None
            handler = handler or self.http_method_not_allowed
            answer: Response | Awaitable[Response] = handler(wrapped, *args, **kwargs)
            response = await answer if isawaitable(answer) else answer
        except Exception as error:
            response = self.handle_exception(error)
        self.response = self.finalize_response(wrapped, response, *args, **kwargs)
        return self.response


def _serve(session: SupportSession) -> dict[str, Any]:
    """The request's document; serving one that ends is how the machine is told."""
    if session.state == State.CLOSING and session.machine_told_at is None:
        services.machine_told(session)
    return selectors.request_document(session)


def _sessions_of(machine: Machine) -> Any:
    return SupportSession.objects.filter(machine=machine).select_related(
        "machine__site", "fleet", "operator", "closed_by", "escalation"
    )


def _own_session(machine: Machine, session_id: UUID) -> SupportSession:
    """Another machine's request is as absent as one that never was."""
    session: SupportSession | None = _sessions_of(machine).filter(pk=session_id).first()
    if session is None:
        raise Http404
    return session


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("Idempotency-Key")
    if key is None or not _KEY.fullmatch(key):
        found = "nothing" if key is None else f"text of {len(key)} characters"
        raise invalid("Idempotency-Key", found=found, expected="1 to 128 visible ASCII characters")
    return key


def _whole_number(request: Request, name: str, *, most: int) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > most:
        found = f"the number {text}" if re.fullmatch(r"[0-9]{1,10}", text) else f"text of {len(text)} characters"
        raise invalid(name, found=found, expected=f"a whole number from 0 to {most}")
    return int(text)
