"""Every WebSocket of the public face is for pages of the portal's own origins only (T7)."""

from __future__ import annotations

import socket
import uuid

import pytest
from pytest_django.fixtures import Settings

from portal.origins import canonical
from portal.routing import websocket_urlpatterns
from tests.sessions.portal_server import serving, signed_in
from tests.sessions.rescues import person, press

pytestmark = pytest.mark.django_db(transaction=True)

ORIGIN = "http://portal.example:8443"
FOREIGN = [
    None,
    "",
    "null",
    "http://evil.example",
    "http://portal.example",
    "https://portal.example:8443",
    "http://portal.example:8444",
    "http://portal.example:8443.evil.example",
    "http://portal.example:84430",
    "http://evil.portal.example:8443",
    "http://xportal.example:8443",
    "http://user@portal.example:8443",
    "http://portal.example:8443/",
    "HTTP://PORTAL.EXAMPLE:8443",
    "http://portal.example:8443 http://evil.example",
    "file://",
    "*",
]


def _status(port: int, path: str, origins: list[str], login: str) -> int:
    """What a handshake is answered with."""
    lines = [
        f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: guacamole", f"Cookie: sessionid={login}",
        *(f"Origin: {origin}" for origin in origins), "", "",
    ]  # fmt: skip
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall("\r\n".join(lines).encode())
        return int(sock.recv(4096).split()[1])


def test_only_the_exact_origin_opens_any_of_the_websockets(settings: Settings) -> None:
    settings.PUBLIC_ORIGINS = [ORIGIN]
    session, login = press("A1"), signed_in(person("Alice"))
    paths = ["/ws/live/", f"/ws/sessions/{session.pk}/tunnel/"]
    assert len(websocket_urlpatterns) == len(paths) + 1, "a WebSocket is missing here"
    with serving() as port:
        for path in paths:
            assert _status(port, path, [ORIGIN], login) == 101
            for origin in FOREIGN:
                assert _status(port, path, [] if origin is None else [origin], login) == 403, (path, origin)
            assert _status(port, path, [ORIGIN, "http://evil.example"], login) in {400, 403}
            assert _status(port, path, ["http://evil.example", ORIGIN], login) in {400, 403}


def test_unknown_paths_and_sessions_are_refused_alike(settings: Settings) -> None:
    settings.PUBLIC_ORIGINS = [ORIGIN]
    login = signed_in(person("Alice"))
    with serving() as port:
        for path in ("/ws/", "/ws/nothing/", f"/ws/sessions/{uuid.uuid4()}/tunnel/", "/ws/sessions/1/tunnel/", "/"):
            assert _status(port, path, [ORIGIN], login) == 403


def test_origin_is_compared_as_browsers_write_it() -> None:
    assert canonical("https://Portal.example:443") == "https://portal.example"
    assert canonical("http://portal.example:80") == "http://portal.example"
    assert canonical("https://portal.example:80") == "https://portal.example:80"
    assert canonical("http://[::1]:8000") == "http://[::1]:8000"
