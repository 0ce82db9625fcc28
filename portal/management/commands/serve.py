"""`manage.py serve`: the whole of Portafilter in one process, its two faces alone, or one of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from argparse import ArgumentParser
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import uvicorn
import uvloop
from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError
from django.utils import timezone

from notifications import live, sns
from notifications.sender import start_pusher
from portal.websockets import BoundedWebSocketProtocol
from sessions import bell, gateway_rows
from sessions.api import waiting
from sessions.gateways.base import GatewayError, StillStopping, get_driver
from sessions.signs_of_life import SignOfLife
from sessions.worker import start_threads

PUBLIC = "portal.asgi:application"
MACHINES = "portal.machine_asgi:application"
# Database work of the WebSockets, keepers and long polls; each thread has a connection of its own.
_DATABASE_THREADS = 24
_STOP_TIMEOUT_S = 20.0
_IP_FREEBIND = 15  # Linux; Python's socket module has no name for it


@dataclass(frozen=True, slots=True)
class Parts:
    """Which parts run in this process."""

    public: bool = True
    machine_api: bool = True
    worker: bool = True
    keeper: bool = True


class Server(uvicorn.Server):
    """One face; signals are for the whole process to handle, not for each of its servers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Command(BaseCommand):
    help = "Serves the portal and the machines, and runs the worker and the keeper, until it is told to stop."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--no-worker", action="store_true", help="The worker runs elsewhere: manage.py work.")
        parser.add_argument("--no-keeper", action="store_true", help="The keeper runs elsewhere: manage.py keep.")
        faces = parser.add_mutually_exclusive_group()
        faces.add_argument("--no-machine-api", action="store_true", help="Serve the portal only.")
        faces.add_argument(
            "--machine-api-only",
            action="store_true",
            help="Serve the machines only, as on the VPN's server: no portal, no worker, no keeper.",
        )
        parser.add_argument("--ready-file", type=Path, help="Written when all listeners are up; removed at the end.")
        parser.add_argument(
            "--stop-gateways",
            action="store_true",
            help="At the end, stop the gateways too; without it rescues are taken up by the next start.",
        )

    def handle(
        self,
        *args: object,
        no_worker: bool,
        no_keeper: bool,
        no_machine_api: bool,
        machine_api_only: bool,
        ready_file: Path | None,
        stop_gateways: bool,
        **options: object,
    ) -> None:
        parts = Parts(
            public=not machine_api_only,
            machine_api=not no_machine_api,
            worker=not (no_worker or machine_api_only),
            keeper=not (no_keeper or machine_api_only),
        )
        with contextlib.ExitStack() as stack:
            faces: list[tuple[str, socket.socket]] = []
            if parts.public:
                faces.append((PUBLIC, stack.enter_context(_listen("PUBLIC_BIND", settings.PUBLIC_BIND))))
            if parts.machine_api:
                # The VPN's address is there while OpenVPN runs; the portal does not wait for that.
                comes = settings.VPN == "openvpn"
                listener = _listen("MACHINE_API_BIND", settings.MACHINE_API_BIND, address_comes=comes)
                faces.append((MACHINES, stack.enter_context(listener)))
            has_leases = parts.worker or parts.keeper or (parts.public and sns.is_chosen())
            process = stack.enter_context(SignOfLife()).name if has_leases else ""
            try:
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(self._serve(faces, parts, process, ready_file))
            finally:
                # Only by a server that got its ports: one that did not must leave the gateways of the other alone.
                if stop_gateways:
                    self._stop_gateways()

    async def _serve(
        self, faces: list[tuple[str, socket.socket]], parts: Parts, process: str, ready_file: Path | None
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_DATABASE_THREADS, thread_name_prefix="database"))
        stop = asyncio.Event()
        servers = [Server(_configuration(application)) for application, _ in faces]
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _told_to_stop, stop, servers)
        live.use_loop(loop)
        threads_stop = threading.Event()
        threads: list[threading.Thread] = []
        running: list[asyncio.Task[None]] = []
        try:
            running = [
                asyncio.create_task(server.serve(sockets=[listener]), name=application)
                for server, (application, listener) in zip(servers, faces, strict=True)
            ]
            await _all_started(servers, running)
            if parts.worker:
                threads = start_threads(settings.WORKER_THREADS, process=process, stop=threads_stop)
            elif parts.public and sns.is_chosen():
                threads = [start_pusher(process, threads_stop)]
            if parts.keeper:
                running.append(asyncio.create_task(_keep(process, stop), name="keeper"))
            self._say_ready(faces, ready_file)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not stop.is_set():
                ended = next(task for task in running if task.done())
                raise CommandError(f"{ended.get_name()} ended by itself: {ended.exception() or 'no reason was given'}.")
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)
            stop.set()
            waiting.end_all()
            threads_stop.set()
            bell.ring()
            for server in servers:
                server.should_exit = True
            if running:
                _, late = await asyncio.wait(running, timeout=_STOP_TIMEOUT_S)
                for task in late:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)
            for thread in threads:
                # A driver's call takes 15 s at most, and is better finished than taken up by another worker later.
                await asyncio.to_thread(thread.join, _STOP_TIMEOUT_S)
            live.use_loop(None)
            await sync_to_async(_close_connections)()

    def _say_ready(self, faces: list[tuple[str, socket.socket]], ready_file: Path | None) -> None:
        for application, listener in faces:
            if application == PUBLIC:
                self.stdout.write(f"Portafilter is at {settings.PUBLIC_ORIGINS[0]} — Ctrl-C ends it.")
                continue
            host, port = listener.getsockname()[:2]
            self.stdout.write(f"Machines ask for help at http://{host}:{port} ({application.split(':')[0]}).")
        self.stdout.flush()
        if ready_file is not None:
            # Whole or not at all: whoever waits for it reads it as soon as it is there.
            beside = ready_file.with_name(f"{ready_file.name}.{os.getpid()}")
            beside.write_text(
                "".join("{}:{}\n".format(*listener.getsockname()[:2]) for _, listener in faces), encoding="utf-8"
            )
            beside.replace(ready_file)

    def _stop_gateways(self) -> None:
        driver = get_driver(settings.GATEWAY)
        with contextlib.suppress(DatabaseError):  # they are stopped all the same, and missed by the next start
            gateway_rows.give_up_warm(settings.GATEWAY, now=timezone.now())
        try:
            attempts = driver.running()
            for attempt in attempts:
                with contextlib.suppress(StillStopping):  # it has been told, and ends by itself
                    driver.stop(attempt, {})
        except GatewayError as error:
            raise CommandError(f"Not all gateways could be stopped: {error}") from error
        if attempts:
            self.stdout.write(f"Stopped {len(attempts)} gateway{'s' if len(attempts) > 1 else ''}.")


