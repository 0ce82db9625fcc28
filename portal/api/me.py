"""Who is signed in, and what the service worker needs to act for them: it has no page to read a token from."""

from __future__ import annotations

from django.middleware.csrf import get_token
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from machines.api import public
from machines.api.documents import problem_responses as problems
from notifications import subscriptions


class MeSerializer(public.MeSerializer):
    """Oneself. The token is good for this login's calls; no other site's page can read it here."""

    csrf_token = serializers.CharField()
    vapid_public_key = serializers.CharField(
        allow_blank=True, help_text="What a browser subscribes with; empty where this installation sends no Web Push."
    )


class MeView(public.MeView):
    """Who is signed in, and which fleets they work for."""

    @extend_schema(operation_id="me", responses={200: MeSerializer, **problems(403)})
    def get(self, request: Request) -> Response:
        answer = super().get(request)
        answer.data["csrf_token"] = get_token(request._request)
        answer.data["vapid_public_key"] = subscriptions.vapid_public_key()
        return answer
