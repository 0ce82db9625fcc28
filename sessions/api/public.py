"""Rescues for operators: the queue, and everything that a person does with one. All else here is 404."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.http import Http404
from django.utils import timezone
from drf_spectacular.drainage import set_override
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response

import sessions.api.errors  # noqa: F401  (registers how this app's errors read over HTTP)
from machines import selectors as fleet_selectors
from machines.api.documents import MAX_ID, NothingSerializer, PersonalView
from machines.api.documents import problem_responses as problems
from machines.api.fields import Choice, StrictSerializer, Text, WholeNumber
from machines.api.public import PAGE, person_of
from machines.api.throttles import PersonThrottle
from sessions import attachments, escalation, selectors, services
from sessions.api.cards import (
    CardPageSerializer,
    CardSerializer,
    CausesSerializer,
    ColleaguesSerializer,
    EventsSerializer,
    TicketSerializer,
)
from sessions.models import Attachment, SupportSession
from sessions.states import OPEN_STATES, EndReason


class AskedSerializer(serializers.Serializer):  # type: ignore[type-arg]
    state = serializers.ChoiceField(choices=["open", "closed"], required=False)
    machine = serializers.IntegerField(min_value=1, max_value=MAX_ID, required=False)


class HandoverSerializer(StrictSerializer):
    operator = WholeNumber(least=1, most=MAX_ID, help_text="The id of a colleague, or one's own to take over.")


class Note(Text):
    """A text of several lines."""

    def __init__(self, *, longest: int, **kwargs: Any) -> None:
        lines = r"[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]*"
        expected = f"up to {longest} characters of text without control characters other than line ends"
        super().__init__(longest=longest, pattern=lines, expected=expected, **kwargs)
        schema = {"type": "string", "maxLength": longest, "pattern": r"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f]*$"}
        set_override(self, "field", schema)


class CloseSerializer(StrictSerializer):
    outcome = Choice((EndReason.RESOLVED.value, EndReason.NOT_RESOLVED.value, EndReason.FORCED.value))
    cause = Text(longest=200, default="")
    fix = Text(longest=200, default="")
    note = Note(longest=2000, default="")


class AttachSerializer(StrictSerializer):
    role = Choice((Attachment.Role.CONTROLLER.value, Attachment.Role.WATCHER.value))


class RescuePages(PageNumberPagination):
    """The queue comes whole: a page that replaced it by a part would lose people who wait."""

    def get_page_size(self, request: Request) -> int:
        return 500 if request.query_params.get("state") == "open" else 50


class TicketThrottle(PersonThrottle):
    """Each ticket is a row: far more than any number of re-joining screens needs, and no more."""

    scope = "tickets"
    rate = "240/min"


class SessionsView(PersonalView):
    """The rescues of one's fleets: the open ones with the longest waiting first, others with the newest first."""

    @extend_schema(
        operation_id="sessions",
        parameters=[
            OpenApiParameter("state", str, enum=["open", "closed"], description="closed: ending or ended."),
            OpenApiParameter("machine", {"type": "integer", "minimum": 1, "maximum": MAX_ID}),
            PAGE,
        ],
        responses={200: CardPageSerializer, **problems(400, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        asked = AskedSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        user = person_of(request)
        state = asked.validated_data.get("state")
        found = selectors.open_sessions_for(user) if state == "open" else selectors.sessions_for(user)
        if state == "closed":
            found = found.exclude(state__in=[s.value for s in OPEN_STATES])
        if machine := asked.validated_data.get("machine"):
            found = found.filter(machine_id=machine)
        paginator = RescuePages()
        page: list[SupportSession] = paginator.paginate_queryset(found, request, self) or []
        return paginator.get_paginated_response(selectors.cards(page, viewer=user))


class MissedView(PersonalView):
    """The rescues that nobody came to and no supervisor has looked at, the newest first; none for operators."""

    @extend_schema(operation_id="missed", parameters=[PAGE], responses={200: CardPageSerializer, **problems(403, 404)})
    def get(self, request: Request) -> Response:
        user = person_of(request)
        paginator = RescuePages()
        page: list[SupportSession] = (
            paginator.paginate_queryset(selectors.missed_sessions_for(user), request, self) or []
        )
        return paginator.get_paginated_response(selectors.cards(page, viewer=user))


class RescueView(PersonalView):
    """A call on one rescue of one's fleets; for everybody else there is none."""

    def rescue(self, request: Request, session_id: UUID) -> SupportSession:
        """Raises Http404 also for what belongs to another fleet (T22)."""
        session = selectors.session_to_change(person_of(request), session_id)
        if session is None:
            raise Http404
        return session

    def body(self, request: Request, serializer: type[StrictSerializer]) -> dict[str, Any]:
        given = serializer(data=request.data)
        given.is_valid(raise_exception=True)
        values: dict[str, Any] = given.validated_data
        return values

    def card(self, request: Request, session_id: UUID) -> Response:
        """The rescue as it is now, read again. Raises Http404 as `rescue` does."""
        user = person_of(request)
        session = selectors.session_for(user, session_id)
        if session is None:
            raise Http404
        return Response(selectors.card(session, viewer=user))


class SessionView(RescueView):
    """One rescue."""

    @extend_schema(operation_id="session", responses={200: CardSerializer, **problems(403, 404)})
    def get(self, request: Request, session_id: UUID) -> Response:
        return self.card(request, session_id)


class ClaimView(RescueView):
    """Makes oneself the operator; of several who try at once one wins, and the others are told who."""

    @extend_schema(
        operation_id="claim",
        request=NothingSerializer,
        responses={200: CardSerializer, **problems(400, 403, 404, 409, 415)},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        session = self.rescue(request, session_id)
        self.body(request, NothingSerializer)
        services.claim(session, user=person_of(request))
        return self.card(request, session_id)


class ReleaseView(RescueView):
    """Gives a claimed rescue back to the queue."""

    @extend_schema(
        operation_id="release",
        request=NothingSerializer,
        responses={200: CardSerializer, **problems(400, 403, 404, 409, 415)},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        session = self.rescue(request, session_id)
        self.body(request, NothingSerializer)
        services.release(session, user=person_of(request))
        return self.card(request, session_id)


class HandoverView(RescueView):
    """Makes a colleague the operator; a supervisor takes over by naming themselves."""

    @extend_schema(
        operation_id="handover",
        request=HandoverSerializer,
        responses={200: CardSerializer, **problems(400, 403, 404, 409, 415)},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        session = self.rescue(request, session_id)
        values = self.body(request, HandoverSerializer)
        # Looked for among colleagues only: an answer about anybody else would tell that they exist.
        to = fleet_selectors.colleagues(session.fleet).filter(pk=values["operator"]).first()
        if to is None:
            raise serializers.ValidationError({"operator": f"the id of somebody who works for {session.fleet.name}"})
        services.hand_over(session, to=to, user=person_of(request))
        return self.card(request, session_id)


class CloseView(RescueView):
    """Ends a rescue with its cause and fix; what is behind it goes down at once."""

    @extend_schema(
        operation_id="close",
        request=CloseSerializer,
        responses={200: CardSerializer, **problems(400, 403, 404, 409, 415)},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        session = self.rescue(request, session_id)
        values = self.body(request, CloseSerializer)
        outcome = EndReason(values.pop("outcome"))
        services.close(session, user=person_of(request), outcome=outcome, **values)
        return self.card(request, session_id)


class LookedAtView(RescueView):
    """A supervisor has looked at a rescue that nobody came to; the first time counts."""

    @extend_schema(
        operation_id="lookedAt",
        request=NothingSerializer,
        responses={200: CardSerializer, **problems(400, 403, 404, 409, 415)},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        session = self.rescue(request, session_id)
        self.body(request, NothingSerializer)
        escalation.look_at(session, user=person_of(request), now=timezone.now())
        return self.card(request, session_id)


class AttachmentsView(RescueView):
    """A ticket for one browser to join the desktop."""

    throttle_classes = [TicketThrottle]

    @extend_schema(
        operation_id="attach",
        request=AttachSerializer,
        responses={201: TicketSerializer, **problems(400, 403, 404, 409, 415, 429)},
    )
    def post(self, request: Request, session_id: UUID) -> Response:
        session = self.rescue(request, session_id)
        role = self.body(request, AttachSerializer)["role"]
        ticket = attachments.issue_ticket(session, user=person_of(request), role=role)
        life = int(attachments.TICKET_LIFE.total_seconds())
        return Response({"ticket": ticket, "expires_in_s": life, "role": role}, status=201)


class EventsView(RescueView):
    """What happened to a rescue, in words, oldest first."""

    @extend_schema(operation_id="events", responses={200: EventsSerializer, **problems(403, 404)})
    def get(self, request: Request, session_id: UUID) -> Response:
        return Response({"results": selectors.timeline(self.rescue(request, session_id))})


class ColleaguesView(RescueView):
    """Who may be given a rescue."""

    @extend_schema(operation_id="colleagues", responses={200: ColleaguesSerializer, **problems(403, 404)})
    def get(self, request: Request, session_id: UUID) -> Response:
        people = fleet_selectors.colleagues(self.rescue(request, session_id).fleet)
        return Response({"results": [{"id": person.pk, "name": person.display_name} for person in people]})


class CausesView(PersonalView):
    """Causes and fixes to choose from, the most used first."""

    @extend_schema(operation_id="causes", responses={200: CausesSerializer, **problems(403)})
    def get(self, request: Request) -> Response:
        return Response(selectors.suggestions(fleet_selectors.fleets_of(person_of(request))))
