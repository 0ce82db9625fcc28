"""Machines with their open rescues: the one place of the public face that needs both apps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from machines.api import public
from machines.api.documents import problem_responses as problems
from machines.models import Machine
from sessions import selectors
from sessions.api.cards import CardSerializer


class MachineWithRescueSerializer(public.MachineSerializer):
    open_session = CardSerializer(allow_null=True)


class MachinePageSerializer(serializers.Serializer):  # type: ignore[type-arg]
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = MachineWithRescueSerializer(many=True)


class _WithRescues(public.FleetView):
    def rescues_at(self, machines: Iterable[Machine]) -> Mapping[int, dict[str, Any]]:
        user = public.person_of(self.request)
        found = selectors.open_sessions_for(user).filter(machine_id__in=[machine.pk for machine in machines])
        return {card["machine"]["id"]: card for card in selectors.cards(found, viewer=user)}


class MachinesView(_WithRescues, public.MachinesView):
    """The machines of one's fleets, by serial, each with its open rescue."""

    @extend_schema(
        operation_id="machines",
        parameters=[
            OpenApiParameter("q", {"type": "string", "maxLength": 100}, description="Words that all must be found."),
            public.PAGE,
        ],
        responses={200: MachinePageSerializer, **problems(400, 403, 404)},
    )
    def get(self, request: Request) -> Response:
        return super().get(request)


class MachineView(_WithRescues, public.MachineView):
    """One machine of one's fleets, with its open rescue."""

    @extend_schema(operation_id="machine", responses={200: MachineWithRescueSerializer, **problems(403, 404)})
    def get(self, request: Request, machine_id: int) -> Response:
        return super().get(request, machine_id)
