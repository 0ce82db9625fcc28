"""What a load balancer hears at /healthz of the VPN's server, and who cannot keep it from being answered."""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from machines.authorisation import health as module
from machines.authorisation.health import Health, HealthServer
from machines.vpn import pki
from machines.vpn.profile import CERTIFICATE_FILE, CRL_FILE, LOADED_FILE, TCP_LOADED_FILE

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Host:
    """The VPN's server as the answer depends on it."""

    def __init__(self, folder: Path, *, has_tcp: bool = False) -> None:
        self.folder, self.now, self.is_answering, self.is_answering_tcp = folder, NOW, True, True
        authority = pki.make_authority(now=NOW, life=timedelta(days=400))
        key = pki.new_key()
        certificate = pki.issue(authority, key.public_key(), name=pki.SERVER_NAME, now=NOW, life=timedelta(days=90))
        (folder / CERTIFICATE_FILE).write_text(pki.certificate_pem(certificate))
        self.write_list(authority)
        health = Health(
            folder, lambda: self.is_answering, is_answering_tcp=(lambda: self.is_answering_tcp) if has_tcp else None,
            now=lambda: self.now, clock=lambda: self.now.timestamp(),
        )  # fmt: skip
        self.server = HealthServer(("127.0.0.1", 0), health)
        self.address = self.server.start()

    def write_list(self, authority: Any) -> None:
        text = pki.make_crl(authority, [], number=1, now=NOW, life=timedelta(days=30))
        (self.folder / CRL_FILE).write_text(text)

    def ask(self, path: str = "/healthz", method: str = "GET") -> tuple[int, dict[str, str]]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.address[1]}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=30)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.server.stop()


def test_all_is_well_in_one_word_each(host: Host) -> None:
    assert host.ask() == (200, {"status": "ok", "openvpn": "ok", "revocations": "ok", "certificate": "ok"})
    assert host.ask(method="HEAD") == (200, {})
    assert host.ask("/healthz?from=load-balancer")[0] == 200


def test_agent_that_is_not_at_openvpns_side_admits_nobody(host: Host) -> None:
    host.is_answering = False
    status, words = host.ask()
    assert (status, words["status"], words["openvpn"]) == (503, "down", "away")
    host.is_answering = True
    assert host.ask()[0] == 200


@pytest.mark.parametrize(("days", "ended"), [(31, {"revocations"}), (91, {"revocations", "certificate"})])
def test_list_or_certificate_that_has_ended_admits_nobody(host: Host, days: int, ended: set[str]) -> None:
    host.now = NOW + timedelta(days=days)
    status, words = host.ask()
    assert status == 503
    assert {name for name, word in words.items() if word == "ended"} == ended


@pytest.mark.parametrize("file", [CRL_FILE, CERTIFICATE_FILE])
def test_file_that_is_missing_or_broken_is_told_within_seconds(host: Host, file: str) -> None:
    assert host.ask()[0] == 200
    (host.folder / file).write_text("half a fi")
    host.now += timedelta(seconds=2)
    assert host.ask()[0] == 503
    (host.folder / file).unlink()
    host.now += timedelta(seconds=2)
    assert "missing" in host.ask()[1].values()


def test_each_of_two_ways_in_is_asked_for_by_itself(tmp_path: Path) -> None:
    host = Host(tmp_path, has_tcp=True)
    try:
        assert host.ask()[0] == host.ask("/healthz/tcp")[0] == 200
        host.is_answering_tcp = False
        assert host.ask()[0] == 200 and host.ask()[1]["openvpn_tcp"] == "away"
        assert host.ask("/healthz/tcp")[0] == 503
        host.is_answering, host.is_answering_tcp = False, True
        assert host.ask()[0] == 503 and host.ask("/healthz/tcp")[0] == 200
    finally:
        host.server.stop()


def test_certificate_counts_that_the_running_openvpn_has_read(tmp_path: Path) -> None:
    host = Host(tmp_path, has_tcp=True)
    authority = pki.make_authority(now=NOW, life=timedelta(days=400))

    def load(name: str, days: int) -> None:
        certificate = pki.issue(
            authority, pki.new_key().public_key(), name=pki.SERVER_NAME, now=NOW, life=timedelta(days=days)
        )
        (tmp_path / name).write_text(pki.certificate_pem(certificate))

    try:
        load(LOADED_FILE, 20)
        load(TCP_LOADED_FILE, 10)
        host.now = NOW + timedelta(days=15)
        assert host.ask()[0] == 200
        assert host.ask("/healthz/tcp")[1]["certificate"] == "ended"
        host.now = NOW + timedelta(days=25)
        assert (host.ask()[0], host.ask()[1]["certificate"]) == (503, "ended")
        load(LOADED_FILE, 90)  # it has started again
        host.now += timedelta(seconds=2)
        assert host.ask()[0] == 200
    finally:
        host.server.stop()


def test_nothing_else_is_served(host: Host) -> None:
    assert host.ask("/")[0] == 404
    assert host.ask("/healthz/../etc/passwd")[0] == 404
    assert host.ask(method="POST")[0] == 405


@pytest.mark.parametrize("junk", [b"\x16\x03\x01" + b"\0" * 600, b"A" * 100_000, b"\r\n\r\n", b"GET\r\n\r\n"])
def test_junk_gets_no_page_and_harms_nobody(host: Host, junk: bytes) -> None:
    with host.connect() as one:
        try:
            one.sendall(junk)
            one.shutdown(socket.SHUT_WR)
            answer = one.recv(4096)
        except OSError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 404")
    assert host.ask()[0] == 200


def test_slow_clients_take_no_place_from_a_health_check(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 20)
    monkeypatch.setattr(module, "_PATIENCE_S", 600)  # nobody goes for the time that it has taken
    slow = [host.connect() for _ in range(60)]
    for one in slow:
        with contextlib.suppress(OSError):  # it may have gone already
            one.sendall(b"GET /healthz HTTP/1.1\r\n")
    assert host.ask()[0] == 200
    # Those who came first have gone.
    with contextlib.suppress(ConnectionResetError):
        assert slow[0].recv(10) == b""
    for one in slow:
        one.close()


def test_who_says_nothing_is_sent_away(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.2)
    with host.connect() as one:
        assert one.recv(10) == b""
