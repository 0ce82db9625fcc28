"""Who really asks, and over http or https, where a proxy with TLS stands before the public face.

Only the proxies of TRUSTED_PROXIES are believed: from anybody else X-Forwarded-For and X-Forwarded-Proto mean nothing,
or whoever reaches the port could choose the address that limits on sign-in count and that records name. allauth's own
ALLAUTH_TRUSTED_PROXY_COUNT counts hops without a look at the peer, so it stays 0 and sees what is found here. The
machines' face has no such thing: a machine's address is its socket's (T13).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_PEER = "portafilter.peer"  # the scope's key for who is at the other end of the line itself


class BehindProxies:
    """ASGI middleware that puts the client's own address and scheme into the scope.

    The address is the last in X-Forwarded-For that is no proxy of ours: what stands before it the client may have
    written. Where that is no address, the proxy's own stays. `proxies` are addresses and networks.
    """

    def __init__(self, application: Any, proxies: Collection[str]) -> None:
        self._application = application
        answer: Any = self._answer
        self._read_headers: Any = ProxyHeadersMiddleware(answer, trusted_hosts=list(proxies))

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope[_PEER] = scope.get("client")
        await self._read_headers(scope, receive, send)

    async def _answer(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if not _is_address(scope.get("client")):
            scope["client"] = scope[_PEER]
        await self._application(scope, receive, send)


def _is_address(client: Any) -> bool:
    try:
        ipaddress.ip_address(client[0])
    except (TypeError, ValueError):
        return False
    return True
