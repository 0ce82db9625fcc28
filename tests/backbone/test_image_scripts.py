"""What runs inside the images besides Portafilter itself."""

from __future__ import annotations

import datetime
import http.server
import importlib.util
import ipaddress
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from machines.vpn import networks, profile
from sessions.signs_of_life import SignOfLife
from tests.backbone.containerfiles import IMAGES
from tests.waiting import LONG_S

NEEDED = [
    profile.SERVER_FILE, profile.AUTHORITY_FILE, profile.CERTIFICATE_FILE, profile.KEY_FILE, profile.TLS_CRYPT_FILE,
    profile.CRL_FILE,
]  # fmt: skip


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


healthy = _load(IMAGES / "portal" / "healthy.py")
rds_roots = _load(IMAGES / "portal" / "rds_roots.py")


# --- openvpn.sh -------------------------------------------------------------------------------------------------------


@pytest.fixture
def openvpn(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts the script with a folder and with an `openvpn` that says what it was called with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "openvpn").write_text('#!/bin/sh\necho "openvpn $*"\n')
    (programs / "openvpn").chmod(0o755)

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        given = {"PATH": f"{programs}:/usr/bin:/bin", "VPN_DIR": str(tmp_path / "vpn"), "OPENVPN_TUN": "/dev/null"}
        return subprocess.Popen(
            [IMAGES / "vpn" / "openvpn.sh", *arguments],
            env={**given, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    return start


def _write(folder: Path, names: list[str]) -> None:
    (folder / profile.CLIENTS_FOLDER).mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()


def test_openvpn_starts_once_the_agent_has_written_everything(
    openvpn: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    # Without any one of them it waits; what it lacks is what it says when time is up.
    for lacking in [*NEEDED, ""]:
        _write(tmp_path / "vpn", NEEDED)
        if lacking:
            (tmp_path / "vpn" / lacking).unlink()
        with openvpn(OPENVPN_TRIES="1") as process:
            said, words = process.communicate(timeout=LONG_S)
        if lacking:
            assert process.returncode == 1 and f"found no {lacking} in {tmp_path}/vpn" in words
        else:
            assert said.strip() == f"openvpn --config {tmp_path}/vpn/server.conf"


def test_openvpn_waits_for_an_agent_that_starts_later(
    openvpn: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    with openvpn("server-tcp.conf") as process:
        _write(tmp_path / "vpn", [*NEEDED, "server-tcp.conf"])
        said, _ = process.communicate(timeout=LONG_S)
    assert said.strip() == f"openvpn --config {tmp_path}/vpn/server-tcp.conf"


def test_certificate_and_configuration_are_written_down_as_openvpn_starts_with_them(
    openvpn: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "vpn"
    _write(folder, [*NEEDED, "server-tcp.conf"])
    for name, loaded in (("server.conf", profile.LOADED_FILE), ("server-tcp.conf", profile.TCP_LOADED_FILE)):
        for certificate in ("first", "renewed"):
            (folder / profile.CERTIFICATE_FILE).write_text(certificate)
            (folder / name).write_text(f"with {certificate}")
            with openvpn(name) as process:
                assert process.communicate(timeout=LONG_S) == (f"openvpn --config {folder}/{name}\n", "")
            assert (folder / loaded).read_text() == certificate
            assert (folder / profile.LOADED_CONFIGURATIONS[name]).read_text() == f"with {certificate}"
    assert not list(folder.glob(".*"))


def test_openvpn_starts_although_its_certificate_cannot_be_written_down(
    openvpn: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    _write(tmp_path / "vpn", NEEDED)
    (tmp_path / "vpn" / f".{profile.LOADED_FILE}.new").mkdir()
    (tmp_path / "vpn" / f".{profile.LOADED_FILE}.new" / profile.CERTIFICATE_FILE).mkdir()
    with openvpn() as process:
        said, words = process.communicate(timeout=LONG_S)
    assert said == f"openvpn --config {tmp_path}/vpn/server.conf\n" and "nobody is told when" in words


@pytest.mark.parametrize("name", ["../server.conf", "/etc/passwd", ".hidden"])
def test_openvpn_takes_no_configuration_from_elsewhere(
    openvpn: Callable[..., subprocess.Popen[str]], name: str
) -> None:
    with openvpn(name) as process:
        assert f"found {name}, expected the name of a file" in process.communicate(timeout=LONG_S)[1]
    assert process.returncode == 2


def test_openvpn_without_its_device_says_what_to_give_it(openvpn: Callable[..., subprocess.Popen[str]]) -> None:
    with openvpn(OPENVPN_TUN="/nowhere/tun") as process:
        assert "found no /nowhere/tun; give the container that device" in process.communicate(timeout=LONG_S)[1]
    assert process.returncode == 2


# --- healthy.py -------------------------------------------------------------------------------------------------------


asked: list[str] = []


class _Face(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        # As Django does for a name that is not its own.
        is_known = self.headers["Host"] == "portal.example.com"
        asked.append(self.path)
        # Its database is away.
        status = {"/healthz?alive": 200, "/healthz": 503}.get(self.path, 400)
        self.send_response(status if is_known else 400)
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def face() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Face) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_face_that_serves_under_its_own_name_is_well_without_a_database(
    face: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{face}/healthz"
    monkeypatch.setenv("PUBLIC_ORIGINS", "https://portal.example.com,https://other.example.com")
    monkeypatch.setattr(healthy, "_ASIDE_S", LONG_S)
    asked.clear()
    assert healthy.check("serving", url) == ""
    # Asked how it is it logs that the database is away, which an alarm counts.
    assert asked == ["/healthz?alive", "/healthz"]
    assert healthy.check(url) == f"{url} answered 503, expected 200."
    assert "400" in healthy.check("serving", url.replace("healthz", "nothing"))
    monkeypatch.setenv("PUBLIC_ORIGINS", "https://elsewhere.example.com")
    assert healthy.check("serving", url) == f"{url}?alive answered 400, expected 200."
    # The VPN's agent says 503 while OpenVPN is away, which another agent would not cure.
    assert healthy.check("answering", url) == ""


def test_face_that_does_not_answer_is_unwell() -> None:
    with socket.socket() as held:  # so that the port is nobody else's meanwhile; it does not listen
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/healthz"
        assert "did not answer" in healthy.check("serving", url)
        assert "did not answer" in healthy.check("answering", url)


def test_machines_face_is_well_while_openvpn_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answers(url: str) -> str:
        asked.append(url)
        return "unwell"

    monkeypatch.setattr(healthy, "_answers", answers)
    monkeypatch.setenv("VPN_NETWORK", "10.231.64.0/20")  # no address of this computer
    assert healthy.check("machines") == "" and not asked
    monkeypatch.setenv("VPN_NETWORK", "127.64.0.0/10")
    assert healthy.check("machines") == "unwell"
    assert asked == [f"http://{networks.server_address(ipaddress.ip_network('127.64.0.0/10'))}:8001/healthz?alive"]
    monkeypatch.setenv("VPN_NETWORK", "everything")
    assert "found 'everything', expected an IPv4 network" in healthy.check("machines")


def test_worker_is_well_while_it_holds_its_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIR", str(tmp_path))
    assert "cannot be read" in healthy.check("alive")
    with SignOfLife(tmp_path / "processes") as process:
        assert healthy.check("alive") == ""
        # What a killed one left behind has no lock.
        (tmp_path / "processes" / "dead").write_text("")
        assert healthy.check("alive") == ""
        assert process.name
    assert "No process holds its sign of life" in healthy.check("alive")


def test_unknown_question_is_told_what_there_is() -> None:
    done = subprocess.run(
        ["/usr/bin/python3", IMAGES / "portal" / "healthy.py", "everything"],
        env={**os.environ}, capture_output=True, text=True, timeout=LONG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip() == "Found 'everything', expected 'alive', 'machines' or an http:// address."


# --- rds_roots.py -----------------------------------------------------------------------------------------------------


def _root(name: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def test_roots_of_rds_and_nothing_else_go_into_the_image() -> None:
    roots = _root("Amazon RDS eu-west-1 Root CA ECC384 G1") + _root("Amazon RDS us-east-1 Root CA RSA2048 G1")
    kept = rds_roots.check(f"# a comment\n{roots}".replace("\n", "\r\n"))
    assert kept == roots
    with pytest.raises(ValueError, match="'Somebody else'"):
        rds_roots.check(roots + _root("Somebody else"))
    with pytest.raises(ValueError, match="found no certificate"):
        rds_roots.check("<html>Sign in to this hotel's network</html>")
