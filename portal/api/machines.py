"""Machines with their open rescues: the one place of the public face that needs both apps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from machines import registration
from machines import selectors as fleet_selectors
from machines.api import public
from machines.api.documents import MAX_ID
from machines.api.documents import problem_responses as problems
from machines.api.fields import StrictSerializer, Text, WholeNumber
from machines.api.problems import invalid
from machines.models import Machine, MachineModel, Site
from sessions import selectors
from sessions.api.cards import CardSerializer


class MachineWithRescueSerializer(public.MachineSerializer):
    open_session = CardSerializer(allow_null=True)


class RegisterSerializer(StrictSerializer):
    """A machine that is to be known; its fleet is its site's."""

    serial = Text(longest=64, shortest=1)
    site = WholeNumber(least=1, most=MAX_ID, help_text="The id of a site of one's fleets.")
    model = Text(longest=80, shortest=1, help_text="Its name.")
    name = Text(longest=80, default="", help_text="Where it stands at its site.")


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

    @extend_schema(
        operation_id="registerMachine",
        request=RegisterSerializer,
        responses={201: MachineWithRescueSerializer, **problems(400, 403, 409, 413, 415)},
    )
    def post(self, request: Request) -> Response:
        """Registers a machine: it has the next free address from now on, and can be let in."""
        user = public.person_of(request)
        given = RegisterSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        values = given.validated_data
        site = Site.objects.filter(fleet__in=fleet_selectors.fleets_of(user), pk=values["site"]).first()
        if site is None:
            raise invalid("site", found="another number", expected="the id of a site of your fleets")
        model = MachineModel.objects.filter(name=values["model"]).first()
        if model is None:
            raise invalid("model", found="another name", expected="the name of a model that is known here")
        machine = registration.register(site=site, model=model, serial=values["serial"], name=values["name"], user=user)
        return Response(public.machine_document(machine, None), status=201)


class MachineView(_WithRescues, public.MachineView):
    """One machine of one's fleets, with its open rescue."""

    @extend_schema(operation_id="machine", responses={200: MachineWithRescueSerializer, **problems(403, 404)})
    def get(self, request: Request, machine_id: int) -> Response:
        return super().get(request, machine_id)
