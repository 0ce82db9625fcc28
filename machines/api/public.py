"""The fleet as operators see it: machines, and oneself. `machines` knows no rescues: who ties the faces together
gives the open ones (`rescues_at`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.pagination import PageNumberPagination
from rest_framework.request import Request
from rest_framework.response import Response

from machines import selectors
from machines.api.documents import MAX_ID, PersonalView, problem_responses
from machines.models import Machine, Operator, User

PAGE = OpenApiParameter("page", {"type": "integer", "minimum": 1, "maximum": 1_000_000}, required=False)


class NamedSerializer(serializers.Serializer):  # type: ignore[type-arg]
    id = serializers.IntegerField()
    name = serializers.CharField()


class SiteSerializer(NamedSerializer):
    city = serializers.CharField()
    country = serializers.CharField(help_text="Two letters of ISO 3166.")
    time_zone = serializers.CharField(help_text="IANA name.")


class MachineSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """A machine; `portal.api` adds its open rescue."""

    id = serializers.IntegerField()
    serial = serializers.CharField()
    name = serializers.CharField()
    model = serializers.CharField()
    site = SiteSerializer()
    fleet = NamedSerializer()
    is_active = serializers.BooleanField()
    last_seen_at = serializers.DateTimeField(allow_null=True)
    software = serializers.CharField()
    faults = serializers.ListField(child=serializers.CharField())
    vpn_address = serializers.IPAddressField()


class MeSerializer(NamedSerializer):
    """Who is signed in. `role` is null for somebody who is no operator."""

    role = serializers.ChoiceField(choices=Operator.Role.choices, allow_null=True)
    time_zone = serializers.CharField()
    fleets = NamedSerializer(many=True)


class SearchSerializer(serializers.Serializer):  # type: ignore[type-arg]
    q = serializers.CharField(max_length=100, required=False, allow_blank=True, default="")


def machine_document(machine: Machine, rescue: dict[str, Any] | None) -> dict[str, Any]:
    """A machine in JSON values, with the card of its open rescue."""
    site, seen = machine.site, machine.last_seen_at
    return {
        "id": machine.pk,
        "serial": machine.serial,
        "name": machine.name,
        "model": machine.model.name,
        "site": {
            "id": site.pk,
            "name": site.name,
            "city": site.city,
            "country": site.country,
            "time_zone": site.time_zone,
        },
        "fleet": {"id": machine.fleet_id, "name": machine.fleet.name},
        "is_active": machine.is_active,
        "last_seen_at": seen.isoformat() if seen else None,
        "software": machine.software,
        "faults": machine.faults,
        "vpn_address": machine.vpn_address,
        "open_session": rescue,
    }


def person_of(request: Request) -> User:
    """The signed-in person; the permissions have seen to that."""
    return cast(User, request.user)


class FleetView(PersonalView):
    """A call on machines, which asks for their open rescues where there are any."""

    def rescues_at(self, machines: Iterable[Machine]) -> Mapping[int, dict[str, Any]]:
        """The card of the open rescue of each machine that has one, by the machine's id."""
        raise NotImplementedError


class MachinesView(FleetView):
    """The machines of one's fleets, by serial."""

    def get(self, request: Request) -> Response:
        asked = SearchSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        paginator = PageNumberPagination()
        found = selectors.machines_for(person_of(request), search=asked.validated_data["q"])
        machines: list[Machine] = paginator.paginate_queryset(found, request, self) or []
        rescues = self.rescues_at(machines)
        return paginator.get_paginated_response([machine_document(m, rescues.get(m.pk)) for m in machines])


class MachineView(FleetView):
    """One machine of one's fleets."""

    def get(self, request: Request, machine_id: int) -> Response:
        found = (
            selectors.machines_for(person_of(request)).filter(pk=machine_id).first() if machine_id <= MAX_ID else None
        )
        if found is None:
            raise Http404
        return Response(machine_document(found, self.rescues_at([found]).get(found.pk)))


class MeView(PersonalView):
    """Who is signed in, and which fleets they work for."""

    @extend_schema(operation_id="me", responses={200: MeSerializer, **problem_responses(403)})
    def get(self, request: Request) -> Response:
        user = person_of(request)
        operator = selectors.operator_of(user)
        return Response(
            {
                "id": user.pk,
                "name": user.display_name,
                "role": operator.role if operator else None,
                "time_zone": operator.time_zone if operator else "UTC",
                "fleets": list(selectors.fleets_of(user).values("id", "name")),
            }
        )
