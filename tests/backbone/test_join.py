"""The gateway's join.py as a program: what it runs, refuses, and how it ends. openvpn is one of ours here."""

from __future__ import annotations

import ast
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from machines.vpn import pki
from machines.vpn.profile import ClientProfile, client_profile
from tests.backbone.templates import containers
from tests.sessions.gateways.test_door import load_join
from tests.waiting import LONG_S, until

PROGRAM = Path(__file__).resolve().parents[2] / "backbone/images/gateway/join.py"
# Ends at once the first time; then it lives on and hears no SIGTERM, from before it says that it runs.
OPENVPN = """#!/bin/sh
trap '' TERM
echo "$@" >> "$0.runs"
[ $(wc -l < "$0.runs") -gt 1 ] || exit 1
while :; do sleep 0.1; done
"""
join = load_join()


@pytest.fixture(scope="module")
def profile() -> Callable[[str], str]:
    """A gateway's profile, as the server makes it, by its protocol."""
    now, life = datetime.now(UTC), timedelta(hours=1)
    authority, server_key = pki.make_authority(now=now, life=life), pki.new_tls_crypt_server_key()
    certificate = pki.issue(authority, pki.new_key().public_key(), name="g-a1", now=now, life=life)

    def make(protocol: str = "udp") -> str:
        return client_profile(
            ClientProfile(
                remote="10.0.1.2",
                port=1194,
                protocol=protocol,
                authority=pki.certificate_pem(authority.certificate),
                certificate=pki.certificate_pem(certificate),
                tls_crypt_key=pki.new_tls_crypt_client_key(server_key, b"g-a1"),
            )
        )

    return make


@pytest.fixture
def memory() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="pf-join-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def run(memory: Path, *options: str, **values: str) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ["PATH"], **values}
    command = [sys.executable, str(PROGRAM), "--folder", str(memory), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_servers_profile_is_taken_whole(profile: Callable[[str], str], protocol: str) -> None:
    text = profile(protocol)
    assert join.check_profile(text) and len(join.check_profile(text)) == 64


@pytest.mark.parametrize(
    "change",
    [
        *(f"{line}\nclient" for line in ("up /bin/sh", "script-security 2", "plugin x.so", "route 0.0.0.0 0.0.0.0")),
        *(
            f"{line}\nclient"
            for line in ("config /etc/passwd", "log /tmp/x", "management 0.0.0.0 1", "redirect-gateway")
        ),
        *(f"{line}\nclient" for line in ("ca /etc/ssl/x", "  up /bin/sh", "client\tup", "<up>", "x" * 300, "\u2028up")),
        "<key>\nx\n</key>\nclient",
        "<ca>\nx\n</ca>\nclient",
    ],
)
def test_profile_that_does_more_than_join_is_refused(profile: Callable[[str], str], change: str) -> None:
    with pytest.raises(join.JoinError):
        join.check_profile(profile("udp").replace("client", change, 1))


@pytest.mark.parametrize("lacking", ['pull-filter ignore ""\n', "remote-cert-tls server\n"])
def test_profile_that_trusts_any_server_or_does_what_it_is_told_is_refused(
    profile: Callable[[str], str], lacking: str
) -> None:
    text = profile("udp")
    assert lacking in text
    with pytest.raises(join.JoinError, match="lacks"):
        join.check_profile(text.replace(lacking, ""))


def test_openvpn_is_run_again_when_it_ends_and_ended_within_seconds(
    profile: Callable[[str], str], memory: Path, tmp_path: Path
) -> None:
    openvpn = tmp_path / "openvpn"
    openvpn.write_text(OPENVPN)
    openvpn.chmod(0o755)
    folder = memory / "made"
    program = run(folder, "--port", "0", "--device", "lo", PATH=f"{tmp_path}:{os.environ['PATH']}")
    try:
        port = _port_of(program)
        assert _post(port, {"profile": profile("udp"), "address": "127.0.0.1"}) == 201
        assert _post(port, {"profile": profile("udp"), "address": "127.0.0.1"}) == 409
        with pytest.raises(ConnectionError):  # who comes through the tunnel is not heard
            _post(port, {}, host="127.0.0.1")
        runs = tmp_path / "openvpn.runs"
        until(lambda: runs.exists() and len(runs.read_text().splitlines()) == 2, "openvpn runs again")
        # After the profile, so that they hold whatever it says.
        assert runs.read_text().splitlines()[0].split()[-3:] == ["--script-security", "0", "--suppress-timestamps"]
        assert f"--key {folder}/key.pem" in runs.read_text()
        assert run(folder, "--health", "--device", "lo").wait(LONG_S) == 0
        assert run(folder, "--health", "--device", "nowhere").wait(LONG_S) == 1
        program.send_signal(signal.SIGTERM)
        assert program.wait(LONG_S) == 0
        # By then AWS would kill it.
        (limit_s,) = {one["StopTimeout"] for _, _, one in containers("gateways") if one["Name"] == "openvpn"}
        assert limit_s - 1 > join._GRACE_S
    finally:
        program.kill()
        program.wait()


def test_gateway_that_nobody_comes_for_ends(memory: Path) -> None:
    program = run(memory, "--port", "0", "--wait-s", "0.1")
    assert program.wait(LONG_S) == 1
    assert "nobody brought a profile" in program.stdout.read()  # type: ignore[union-attr]


def test_gateway_without_a_profile_is_not_well(memory: Path) -> None:
    assert run(memory, "--health", "--device", "lo").wait(LONG_S) == 1


def test_key_is_made_on_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_IN_MEMORY", ("no such file system",))
    with pytest.raises(join.JoinError, match="expected one in memory"):
        join.Gateway(str(tmp_path), "tun0")
    assert list(tmp_path.iterdir()) == []


def test_program_needs_python_3_9_and_nothing_else() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 9))
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [one.name for one in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names | {"__future__"}


def _port_of(program: subprocess.Popen[str]) -> int:
    assert program.stdout
    for line in program.stdout:
        if "on port" in line:
            return int(line.split()[-1])
    raise AssertionError("it ended before it listened")


def _post(port: int, document: dict[str, Any], *, host: str = "127.0.0.2") -> int:
    line = http.client.HTTPConnection(host, port, timeout=LONG_S)
    line.request("POST", "/profile", json.dumps(document))
    return line.getresponse().status
