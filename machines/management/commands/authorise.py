"""`manage.py authorise`: the authorisation agent beside OpenVPN."""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import os
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError

from machines.authorisation import isolation, nft
from machines.authorisation.agent import Agent
from machines.authorisation.allow_list import AllowListError
from machines.authorisation.hands import Hands
from machines.authorisation.health import Health, HealthServer
from machines.authorisation.isolation import IsolationConfig
from machines.authorisation.nft import NftError
from machines.authorisation.routes import Routes
from machines.authorisation.rows import read_wishes
from machines.authorisation.server_files import ServerFiles
from machines.authorisation.ways import Way
from machines.passages import Passage
from machines.vpn import files, networks
from machines.vpn.base import has_vpn
from machines.vpn.profile import ProfileError

logger = logging.getLogger(__name__)

# The agent before may still be writing down what it knows.
_LOCK_WAIT_S = 10.0


class Command(BaseCommand):
    # It serves no page: what only pages need may be missing where it runs.
    requires_system_checks = [Tags.models]
    help = (
        "Writes what OpenVPN reads into VPN_DIR, then decides on its management socket who may join, and keeps "
        "machines and gateways apart by nftables, until it is told to stop. Needs root."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        only = parser.add_mutually_exclusive_group()
        only.add_argument(
            "--write-only", action="store_true", help="Write the files and end: OpenVPN needs them to start."
        )
        only.add_argument(
            "--remove-isolation",
            action="store_true",
            help="Take the firewall's rules away and end: only when OpenVPN will not run here any more.",
        )

    def handle(self, *args: object, write_only: bool, remove_isolation: bool, **options: object) -> None:
        if not has_vpn():
            raise CommandError(f"VPN: found {settings.VPN!r}, expected 'openvpn'. There is nothing to authorise.")
        try:
            if remove_isolation:
                nft.run(isolation.removal(_isolation_config()))
            elif write_only:
                self._write(_server_files())
            else:
                self._authorise()
        except (AllowListError, NftError, ProfileError) as error:
            raise CommandError(str(error)) from error

    def _write(self, server_files: ServerFiles) -> None:
        """A database that is away keeps OpenVPN from its first start only."""
        try:
            server_files.write_server()
            server_files.write_wishes(read_wishes())
        except (OperationalError, InterfaceError) as error:
            if lacking := ", ".join(server_files.lacking()):
                raise CommandError(f"The database is away, and {server_files.folder} lacks {lacking}.") from error
            self.stderr.write(f"The database is away: {server_files.folder} stays as it is.")

    def _authorise(self) -> None:
        stop = threading.Event()
        server_files = _server_files()
        files.ensure_folder(server_files.folder)
        with open(server_files.folder / "authorise.lock", "w") as lock:
            _lock(lock)
            hands = Hands(server_files, isolate_by(_isolation_config()))
            allow_list, known = hands.start()
            routes = None if settings.VPN_TCP_PORT is None else Routes(networks.tcp_device(settings.VPN_DEVICE))
            agent = Agent(
                server_files.socket_path, server_files.network, hands, allow_list=allow_list, known=known,
                tcp_socket_path=server_files.tcp_socket_path,
                want_routes=routes.want if routes else lambda addresses: None,
            )  # fmt: skip
            is_answering_tcp = partial(agent.is_answering_at, Way.TCP) if routes else None
            health = _start_health(
                Health(server_files.folder, lambda: agent.is_answering, is_answering_tcp=is_answering_tcp)
            )

            def end(*_: object) -> None:
                stop.set()  # this thread never waits for it; the hands' bell has a lock that it may hold
                agent.wake()

            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, end)
            # A daemon: a database that hangs must not keep the process from ending.
            thread = threading.Thread(target=hands.run, args=(stop,), name="hands", daemon=True)
            thread.start()
            if routes is not None:
                threading.Thread(target=routes.run, args=(stop,), name="routes", daemon=True).start()
            if settings.GATEWAY != "local" and _forwards_nothing():
                self.stderr.write("net.ipv4.ip_forward is 0: gateways that are not on this computer reach no machine.")
            self.stdout.write(f"Authorising machines at {server_files.socket_path}; Ctrl-C ends it.")
            self.stdout.flush()
            agent.run(stop)
            if health is not None:
                health.stop()
            hands.ring()
            thread.join(3)


def _server_files() -> ServerFiles:
    network = settings.VPN_NETWORK
    assert isinstance(network, ipaddress.IPv4Network)  # the settings see to it
    return ServerFiles(settings.VPN_DIR, network)


def _start_health(health: Health) -> HealthServer | None:
    if settings.VPN_HEALTH_BIND is None:
        return None
    server = HealthServer(settings.VPN_HEALTH_BIND, health)
    try:
        server.start()
    except OSError as error:
        host, port = settings.VPN_HEALTH_BIND
        raise CommandError(f"VPN_HEALTH_BIND: cannot listen on {host}:{port}: {error.strerror}.") from error
    return server


def _isolation_config() -> IsolationConfig:
    server = networks.server_address(settings.VPN_NETWORK)
    return IsolationConfig(
        device=settings.VPN_DEVICE,
        server_address=ipaddress.IPv4Address(str(server)),
        api_port=settings.MACHINE_API_BIND[1],
        gateway_uids=settings.GATEWAY_UIDS,
        gateways=ipaddress.IPv4Network(str(networks.gateways(settings.VPN_NETWORK))),
        network=ipaddress.IPv4Network(str(settings.VPN_NETWORK)) if settings.VPN_MASQUERADE else None,
        tcp_device=networks.tcp_device(settings.VPN_DEVICE) if settings.VPN_TCP_PORT else "",
        tcp_ports=frozenset(_tcp_ports()),
    )


def _tcp_ports() -> Iterator[int]:
    if settings.VPN_PROTOCOL == "tcp":
        yield settings.VPN_PORT
    if settings.VPN_TCP_PORT:
        yield settings.VPN_TCP_PORT


def _forwards_nothing() -> bool:
    path = Path("/proc/sys/net/ipv4/ip_forward")
    return path.exists() and path.read_text().strip() == "0"


def isolate_by(config: IsolationConfig) -> Callable[[frozenset[Passage]], None]:
    """What keeps machines apart, and limits who connects over TCP. Raises NftError when it is the former that fails."""
    has_door = True

    def isolate(passages: frozenset[Passage]) -> None:
        nonlocal has_door
        nft.run(isolation.script(config, passages))
        try:
            nft.run(isolation.door(config))
            has_door = True
        except NftError as error:
            # A kernel may lack what counts connections. No machine must stay out for that.
            if has_door:
                logger.error("One address may take all places of OpenVPN over TCP: %s", error)
            has_door = False

    return isolate


def _lock(file: IO[str]) -> None:
    """Raises CommandError when another agent answers OpenVPN here: it listens to one alone."""
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.write(f"{os.getpid()}\n")
            file.flush()
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CommandError(f"Another authorisation agent is at work in {settings.VPN_DIR}.") from None
            time.sleep(0.1)
