"""A VPN server and its surroundings in namespaces: OpenVPN, the authorisation agent and the server, each kept running.

What the host has of all this are namespaces, processes and a forwarded port; no interface, route or firewall rule.
Addresses outside the tunnel are of 198.18.0.0/15, which is for trying things out (RFC 2544).
"""

from __future__ import annotations

import contextlib
import ipaddress
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from machines.vpn import networks
from portal.demo.errors import DemoError
from portal.demo.vpn import lines
from portal.demo.vpn.lines import Place, Quality, Way
from portal.demo.vpn.namespaces import Namespaces, enter, inside
from portal.demo.vpn.services import Service, Supervisor

ROOT = Path(__file__).resolve().parents[3]
SERVER_OUTSIDE = "198.18.0.1"
_FIRST_OUTSIDE = ipaddress.IPv4Address("198.18.1.1")
NETWORK = "10.77.0.0/20"
SERVER_INSIDE = str(networks.server_address(ipaddress.ip_network(NETWORK)))
API_PORT = 8001
GATEWAY_UIDS = "61000-61999"
VPN_PORT = 1194
_START_S = 60.0


@dataclass(frozen=True, slots=True)
class Door:
    """A port of a namespace that is reached at a loopback port of the computer; `at` None is the server's."""

    port: int
    inside_port: int
    at: str | None = None


def environment(*, protocol: str = "udp") -> dict[str, str]:
    """The settings by which the server knows that it stands on such a bed."""
    return {
        "VPN": "openvpn",
        "VPN_NETWORK": NETWORK,
        "VPN_REMOTE": SERVER_OUTSIDE,
        "VPN_PORT": str(VPN_PORT),
        "VPN_PROTOCOL": protocol,
        "MACHINE_API_BIND": f"{SERVER_INSIDE}:{API_PORT}",
        "GATEWAY_UIDS": GATEWAY_UIDS,
    }


def over_tcp(place: str) -> str:
    """The name of a place's line over TCP, where there is one beside that over UDP (VPN_TCP_PORT)."""
    return f"{place} over TCP"


