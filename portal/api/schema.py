"""The OpenAPI document of the public face, for those who are signed in."""

from __future__ import annotations

from typing import Any

from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.views import SpectacularAPIView
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import IsAuthenticated


class SchemaView(SpectacularAPIView):
    """This face's calls, and none of the machines'."""

    urlconf = "portal.urls"
    custom_settings = {
        "TITLE": "Portafilter, the operators' face",
        "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "portal.api.schema.exact"],
    }
    renderer_classes = [OpenApiJsonRenderer]
    authentication_classes = [SessionAuthentication]
    permission_classes = [IsAuthenticated]


def exact(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """A spectacular hook: bodies with other members are refused, and answers have none; only problems may have more."""
    for name, schema in result["components"]["schemas"].items():
        if schema.get("type") == "object" and name != "Problem":
            schema["additionalProperties"] = False
    return result
