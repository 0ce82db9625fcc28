"""A real OpenVPN server with the authorisation agent beside it, and clients, each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection
from pytest_django.fixtures import Settings

from machines import identities
from machines.authorisation import isolation
from machines.authorisation.agent import Agent
from machines.authorisation.hands import Hands
from machines.authorisation.isolation import IsolationConfig
from machines.authorisation.routes import Routes
from machines.authorisation.routes import run as run_ip
from machines.authorisation.rows import read_wishes
from machines.authorisation.server_files import ServerFiles
from machines.models import Machine
from machines.passages import Passage
from machines.vpn import base
from machines.vpn_models import VpnConnection, VpnIdentity
from tests import waiting

ROOT = Path(__file__).resolve().parents[3]
OPENVPN = str(ROOT / "backbone" / "images" / "vpn" / "openvpn.sh")
PEER = str(Path(__file__).with_name("peer.py"))
NETWORK = "10.77.0.0/20"
SERVER_INSIDE = "10.77.0.1"
SERVER_OUTSIDE = "10.99.0.1"
API_PORT = 8001
TCP_DEVICE = "tun-pf-tcp"
GATEWAY_UIDS = "61000-61009"
JOINED = "Initialization Sequence Completed"

until = partial(waiting.until, timeout_s=30)


def missing() -> str:
    """What this computer lacks for a real OpenVPN in namespaces; empty when nothing."""
    if os.geteuid() != 0:
        return "needs root"
    if not os.path.exists("/dev/net/tun"):
        return "needs /dev/net/tun"
    return next((f"needs {program}" for program in ("openvpn", "nft", "ip") if shutil.which(program) is None), "")


def database_url() -> str:
    """The test's own database, for a program beside it."""
    values = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{values['NAME']}"
    login = f"{quote(values['USER'])}:{quote(values['PASSWORD'])}"
    return f"postgres://{login}@{quote(values['HOST'], safe='')}:{values['PORT']}/{values['NAME']}"


