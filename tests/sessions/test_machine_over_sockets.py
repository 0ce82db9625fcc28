"""The agent's own client against the machines' face behind real sockets: the peer's address is the socket's."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from agent.api import ApiError, Client
from agent.config import AgentConfig
from agent.credentials import Credentials
from machines import services as fleet_services
from machines.api.base import BODY_LIMIT
from machines.models import SecurityEvent
from notifications import live
from portal.machine_asgi import application
from sessions import services
from sessions.models import SupportSession
from tests.sessions.machine_face import REQUESTS
from tests.sessions.rescues import machine, person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("poll_pool")]

LOGIN = Credentials(username="once", password="canary-7Yk2 ☕")


@pytest.fixture
def port(transactional_db: None) -> Iterator[int]:
    """The face on a free port, served as `manage.py serve` does: without believing forwarding headers."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(application, proxy_headers=False, lifespan="off", log_level="warning", ws="none")
    )
    started = threading.Event()

    async def serve() -> None:
        live.use_loop(asyncio.get_running_loop())
        started.set()
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(30)
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(30)
    live.use_loop(None)
    listener.close()
    assert not thread.is_alive(), "the face does not stop"


def client_of(serial: str, port: int, tmp_path: Path, *, source: str = "") -> Client:
    known = machine(serial)
    config: Any = AgentConfig(
        api_url=f"http://127.0.0.1:{port}",
        token=fleet_services.issue_token(known),
        source_address=source or known.vpn_address,
        state_dir=tmp_path,
    )
    return Client(config)


def test_agent_asks_waits_hears_and_withdraws(port: int, tmp_path: Path) -> None:
    client = client_of("A1", port, tmp_path)
    assert client.heartbeat(software="2.1", faults=["E17"], rtt_ms=12) is None
    asked = client.ask("press-1", LOGIN, rdp={"port": 3390, "security": "nla"}, problem={"code": "E17"})
    assert asked.is_new and asked.request.state == "requested"
    assert not client.ask("press-1", LOGIN, rdp={"port": 3390, "security": "nla"}, problem={"code": "E17"}).is_new

    heard: list[Any] = []
    waiter = threading.Thread(
        target=lambda: heard.append(client.read(asked.request.id, wait_s=30, since=asked.request.version))
    )
    waiter.start()
    services.claim(SupportSession.objects.get(), user=person("Alice"))
    waiter.join(60)
    assert heard and heard[0].operator_name == "Alice"

    beat = client.heartbeat(software="2.1")
    assert beat is not None and beat.id == asked.request.id
    assert client.cancel(asked.request.id).is_over
    assert SupportSession.objects.get().machine_told_at is not None


def test_stolen_token_from_another_address_is_refused_whatever_it_forwards(port: int, tmp_path: Path) -> None:
    a1, thief = machine("A1"), machine("A2").vpn_address
    with pytest.raises(ApiError) as refused:
        client_of("A1", port, tmp_path, source=thief).heartbeat(software="")
    assert refused.value.status == 403 and not refused.value.retryable
    forged = {"X-Forwarded-For": a1.vpn_address, "X-Real-IP": a1.vpn_address, "Forwarded": f"for={a1.vpn_address}"}
    connection = http.client.HTTPConnection("127.0.0.1", port, source_address=(thief, 0), timeout=30)
    connection.request(
        "GET", f"{REQUESTS}?wait=1", headers={"Authorization": f"Bearer {fleet_services.issue_token(a1)}", **forged}
    )
    assert connection.getresponse().status == 403
    connection.close()
    assert {event.address for event in SecurityEvent.objects.filter(kind="address_refused")} == {thief}


def test_endless_body_is_cut_off(port: int) -> None:
    """A gigabyte is announced; the answer comes as soon as the limit is passed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        head = [f"POST {REQUESTS} HTTP/1.1", "Host: x", "Content-Type: application/json", "Content-Length: 1000000000"]
        line.sendall("\r\n".join([*head, "", ""]).encode() + b"x" * (BODY_LIMIT + 1))
        answer = line.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413")


def test_refused_login_is_told_to_the_agent_in_words(port: int, tmp_path: Path) -> None:
    client = client_of("A1", port, tmp_path)
    with pytest.raises(ApiError) as refused:
        client.ask("press-1", LOGIN, rdp={"port": 70000}, problem={})
    assert refused.value.status == 400 and not refused.value.retryable
    assert "rdp.port: found the number 70000, expected a whole number from 1 to 65535" in str(refused.value)
