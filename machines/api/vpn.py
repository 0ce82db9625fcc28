"""Machines' part of the VPN over the public REST face: register, let in, look, freeze."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from machines import enrolment, identities, selectors
from machines.api.documents import MAX_ID, NothingSerializer, PersonalView
from machines.api.documents import problem_responses as problems
from machines.api.fields import StrictSerializer, Text
from machines.api.problems import Problem, problem_of
from machines.api.public import person_of
from machines.errors import NotAllowed
from machines.models import Machine
from machines.profile_passes import request_profile
from machines.vpn_standing import Standing, standing_of


class ConnectionSerializer(serializers.Serializer):  # type: ignore[type-arg]
    since = serializers.DateTimeField()
    remote_address = serializers.IPAddressField()
    remote_port = serializers.IntegerField()
    heard_at = serializers.DateTimeField()
    is_silent = serializers.BooleanField(help_text="Nothing has come from it for 20 s or longer.")
    bytes_received = serializers.IntegerField()
    bytes_sent = serializers.IntegerField()


class IdentitySerializer(serializers.Serializer):  # type: ignore[type-arg]
    serial = serializers.CharField(help_text="The certificate's serial number, hexadecimal.")
    state = serializers.ChoiceField(choices=["new", "in_use", "expired", "revoked"])
    issued_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()


class CodeStateSerializer(serializers.Serializer):  # type: ignore[type-arg]
    expires_at = serializers.DateTimeField()
    used_at = serializers.DateTimeField(allow_null=True)


class VpnSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """How a machine stands in the VPN."""

    frozen = serializers.BooleanField()
    frozen_reason = serializers.CharField()
    connection = ConnectionSerializer(allow_null=True)
    identities = IdentitySerializer(many=True)
    profile = serializers.ChoiceField(
        choices=["none", "being_delivered", "to_download", "failed"], help_text="What telemetry has of it."
    )
    enrolment_code = CodeStateSerializer(allow_null=True, help_text="The newest one; the code itself is never told.")


class IssuedCodeSerializer(serializers.Serializer):  # type: ignore[type-arg]
    code = serializers.CharField(help_text="Shown this once; single-use.")
    address = serializers.CharField(help_text="What a QR picture of it holds.")
    expires_at = serializers.DateTimeField()


class ReasonSerializer(StrictSerializer):
    reason = Text(longest=80, shortest=1)


class MachineVpnView(PersonalView):
    """A call on one machine of one's fleets; for everybody else there is none."""

    def machine(self, request: Request, machine_id: int) -> Machine:
        """Raises Http404 also for what belongs to another fleet (T22)."""
        found = (
            selectors.machines_for(person_of(request)).filter(pk=machine_id).first() if machine_id <= MAX_ID else None
        )
        if found is None:
            raise Http404
        return found

    def read(self, request: Request, serializer: type[StrictSerializer]) -> dict[str, Any]:
        given = serializer(data=request.data)
        given.is_valid(raise_exception=True)
        return dict(given.validated_data)

    def standing(self, machine: Machine, status: int = 200) -> Response:
        return Response(vpn_document(machine, standing_of(machine)), status=status)


class StandingView(MachineVpnView):
    @extend_schema(operation_id="machineVpn", responses={200: VpnSerializer, **problems(403, 404)})
    def get(self, request: Request, machine_id: int) -> Response:
        """How the machine stands in the VPN: its line, its identities, what is on its way."""
        return self.standing(self.machine(request, machine_id))


class CodesView(MachineVpnView):
    @extend_schema(
        operation_id="enrolmentCode",
        request=NothingSerializer,
        responses={201: IssuedCodeSerializer, **problems(400, 403, 404, 409, 413, 415)},
    )
    def post(self, request: Request, machine_id: int) -> Response:
        """A new enrolment code: 15 minutes, once. It ends those before it that nobody has used."""
        machine = self.machine(request, machine_id)
        self.read(request, NothingSerializer)
        issued = enrolment.issue_code(machine, user=person_of(request))
        document = {"code": issued.text, "address": issued.address, "expires_at": issued.expires_at.isoformat()}
        return Response(document, status=201)


class ProfileView(MachineVpnView):
    @extend_schema(
        operation_id="requestProfile",
        request=NothingSerializer,
        responses={202: VpnSerializer, **problems(400, 403, 404, 409, 413, 415)},
    )
    def post(self, request: Request, machine_id: int) -> Response:
        """The wish that a profile with a key made here goes to telemetry; asking twice is one wish."""
        machine = self.machine(request, machine_id)
        self.read(request, NothingSerializer)
        request_profile(machine, user=person_of(request))
        return self.standing(machine, status=202)


class FreezeView(MachineVpnView):
    @extend_schema(
        operation_id="freezeMachine",
        request=ReasonSerializer,
        responses={200: VpnSerializer, **problems(400, 403, 404, 413, 415)},
    )
    def post(self, request: Request, machine_id: int) -> Response:
        """Admits the machine nowhere until a supervisor has looked; freezing it again changes nothing."""
        machine, user = self.machine(request, machine_id), person_of(request)
        reason = self.read(request, ReasonSerializer)["reason"]
        identities.freeze(machine, f"By {user.display_name}: {reason}", user=user)
        return self.standing(machine)


class UnfreezeView(MachineVpnView):
    @extend_schema(
        operation_id="unfreezeMachine",
        request=NothingSerializer,
        responses={200: VpnSerializer, **problems(400, 403, 404, 413, 415)},
    )
    def post(self, request: Request, machine_id: int) -> Response:
        """Admits the machine again; for supervisors."""
        machine = self.machine(request, machine_id)
        self.read(request, NothingSerializer)
        identities.unfreeze(machine, person_of(request))
        return self.standing(machine)


@problem_of.register
def _(error: NotAllowed) -> Problem:
    return Problem(403, error.code, str(error))


def vpn_document(machine: Machine, standing: Standing) -> dict[str, Any]:
    """The standing in JSON values; nothing of it is secret."""
    line, code = standing.connection, standing.newest_code
    state = "none"
    if standing.delivery:
        state = "being_delivered"
    elif standing.kept:
        state = "to_download"
    elif standing.failed_delivery:
        state = "failed"
    return {
        "frozen": machine.frozen_at is not None,
        "frozen_reason": machine.frozen_reason,
        "connection": line
        and {
            "since": line.since.isoformat(),
            "remote_address": line.remote_address,
            "remote_port": line.remote_port,
            "heard_at": line.heard_at.isoformat(),
            "is_silent": standing.is_silent,
            "bytes_received": line.bytes_received,
            "bytes_sent": line.bytes_sent,
        },
        "identities": [
            {
                "serial": one.row.serial,
                "state": one.state,
                "issued_at": one.row.issued_at.isoformat(),
                "expires_at": one.row.expires_at.isoformat(),
            }
            for one in standing.identities
        ],
        "profile": state,
        "enrolment_code": code
        and {
            "expires_at": code.expires_at.isoformat(),
            "used_at": code.used_at.isoformat() if code.used_at else None,
        },
    }