def _configuration(application: str) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        # The peer's address is what the socket says, whatever a header says (T13).
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        ws=BoundedWebSocketProtocol,
        ws_per_message_deflate=False,
        ws_max_size=65536,
        ws_ping_interval=10,
        ws_ping_timeout=10,
    )


def _listen(name: str, address: tuple[str, int], *, address_comes: bool = False) -> socket.socket:
    """A listening socket; raises CommandError that says which setting to change.

    `address_comes`: it need not be this computer's yet (ip(7), IP_FREEBIND).
    """
    host, port = address
    try:
        family, _, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if address_comes and family == socket.AF_INET:
                listener.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
            listener.bind(target[:2])
            listener.listen(512)
            stack.pop_all()
    except OSError as error:
        raise CommandError(
            f"Cannot listen on {host}:{port}: {_reason(error)}. Set {name} to an address that is free here."
        ) from error
    listener.setblocking(False)
    return listener


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


async def _all_started(servers: list[Server], running: list[asyncio.Task[None]]) -> None:
    while not all(server.started for server in servers):
        ended = [task for task in running if task.done()]
        if ended:
            raise CommandError(f"{ended[0].get_name()} did not start: {ended[0].exception() or 'it ended at once'}.")
        await asyncio.sleep(0.01)


async def _keep(process: str, stop: asyncio.Event) -> None:
    from sessions.keepers import KeeperSupervisor

    await KeeperSupervisor(f"{process}:keeper").run(stop)


def _told_to_stop(stop: asyncio.Event, servers: list[Server]) -> None:
    if stop.is_set():
        for server in servers:
            server.force_exit = True
    stop.set()


def _close_connections() -> None:
    from django.db import connections

    connections.close_all()
