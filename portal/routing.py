"""The public face's WebSockets; any other path is refused like a foreign page."""

from __future__ import annotations

from django.urls import path, re_path

from portal.origins import refuse
from sessions.consumers import LiveConsumer, TunnelConsumer

websocket_urlpatterns = [
    path("ws/live/", LiveConsumer.as_asgi()),
    path("ws/sessions/<uuid:session_id>/tunnel/", TunnelConsumer.as_asgi()),
    re_path(r"", refuse),  # type: ignore[arg-type]
]
