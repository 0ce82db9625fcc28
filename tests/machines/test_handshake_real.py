"""A real OpenVPN server and client on this computer's loopback: who gets in by the papers shown.

The server's device gets no address and the client has none, so nothing of this computer's network changes.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from machines.vpn import pki, profile
from tests import waiting
from tests.ports import free_ports

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(120),
    pytest.mark.skipif(shutil.which("openvpn") is None, reason="openvpn is not installed"),
    pytest.mark.skipif(os.geteuid() != 0 or not os.access("/dev/net/tun", os.W_OK), reason="needs root, /dev/net/tun"),
]

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
NETWORK = ipaddress.IPv4Network("10.77.0.0/20")


@dataclass
class Server:
    """The server, and whoever says yes to every machine whose papers OpenVPN takes."""

    folder: Path
    protocol: str
    port: int
    authority: pki.Authority
    tls_crypt_key: str

    def said(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def revoke(self, *certificates: x509.Certificate) -> None:
        rows = [(pki.serial_of(one), NOW) for one in certificates]
        crl = pki.make_crl(self.authority, rows, number=2, now=datetime.now(UTC), life=30 * DAY)
        (self.folder / "crl.new").write_text(crl)
        (self.folder / "crl.new").replace(self.folder / "crl.pem")

    def listen(self) -> socket.socket:
        """Its management socket. Who comes before somebody listens there is told of nobody."""
        management = socket.socket(socket.AF_UNIX)
        management.settimeout(0.2)
        management.connect(str(self.folder / "management.sock"))
        return management

    def admit_all(self, management: socket.socket, stop: threading.Event) -> None:
        with management:
            buffer = b""
            while not stop.is_set():
                try:
                    buffer += management.recv(65536)
                except TimeoutError:
                    continue
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    if line.startswith(b">CLIENT:CONNECT,"):
                        client, key = line.strip().split(b",")[1:3]
                        told = profile.client_line("10.77.1.1", NETWORK).encode()
                        management.sendall(b"client-auth %s %s\n%sEND\n" % (client, key, told))


@pytest.fixture(params=["udp", "tcp"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    protocol = request.param
    (port,) = free_ports(1, kind=socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM)
    authority = pki.make_authority(now=NOW, life=30 * DAY)
    key = pki.new_key()
    made = Server(tmp_path, protocol, port, authority, pki.new_tls_crypt_server_key())
    certificate = pki.issue(authority, key.public_key(), name=pki.SERVER_NAME, now=NOW, life=DAY)
    config = profile.ServerConfig(tmp_path, NETWORK, f"pf-{port}", port, protocol)
    for name, text in {
        profile.AUTHORITY_FILE: pki.certificate_pem(authority.certificate),
        profile.CERTIFICATE_FILE: pki.certificate_pem(certificate),
        profile.KEY_FILE: pki.key_pem(key),
        profile.TLS_CRYPT_FILE: made.tls_crypt_key,
        profile.SERVER_FILE: profile.server_config(config) + "ifconfig-noexec\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / profile.CLIENTS_FOLDER).mkdir()
    (tmp_path / profile.CLIENTS_FOLDER / "m-7").write_text(profile.client_line("10.77.1.1", NETWORK))
    made.revoke()
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(["openvpn", "--config", str(tmp_path / profile.SERVER_FILE)], stdout=log, stderr=log)
    stop = threading.Event()
    try:
        waiting.until(
            lambda: "Initialization Sequence Completed" in made.said() or process.poll() is not None,
            "the server",
            timeout_s=30,
        )
        assert process.poll() is None, made.said()
        agent = threading.Thread(target=made.admit_all, args=(made.listen(), stop))
        agent.start()
        yield made
        stop.set()
        agent.join(30)
    finally:
        stop.set()
        process.kill()
        process.wait()


@dataclass
class Papers:
    certificate: x509.Certificate
    text: str


def papers(server: Server, **changes: Any) -> Papers:
    """What a machine has to show; `changes` make it somebody else's."""
    key, authority = pki.new_key(), changes.get("authority", server.authority)
    issued_at = changes.get("now", NOW)
    certificate = pki.issue(authority, key.public_key(), name=changes.get("name", "m-7"), now=issued_at, life=DAY)
    wrapped = pki.new_tls_crypt_client_key(changes.get("tls_crypt_key", server.tls_crypt_key), b"m-7")
    text = profile.client_profile(
        profile.ClientProfile(
            remote="127.0.0.1",
            port=server.port,
            protocol=server.protocol,
            authority=pki.certificate_pem(server.authority.certificate),
            certificate=pki.certificate_pem(certificate),
            tls_crypt_key=wrapped,
            key=pki.key_pem(key),
        )
    )
    return Papers(certificate, text)


def join(server: Server, shown: Papers, tmp_path: Path, *, until: Callable[[str], bool]) -> str:
    """Connects until the client's or the server's words say how it went."""
    config, log = tmp_path / "machine.ovpn", tmp_path / "machine.log"
    config.write_text(shown.text.replace("dev tun\ndev-type tun\n", "dev null\nifconfig-noexec\nroute-noexec\n"))
    begin = len(server.said())
    with log.open("w") as output:
        process = subprocess.Popen(["openvpn", "--config", str(config)], stdout=output, stderr=output)
    try:
        waiting.until(lambda: until(log.read_text() + server.said()[begin:]), "an end to the handshake", timeout_s=30)
        return log.read_text() + server.said()[begin:]
    finally:
        process.kill()
        process.wait()


def test_machine_joins_at_its_address_and_no_more_once_revoked(server: Server, tmp_path: Path) -> None:
    mine = papers(server)
    said = join(server, mine, tmp_path, until=lambda text: "Initialization Sequence Completed" in text)
    assert "ifconfig 10.77.1.1 255.255.240.0" in said

    server.revoke(mine.certificate)
    said = join(server, mine, tmp_path, until=lambda text: "certificate revoked" in text)
    assert "Initialization Sequence Completed" not in said


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("another authority's", "unable to get local issuer certificate"),
        ("expired", "certificate has expired"),
        ("the server's own", "unsuitable certificate purpose"),
        ("wrapped elsewhere", "Can not unwrap tls-crypt-v2 client key"),
    ],
)
def test_other_papers_do_not_open_the_door(server: Server, tmp_path: Path, what: str, answer: str) -> None:
    changes: dict[str, dict[str, Any]] = {
        "another authority's": {"authority": pki.make_authority(now=NOW, life=DAY)},
        "expired": {"now": NOW - 2 * DAY},
        "the server's own": {"name": pki.SERVER_NAME},
        "wrapped elsewhere": {"tls_crypt_key": pki.new_tls_crypt_server_key()},
    }
    said = join(server, papers(server, **changes[what]), tmp_path, until=lambda text: answer in text)
    assert "Initialization Sequence Completed" not in said