class Bed:
    """The server's namespace with a bridge, and places from which machines connect."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A socket's path is short in the kernel; pytest's folders are not.
        self.vpn_dir = folder / "vpn"
        self.name = f"pf-{secrets.token_hex(3)}"
        self.server = f"{self.name}-s"
        self._places: dict[str, str] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs = 0
        self.environment = {
            **os.environ,
            "VPN": "openvpn",
            "VPN_NETWORK": NETWORK,
            "VPN_DIR": str(self.vpn_dir),
            "VPN_REMOTE": SERVER_OUTSIDE,
            "VPN_DEVICE": "tun-pf",
            "MACHINE_API_BIND": f"{SERVER_INSIDE}:{API_PORT}",
            "GATEWAY_UIDS": GATEWAY_UIDS,
            "DATABASE_URL": database_url(),
        }
        ip("netns", "add", self.server)
        ip("-n", self.server, "link", "set", "lo", "up")
        ip("-n", self.server, "link", "add", "br0", "type", "bridge")
        ip("-n", self.server, "addr", "add", f"{SERVER_OUTSIDE}/24", "dev", "br0")
        ip("-n", self.server, "link", "set", "br0", "up")

    def place(self, name: str) -> str:
        """A namespace from which the server can be reached, by an address of its own."""
        if name not in self._places:
            space = f"{self.name}-{name}"
            ip("netns", "add", space)
            self._places[name] = space
            ip("link", "add", f"v{name}", "netns", self.server, "type", "veth", "peer", "eth0", "netns", space)
            ip("-n", self.server, "link", "set", f"v{name}", "master", "br0", "up")
            ip("-n", space, "addr", "add", f"10.99.0.{10 + len(self._places)}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        return self._places[name]

    def address_of(self, place: str) -> str:
        return f"10.99.0.{11 + list(self._places).index(place)}"

    def run(self, space: str, *command: str, user: int | None = None) -> tuple[subprocess.Popen[bytes], Path]:
        """Starts a program in a namespace; its output goes to the file that comes with it."""
        self._logs += 1
        log = self.folder / f"{self._logs}.log"
        setpriv = ("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups") if user is not None else ()
        with open(log, "wb") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", space, *setpriv, *command], cwd=ROOT, env=self.environment,
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        self._running.append(process)
        return process, log

    def authorise(self, *arguments: str) -> tuple[subprocess.Popen[bytes], Path]:
        return self.run(self.server, sys.executable, "manage.py", "authorise", *arguments)

    def start_agent(self) -> tuple[subprocess.Popen[bytes], Path]:
        """The agent as a program, when it answers OpenVPN."""
        process, log = self.authorise()
        until(lambda: said(log, "At OpenVPN's management socket"), timeout_s=60, what=lambda: f"agent: {text(log)}")
        return process, log

    @contextmanager
    def agent(self) -> Iterator[None]:
        """The agent as threads of the test, which costs no start of a program."""
        server_files = self.server_files()
        hands = Hands(server_files, self.isolate)
        allow_list, known = hands.start()
        routes = Routes(TCP_DEVICE, ip=lambda arguments, script: run_ip(["-n", self.server, *arguments], script))
        agent = Agent(
            server_files.socket_path, server_files.network, hands, allow_list=allow_list, known=known,
            tcp_socket_path=server_files.tcp_socket_path, want_routes=routes.want,
        )  # fmt: skip
        stop = threading.Event()
        threads = [threading.Thread(target=run, args=(stop,)) for run in (hands.run, agent.run, routes.run)]
        for thread in threads:
            thread.start()
        try:
            until(lambda: agent.is_answering, timeout_s=30, what="the agent answers OpenVPN")
            yield
        finally:
            stop.set()
            hands.ring()
            routes.ring()
            for thread in threads:
                thread.join(30)

    def server_files(self) -> ServerFiles:
        return ServerFiles(self.vpn_dir, ipaddress.IPv4Network(NETWORK))

    def isolate(self, passages: frozenset[Passage]) -> None:
        """As the command does it, but from outside the server's namespace."""
        first, _, last = GATEWAY_UIDS.partition("-")
        config = IsolationConfig(
            "tun-pf", ipaddress.IPv4Address(SERVER_INSIDE), API_PORT, range(int(first), int(last) + 1),
            tcp_device=TCP_DEVICE if settings.VPN_TCP_PORT else "",
            tcp_ports=frozenset({settings.VPN_TCP_PORT} if settings.VPN_TCP_PORT else ()),
        )  # fmt: skip
        subprocess.run(
            ["ip", "netns", "exec", self.server, "nft", "-f", "-"], input=isolation.script(config, passages),
            text=True, check=True, timeout=30,
        )  # fmt: skip

    def start_openvpn(self) -> tuple[subprocess.Popen[bytes], Path]:
        self.openvpn, log = self.run(self.server, OPENVPN, "server.conf")
        until(lambda: said(log, JOINED), what="OpenVPN")
        self.openvpn_log = log
        return self.openvpn, log

    def start_tcp_openvpn(self) -> subprocess.Popen[bytes]:
        """The second one, for those who come in over TCP."""
        process, log = self.run(self.server, OPENVPN, "server-tcp.conf")
        until(lambda: said(log, JOINED), what=lambda: text(log))
        return process

    def write(self) -> None:
        """The files, as `authorise --write-only` does before OpenVPN's first start."""
        server_files = self.server_files()
        server_files.write_server()
        server_files.write_wishes(read_wishes())

    def connect(self, place: str, profile: str) -> tuple[subprocess.Popen[bytes], Path]:
        """A machine's openvpn with this profile."""
        path = self.folder / f"{secrets.token_hex(4)}.ovpn"
        path.write_text(profile)
        return self.run(self.place(place), "openvpn", "--config", str(path))

    def listen(self, space: str, host: str, port: int) -> None:
        """A program that answers at this address."""
        _, log = self.run(space, sys.executable, PEER, "listen", host, str(port))
        until(lambda: said(log, "listening"), what=lambda: text(log))

    def hold(
        self, space: str, host: str, port: int, *, user: int | None = None
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """A program that connects and goes on talking; see peer.py for what it says."""
        return self.run(space, sys.executable, PEER, "hold", host, str(port), user=user)

    def reaches(self, space: str, host: str, port: int, *, user: int | None = None) -> bool:
        process, log = self.hold(space, host, port, user=user)
        until(lambda: said(log, "connected") or process.poll() is not None, what=lambda: text(log))
        process.kill()
        assert said(log, "connected") != said(log, "no way"), text(log)
        return said(log, "connected")

    def nft(self) -> str:
        return ip("netns", "exec", self.server, "nft", "list", "ruleset")

    def close(self) -> None:
        for process in self._running:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in self._running:
            process.wait(30)
        for space in [self.server, *self._places.values()]:
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "del", space)


@contextmanager
def made() -> Iterator[Bed]:
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        bed = Bed(Path(folder))
        try:
            yield bed
        finally:
            bed.close()


@contextmanager
def serving(settings: Settings, **chosen: object) -> Iterator[Bed]:
    """A bed that the settings are about, and these besides; its OpenVPN runs, and no agent does yet."""
    with made() as bed:
        settings.VPN = "openvpn"
        settings.VPN_NETWORK = ipaddress.ip_network(NETWORK)
        settings.VPN_REMOTE = SERVER_OUTSIDE
        settings.VPN_DIR = bed.vpn_dir
        for name, value in chosen.items():
            setattr(settings, name, value)
        base.get_driver.cache_clear()
        bed.write()
        bed.start_openvpn()
        yield bed
        base.get_driver.cache_clear()


def profile(machine: Machine) -> tuple[VpnIdentity, str]:
    identity = identities.issue_identity(machine)
    return identity, identities.hand_over(identity)


def joined(log: Path, *, timeout_s: float = 60) -> None:
    until(lambda: said(log, JOINED), timeout_s=timeout_s, what=lambda: text(log)[-3000:])


def open_rows(machine: Machine) -> int:
    return VpnConnection.objects.filter(machine=machine, ended_at=None).count()


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=30).stdout


def text(log: Path) -> str:
    return log.read_text("utf-8", "replace")


def said(log: Path, words: str) -> bool:
    return words in text(log)
