"""`/enrol/` on the public face: where a machine turns its code into an identity, and a page for who opens it."""

from __future__ import annotations

import ipaddress
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from machines import enrolment
from machines.api.authentication import peer_address
from machines.api.base import BodyParser, JsonOnly
from machines.api.fields import StrictSerializer, Text
from machines.api.problems import Problem, problem_of
from machines.api.throttles import NoiseThrottle
from machines.errors import EnrolmentRefused, IdentityError, NoAddressLeft, NoVpn, RegistrationRefused, RequestRefused
from machines.vpn import pki
from machines.vpn.base import has_vpn

_CODE = r"[0-9A-Za-z]{5}([- ]?[0-9A-Za-z]{5}){3}"


class EnrolSerializer(StrictSerializer):
    """What a machine sends; no error repeats anything of it, members' names neither: one could be the code."""

    code = Text(longest=23, shortest=20, pattern=_CODE, expected="20 letters and digits, as XXXXX-XXXXX-XXXXX-XXXXX")
    csr = Text(
        longest=pki.CSR_LIMIT,
        shortest=1,
        pattern=r"[\x20-\x7e\r\n]+",
        expected=f"a certificate request in PEM, up to {pki.CSR_LIMIT} characters",
    )

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and set(data) - set(self.fields):
            raise serializers.ValidationError({"non_field_errors": ["only these members: code, csr"]})
        return super().to_internal_value(data)


class EnrolThrottle(NoiseThrottle):
    """A code has 100 bits and cannot be guessed: this keeps the noise of those who try away from the database."""

    scope = "enrol"
    rate = "30/min"

    def get_cache_key(self, request: Request, view: APIView) -> str:
        return f"throttle.enrol.{_neighbourhood(peer_address(request.META))}"


class EnrolView(APIView):
    """POST enrols; GET tells a person what to do on the machine."""

    authentication_classes = []
    permission_classes = []
    parser_classes = [BodyParser]
    content_negotiation_class = JsonOnly
    http_method_names = ["get", "head", "post"]

    def get_throttles(self) -> list[Any]:
        return [EnrolThrottle()] if self.request.method == "POST" else []

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        return render(request._request, "portal/enrol.html", _words())

    @extend_schema(exclude=True)
    def post(self, request: Request) -> Response:
        given = EnrolSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        code, csr = given.validated_data["code"], given.validated_data["csr"]
        answer = enrolment.enrol(code, csr, address=_known(peer_address(request.META)))
        return Response(answer, status=201)

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        answered = super().finalize_response(request, response, *args, **kwargs)
        answered["Cache-Control"] = "no-store"
        return answered


@problem_of.register
def _(error: EnrolmentRefused) -> Problem:
    return Problem(403, error.code, str(error))


@problem_of.register
def _(error: RequestRefused) -> Problem:
    return Problem(400, error.code, f"csr: {error}")


@problem_of.register(IdentityError)
@problem_of.register(NoAddressLeft)
@problem_of.register(NoVpn)
def _(error: IdentityError | NoAddressLeft | NoVpn) -> Problem:
    return Problem(409, error.code, str(error))


@problem_of.register
def _(error: RegistrationRefused) -> Problem:
    errors = [
        {"field": field, "found": "something else", "expected": " ".join(words).rstrip(".")}
        for field, words in error.errors.items()
    ]
    return Problem(400, error.code, str(error), errors=errors)


def _words() -> dict[str, Any]:
    return {"has_vpn": has_vpn(), "origin": settings.PUBLIC_ORIGINS[0]}


def _known(address: str) -> str:
    """The address if it is one; a test's or a socket file's name is none."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return ""


def _neighbourhood(address: str) -> str:
    """An IPv4 address itself, an IPv6 one's /64: so many belong to one household."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