class Bed:
    """The namespaces with their lines, and the programs in the server's. Use as a context manager.

    `values` is the environment of manage.py, with `environment()` in it. Raises DemoError for what does not start.
    """

    def __init__(
        self,
        folder: Path,
        places: Sequence[str],
        values: Mapping[str, str],
        *,
        doors: Sequence[Door] = (),
        leftovers: tuple[Path, ...] = (),
    ) -> None:
        self.folder = folder
        self.values = dict(values)
        self._tcp_port = int(self.values.get("VPN_TCP_PORT") or 0)
        self.vpn_dir = Path(self.values.get("VPN_DIR") or Path(self.values["STATE_DIR"]) / "vpn")
        self._places = list(places)
        self._doors = list(doors)
        self._namespaces = Namespaces(leftovers=leftovers)
        self._stack = contextlib.ExitStack()
        self.supervisor = Supervisor()
        self.killed: list[str] = []
        self.namespaces: dict[str, str] = {}
        self.server = ""
        self.has_server = False

    @property
    def control(self) -> Path:
        return self.folder / "lines.sock"

    def __enter__(self) -> Bed:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._namespaces)
            stack.callback(self._stop)
            self._make()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _stop(self) -> None:
        self.killed += self.supervisor.stop()

    # --- places ------------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self.server = self._namespaces.add("s", SERVER_OUTSIDE, *map(self.outside, self._places))
        with inside(self.server):
            # What keeps machines apart is the firewall, not that the computer would not forward anyway.
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for number, place in enumerate(self._places):
            self.namespaces[place] = self._namespaces.add(str(number), SERVER_OUTSIDE)
        kind = self.values.get("VPN_PROTOCOL", "udp")
        ways = [
            Way(place, kind, Place(self.namespaces[place], SERVER_OUTSIDE, VPN_PORT),
                Place(self.server, SERVER_OUTSIDE, VPN_PORT), self.outside(place))
            for place in self._places
        ]  # fmt: skip
        if self._tcp_port:
            ways += [
                Way(over_tcp(place), "tcp", Place(self.namespaces[place], SERVER_OUTSIDE, self._tcp_port),
                    Place(self.server, SERVER_OUTSIDE, self._tcp_port), self.outside(place))
                for place in self._places
            ]  # fmt: skip
        for door in self._doors:
            to = self.server if door.at is None else self.namespaces[door.at]
            way = Place(None, "127.0.0.1", door.port), Place(to, "127.0.0.1", door.inside_port)
            ways.append(Way(f"Port {door.port}", "door", *way))
        self._start_lines(ways)

    def _start_lines(self, ways: list[Way]) -> None:
        file, ready = self.folder / "lines.json", self.folder / "lines.ready"
        ready.unlink(missing_ok=True)
        lines.write_ways(file, self.control, ways)
        command = [sys.executable, "-m", "portal.demo.vpn.lines", "serve", str(file), "--ready-file", str(ready)]
        service = self.service("The lines", command, log="lines.log", is_kept=False)
        service.wait_until(ready.exists, what="all lines are there", within_s=_START_S)

    def outside(self, place: str) -> str:
        """A machine's address on the Internet, as the server sees it."""
        return str(_FIRST_OUTSIDE + self._places.index(place))

    def set_line(self, place: str, quality: str | Quality) -> None:
        """Changes a machine's line at once."""
        lines.tell(self.control, place, quality)

    # --- programs ----------------------------------------------------------------------------------------------------

    def service(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: str,
        place: str | None = None,
        namespace: str | None = None,
        is_kept: bool = True,
        values: Mapping[str, str] | None = None,
        stop_s: float = 15.0,
    ) -> Service:
        """Starts a program, at a machine's place or in a namespace, with our own environment or these values."""
        at = self.namespaces[place] if place is not None else namespace
        given = self.values if values is None else values
        made = Service(name, command, log=self.folder / log, environment=given, folder=ROOT, namespace=at,
                       is_kept=is_kept, stop_s=stop_s)  # fmt: skip
        return self.supervisor.start(made)

    def manage(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *arguments]

    def start_vpn(self) -> None:
        """OpenVPN and the authorisation agent, in the order in which a computer starts them."""
        self.run("authorise", "--write-only")
        self.openvpn = self._start_openvpn("OpenVPN", "server.conf", log="openvpn.log")
        if self._tcp_port:
            self._start_openvpn("OpenVPN over TCP", "server-tcp.conf", log="openvpn-tcp.log")
        self.authorise = self.service(
            "The authorisation agent", self.manage("authorise"), log="authorise.log", namespace=self.server
        )
        self.authorise.wait_until(
            lambda: self.authorise.has_said("At OpenVPN's management socket"), what="it answers", within_s=_START_S
        )

    def _start_openvpn(self, name: str, file: str, *, log: str) -> Service:
        command = [str(ROOT / "backbone" / "images" / "vpn" / "openvpn.sh"), file]
        values = {**self.values, "VPN_DIR": str(self.vpn_dir)}
        made = self.service(name, command, log=log, namespace=self.server, values=values)
        made.wait_until(lambda: made.has_said("Initialization Sequence Completed"), what="it is up", within_s=_START_S)
        return made

    def start_server(self, *options: str, ready_file: Path, stop_s: float = 60.0) -> Service:
        """`manage.py serve`, ready when this returns."""
        ready_file.unlink(missing_ok=True)
        command = self.manage("serve", "--ready-file", str(ready_file), *options)
        self.serve = self.service("The server", command, log="server.log", namespace=self.server, stop_s=stop_s)
        self.has_server = True
        self.serve.wait_until(ready_file.exists, what="it is ready", within_s=_START_S)
        return self.serve

    def run(self, *arguments: str) -> str:
        """A command of manage.py in the server's namespace; what it said. Raises DemoError."""
        command = [*enter(self.server), *self.manage(*arguments)]
        done = subprocess.run(
            command, cwd=ROOT, env=self.values, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_START_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise DemoError(f"manage.py {' '.join(arguments)}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def ask(self, place: str | None, *command: str, user: int | None = None, within_s: float = 30) -> tuple[int, str]:
        """A command at a machine's place, None: at the server, as that user; its status and all that it said."""
        at = self.server if place is None else self.namespaces[place]
        who = [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]
        done = subprocess.run(
            [*enter(at), *who, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s,
            check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr
