"""What calls of the public face have in common, and how errors are documented."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiResponse
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from machines.api.base import BodyParser, JsonOnly
from machines.api.fields import StrictSerializer
from machines.api.problems import MEDIA_TYPE, Problem

# The largest id that the databases keep; beyond it a look-up fails instead of finding nothing.
MAX_ID = 2**63 - 1


class NothingSerializer(StrictSerializer):
    """An empty object."""


class FaultSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """One thing that is wrong with a body."""

    field = serializers.CharField()
    found = serializers.CharField(help_text="What kind of value it was; never the value.")
    expected = serializers.CharField()


class ProblemSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """An error as RFC 9457 has it; some have further members."""

    type = serializers.CharField()
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="One sentence for a person: what happened and what to do next.")
    code = serializers.CharField(help_text="What a program branches on.")
    errors = FaultSerializer(many=True, required=False)  # type: ignore[assignment]


def problem_responses(*statuses: int) -> dict[Any, Any]:
    """The error answers of a call, for its documentation."""
    return {(status, MEDIA_TYPE): OpenApiResponse(ProblemSerializer) for status in statuses}


class PersonalView(APIView):
    """A call whose answer is for the person who asked: no cache on the way may keep it."""

    parser_classes = [BodyParser]
    content_negotiation_class = JsonOnly
    http_method_names = ["get", "post", "head"]

    def perform_authentication(self, request: Request) -> None:
        """Says what to do about a page whose CSRF token has been replaced by a sign-in elsewhere."""
        try:
            super().perform_authentication(request)
        except PermissionDenied as error:
            raise Problem(
                403, "csrf_failed", "This page is from before your last sign-in. Reload it, then try again."
            ) from error

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        answered = super().finalize_response(request, response, *args, **kwargs)
        answered["Cache-Control"] = "no-store"
        return answered
