"""The OpenAPI document of the public face, for those who are signed in."""

from __future__ import annotations

from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.views import SpectacularAPIView
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import IsAuthenticated


class SchemaView(SpectacularAPIView):
    """This face's calls, and none of the machines'."""

    urlconf = "portal.urls"
    renderer_classes = [OpenApiJsonRenderer]
    authentication_classes = [SessionAuthentication]
    permission_classes = [IsAuthenticated]
