"""A real OpenVPN server and a machine, each in a network namespace of its own, with a cable between them."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from machines.vpn import pki
from machines.vpn.profile import ClientProfile, client_profile
from tests.waiting import until

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_LIFE = datetime.timedelta(days=1)
SERVER, MACHINE = "10.77.0.1", "10.77.1.1"


def missing() -> str:
    """What this computer lacks for it; "" when nothing."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    return "".join(f"needs the program {name}" for name in ("openvpn", "ip") if shutil.which(name) is None)[:60]


class VpnLab:
    """The server is of the simplest: no authorisation agent, addresses from files, its management socket for us."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._ends = contextlib.ExitStack()
        unique = f"{os.getpid() % 100000}"
        self.server_space, self.machine_space = f"pfs{unique}", f"pfm{unique}"
        now = datetime.datetime.now(datetime.UTC)
        self._authority = pki.make_authority(now=now, life=_LIFE)
        self._tls_crypt_key = pki.new_tls_crypt_server_key()
        self.profile = folder / "profile.ovpn"
        self._write_server(now)
        self._write_machine(now)

    def __enter__(self) -> VpnLab:
        try:
            for space in (self.server_space, self.machine_space):
                _ip("netns", "add", space)
                self._ends.callback(_ip, "netns", "delete", space)
            self._ends.callback(self._end_what_is_left)
            _ip("link", "add", "line", "netns", self.server_space, "type", "veth",
                "peer", "name", "line", "netns", self.machine_space)  # fmt: skip
            for space, address in ((self.server_space, "192.0.2.1/24"), (self.machine_space, "192.0.2.2/24")):
                _ip("-n", space, "address", "add", address, "dev", "line")
                for name in ("lo", "line"):
                    _ip("-n", space, "link", "set", name, "up")
            self._start_server()
        except BaseException:
            self._ends.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._ends.close()

    def at_the_server(self, make: Callable[[], _T]) -> _T:
        """What is made in the server's namespace: a socket stays in the one where it was made."""
        made: list[_T] = []

        def run() -> None:
            with open(f"/run/netns/{self.server_space}", "rb") as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(make())

        thread = threading.Thread(target=run)  # a thread's namespace is its own
        thread.start()
        thread.join()
        return made[0]

    def at_the_machine(self, *command: str) -> list[str]:
        """The command as it is run in the machine's namespace."""
        return ["ip", "netns", "exec", self.machine_space, *command]

    def cut_the_line(self) -> None:
        _ip("-n", self.machine_space, "link", "set", "line", "down")

    def mend_the_line(self) -> None:
        _ip("-n", self.machine_space, "link", "set", "line", "up")

    def admit(self, is_admitted: bool) -> None:
        """Whether the machine is let in from now on."""
        line = f"ifconfig-push {MACHINE} 255.255.240.0\n" if is_admitted else "disable\n"
        new = self._folder / "m-1.new"  # OpenVPN may read it at any moment
        new.write_text(line, encoding="ascii")
        os.replace(new, self._folder / "ccd" / "m-1")

    def halt(self) -> None:
        """As the server does at the end of a rescue."""
        with socket.socket(socket.AF_UNIX) as management:
            management.connect(str(self._folder / "management.sock"))
            management.settimeout(30)
            management.sendall(b"status 3\n")
            said = b""
            while b"END" not in said:
                said += management.recv(4096)
            number = next(line for line in said.decode().splitlines() if line.startswith("CLIENT_LIST\tm-1")).split(
                "\t"
            )
            management.sendall(f"client-kill {number[10]} HALT\n".encode())
            while b"SUCCESS: client-kill" not in said:
                said += management.recv(4096)

    def tunnels(self) -> list[int]:
        """The OpenVPN processes of the machine."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.machine_space], capture_output=True, text=True, check=True
        ).stdout.split()
        return [int(pid) for pid in found if _name_of(pid) == "openvpn"]

    def _end_what_is_left(self) -> None:
        """A test that failed leaves its agent and more; a namespace must be empty to be gone."""
        for space in (self.server_space, self.machine_space):
            for pid in subprocess.run(["ip", "netns", "pids", space], capture_output=True, check=True).stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)

    def _write_server(self, now: datetime.datetime) -> None:
        key = pki.new_key()
        certificate = pki.issue(self._authority, key.public_key(), name=pki.SERVER_NAME, now=now, life=_LIFE)
        for name, text in {
            "ca.crt": pki.certificate_pem(self._authority.certificate),
            "server.crt": pki.certificate_pem(certificate),
            "server.key": pki.key_pem(key),
            "tls-crypt-v2.key": self._tls_crypt_key,
            "server.conf": (
                "mode server\ntls-server\nproto udp4\nport 1194\ndev tun\ndev-type tun\ntopology subnet\n"
                f'push "topology subnet"\nifconfig {SERVER} 255.255.240.0\nccd-exclusive\nclient-config-dir ccd\n'
                "ca ca.crt\ncert server.crt\nkey server.key\ndh none\nremote-cert-tls client\ntls-version-min 1.2\n"
                "tls-crypt-v2 tls-crypt-v2.key\ndata-ciphers AES-256-GCM\nauth SHA256\nkeepalive 5 60\ntun-mtu 1400\n"
                "mssfix 1300\npersist-tun\npersist-key\nexplicit-exit-notify 1\nverb 3\n"
                "management management.sock unix\n"
            ),
        }.items():
            (self._folder / name).write_text(text, encoding="ascii")
            (self._folder / name).chmod(0o600)
        (self._folder / "ccd").mkdir()
        self.admit(True)

    def _write_machine(self, now: datetime.datetime) -> None:
        key = pki.new_key()
        certificate = pki.issue(self._authority, key.public_key(), name="m-1", now=now, life=_LIFE)
        profile = ClientProfile(
            remote="192.0.2.1",
            port=1194,
            protocol="udp",
            authority=pki.certificate_pem(self._authority.certificate),
            certificate=pki.certificate_pem(certificate),
            tls_crypt_key=pki.new_tls_crypt_client_key(self._tls_crypt_key, b"m-1"),
            key=pki.key_pem(key),
        )
        self.profile.write_text(client_profile(profile), encoding="ascii")
        self.profile.chmod(0o600)

    def _start_server(self) -> None:
        log = self._folder / "server.log"
        with open(log, "wb") as output:
            server = subprocess.Popen(
                ["ip", "netns", "exec", self.server_space, "openvpn", "--config", "server.conf"],
                cwd=self._folder, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self._ends.callback(server.wait)
        self._ends.callback(server.kill)

        def is_ready() -> bool:
            said = log.read_text(encoding="utf-8", errors="replace")
            assert server.poll() is None, said[-1000:]
            return "Initialization Sequence Completed" in said

        until(is_ready, "the server is up")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def _name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
