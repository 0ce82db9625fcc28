"""Which web pages may open a WebSocket here: those of the portal's own origins and no others.

Browsers send cookies along with a WebSocket that any page opens, so the Origin header is what keeps strangers' pages
out (T7). It must be, letter for letter, one of PUBLIC_ORIGINS: scheme, host and port. Absent, `null`, a prefix, another
port or two of them are all refused, and no setting switches that off.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

_DEFAULT_PORTS = {"http": 80, "https": 443}


def canonical(origin: str) -> str:
    """An origin as browsers write it (RFC 6454): small letters, the scheme's own port left out."""
    parts = urlsplit(origin.lower())
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


class ExactOrigins:
    """ASGI middleware for WebSockets: a handshake from any other origin is answered with 403."""

    def __init__(self, application: Any, origins: Collection[str] | None = None) -> None:
        self._application = application
        self._origins = origins

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if self._is_ours([value for name, value in scope["headers"] if name == b"origin"]):
            await self._application(scope, receive, send)
        else:
            await refuse(scope, receive, send)

    def _is_ours(self, found: list[bytes]) -> bool:
        origins = settings.PUBLIC_ORIGINS if self._origins is None else self._origins
        return len(found) == 1 and found[0].decode("latin-1") in {canonical(origin) for origin in origins}


async def refuse(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers a WebSocket handshake with 403."""
    await receive()
    await send({"type": "websocket.close"})
