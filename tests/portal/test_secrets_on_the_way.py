"""T11: what lets somebody in goes by a cookie, a header or the first frame; never by an address, a Referer or a log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.guacd import FakeGuacd
from tests.portal.server_process import PASSWORD, Answer, ServerProcess, Visitor
from tests.sessions.machine_face import REQUESTS

ORIGIN = "http://127.0.0.1:8000"
A1 = "127.77.0.1"
RDP_PASSWORD = "canary-3Zt8-rdp"
HELD = "the desktop is held"  # a line of the log
TYPO = "canary-5Kp1-typo"
PAGES = (
    "/", "/machines/", "/machines/1/", "/accounts/", "/accounts/password/change/", "/accounts/2fa/",
    "/api/v1/sessions/", "/healthz", "/static/app.css",
)  # fmt: skip
_ADMITTED, _REFUSED = "4.sync,", "3.771;"


@dataclass
class Scene:
    """A rescue of machine A1 on a real server that logs all it can, and Alice, who is signed in."""

    server: ServerProcess
    alice: Visitor
    machine: Visitor
    token: str
    rescue: str

    def ticket(self) -> str:
        answer = self.alice.post_json(
            f"/api/v1/sessions/{self.rescue}/attachments/", {"role": "watcher"}, Origin=ORIGIN
        )
        assert answer.status == 201, answer
        return str(answer.json["ticket"])

    def all_output(self) -> str:
        """What the server wrote from its start to its end."""
        process = self.server.running[-1]
        process.terminate()
        assert process.wait(60) == 0, self.server.log.read_text()
        return self.server.log.read_text()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with FakeGuacd(frame_interval_s=0.1) as guacd, ServerProcess(tmp_path) as server:
        token = server.seed({"A1": A1})["A1"]
        server.start(LOG_LEVEL="DEBUG", GATEWAY="fixed", GATEWAY_FIXED_HOSTS=f"127.0.0.1:{guacd.port}")
        public, machines = server.until_ready()
        machine = Visitor(machines, address=A1, Authorization=f"Bearer {token}")
        login = {"username": "once", "password": RDP_PASSWORD, "port": 3390}
        asked = machine.post_json(REQUESTS, {"rdp": login}, **{"Idempotency-Key": "press-1"})
        assert asked.status == 201, asked
        alice = Visitor(public)
        assert alice.get("/accounts/login/").status == 200
        assert alice.post_form("/accounts/login/", ORIGIN, login="alice", password=TYPO).status == 200
        alice.sign_in("alice", ORIGIN)
        server.until(lambda: HELD in server.log.read_text())
        yield Scene(server, alice, machine, token, asked.json["id"])


def _addresses(answer: Answer) -> list[str]:
    """Each address that an answer names: where it leads, links, sources and forms."""
    found = re.findall(rb"""(?:href|src|action|content)\s*=\s*["']([^"']*)""", answer.body)
    return [answer.header("Location") or "", *(one.decode("utf-8", "replace") for one in found)]


def test_tickets_and_credentials_are_in_no_output_no_address_and_no_referer(scene: Scene) -> None:
    alice, rescue = scene.alice, scene.rescue
    used, in_address, too_much = scene.ticket(), scene.ticket(), scene.ticket()
    assert _ADMITTED in alice.show_ticket(rescue, used, ORIGIN)[-1]
    assert _REFUSED in alice.show_ticket(rescue, used, ORIGIN)[-1]
    # Whoever puts one into an address all the same is not let in by it.
    assert _REFUSED in alice.show_ticket(rescue, "another", ORIGIN, query=f"?ticket={in_address}&token={used}")[-1]
    # What goes wrong is what servers write down.
    alice.show_ticket(rescue, too_much * 20, ORIGIN)
    alice.get(f"/api/v1/sessions/{rescue}/attachments/?ticket={in_address}")
    alice.get(f"/nothing/?ticket={in_address}")
    alice.post_json(f"/api/v1/sessions/{rescue}/attachments/", {"role": used}, Origin=ORIGIN)
    assert alice.post_json(f"/api/v1/sessions/{rescue}/claim/", {}, Origin=ORIGIN).status == 200
    for path in (*PAGES, f"/sessions/{rescue}/", f"/api/v1/sessions/{rescue}/", f"/api/v1/sessions/{rescue}/events/"):
        assert alice.get(path).status == 200, path
    strangers = [Visitor(alice.port), Visitor(alice.port, host="evil.example")]
    refused = [one.get(path).status for one in (alice, *strangers) for path in ("/admin/", "/api/v1/nothing/")]
    assert 200 not in refused
    scene.machine.post_json(REQUESTS, {"rdp": {"password": RDP_PASSWORD}}, **{"Idempotency-Key": "press-2"})
    stranger = Visitor(scene.machine.port, address="127.77.0.9", Authorization=f"Bearer {scene.token}")
    assert stranger.get(f"{REQUESTS}{rescue}/").status == 403
    session_cookie = alice.cookies["sessionid"]
    output = scene.all_output()
    environment = scene.server.environment
    secrets = {
        "a used ticket": used, "a ticket in an address": in_address, "a ticket in a bad frame": too_much,
        "the login cookie": session_cookie, "the machine's token": scene.token, "a person's password": PASSWORD,
        "a mistyped password": TYPO, "the desktop's password": RDP_PASSWORD, "SECRET_KEY": environment["SECRET_KEY"],
        "CREDENTIAL_KEYS": environment["CREDENTIAL_KEYS"],
    }  # fmt: skip
    assert HELD in output, "there was nothing to search"
    assert [name for name, secret in secrets.items() if secret in output] == []

    addresses = [address for answer in alice.answers for address in _addresses(answer) if address]
    assert any("/static/" in address for address in addresses) and "/" in addresses
    assert [(n, a) for n, secret in secrets.items() for a in addresses if secret in a] == []
    # Each ticket was told once, to whoever asked for it; the login is in cookies that no script can read.
    for ticket in (used, in_address, too_much):
        assert sum(answer.body.count(ticket.encode()) for answer in alice.answers) == 1
    cookies = [value for answer in alice.answers for name, value in answer.headers if name.lower() == "set-cookie"]
    assert all("HttpOnly" in one and "SameSite=Lax" in one for one in cookies if session_cookie in one)
    assert not any(session_cookie.encode() in answer.body for answer in alice.answers)
    # No other site learns by a Referer which rescue somebody came from.
    answers = [answer for visitor in (alice, *strangers) for answer in visitor.answers]
    assert {answer.header("Referrer-Policy") for answer in answers} == {"same-origin"}
