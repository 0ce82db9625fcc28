"""`manage.py demo`: demo fleets with simulated machines, and the server, until Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from agent.files import private_folder
from machines.models import Machine
from portal.demo.container import GuacdContainer, needed_engine
from portal.demo.errors import DemoError
from portal.demo.folders import write_machine_folder
from portal.demo.logins import ensure_passwords
from portal.demo.plan import FLEETS
from portal.demo.programs import Program, ToldToStop, check_port, ending_signals_raise
from portal.demo.seeding import seed_fleet
from portal.environment import Environment, SettingError
from sessions.gateways.base import GatewayError, get_driver

_STREET_PORT = 8090
_READY_S = 120.0  # six screens and a server at once, perhaps on one busy processor
_SERVER_STOP_S = 60.0  # its worker may be within a driver's call
_MACHINES_STOP_S = 25.0
_GUACD_STOP_S = 15.0


class Command(BaseCommand):
    help = "Makes the demo's fleets, machines and logins (each once), starts the machines and the server until Ctrl-C."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--seed-only", action="store_true", help="Make what is missing, and start nothing.")

    def handle(self, *args: object, seed_only: bool, **options: object) -> None:
        folder = private_folder(Path(settings.STATE_DIR).resolve() / "demo")
        try:
            with _only_one(folder), ending_signals_raise():
                street_port = Environment().number("STREET_PORT", _STREET_PORT)
                if not seed_only:
                    self.check_places(street_port)
                with self.step("Demo fleets, machines and people"):
                    logins = self._seed(folder)
                if seed_only:
                    self.say_logins(logins)
                    return
                self.run_until_stopped(folder, street_port, logins)
        except (DemoError, SettingError) as error:
            raise CommandError(str(error)) from error
        except ToldToStop:
            pass

    def _seed(self, folder: Path) -> list[tuple[str, str | None, str]]:
        """Makes what is missing; answers with the logins: user name, password, what the person may do."""
        host, port = settings.MACHINE_API_BIND
        api_url = f"http://{_reachable(host)}:{port}"
        for plan in FLEETS:
            fleet = seed_fleet(plan)
            for planned in plan.machines:
                machine = Machine.objects.select_related("site", "model").get(fleet=fleet, serial=planned.serial)
                self.write_folder(folder / "machines" / machine.serial, machine, api_url=api_url, fault=planned.fault)
        people = [person for plan in FLEETS for person in plan.people]
        passwords = ensure_passwords(folder / "logins.json", [person.username for person in people])
        return [(person.username, passwords[person.username], person.about) for person in people]

    # --- what differs with a VPN (demo_vpn.py) ------------------------------------------------------------------------

    def check_places(self, street_port: int) -> None:
        """Raises DemoError for what would keep the demo from starting, before anything is made."""
        host, port = settings.PUBLIC_BIND
        check_port("PUBLIC_BIND", settings.PUBLIC_BIND, example=f"{host}:{port + 100}")
        host, port = settings.MACHINE_API_BIND
        check_port("MACHINE_API_BIND", settings.MACHINE_API_BIND, example=f"{host}:{port + 100}")
        check_port("STREET_PORT", ("127.0.0.1", street_port), example=str(street_port + 100))

    def write_folder(self, folder: Path, machine: Machine, *, api_url: str, fault: str) -> None:
        """Makes the folder of one simulated machine."""
        write_machine_folder(folder, machine, api_url=api_url, fault=fault)

    def run_until_stopped(self, folder: Path, street_port: int, logins: list[tuple[str, str | None, str]]) -> None:
        """Starts everything, waits, and ends everything, in whatever way it is left. Raises DemoError."""
        # The programs have connections of their own; this process only waits from here.
        connections.close_all()
        programs: list[tuple[Program, float]] = []
        guacd: GuacdContainer | None = None
        try:
            if engine := needed_engine():
                with self.step(f"guacd in a container of {engine}"):
                    guacd = GuacdContainer(engine, folder)
                    programs.append((guacd.program, _GUACD_STOP_S))
                    guacd.wait_until_ready(timeout_s=_READY_S)
            server = _start_server(folder, guacd.environment if guacd else {})
            programs.append((server, _SERVER_STOP_S))
            machines = _start_machines(folder, street_port)
            programs.append((machines, _MACHINES_STOP_S))
            with self.step("Server"):
                server.wait_until_ready(timeout_s=_READY_S)
            with self.step("Simulated machines"):
                machines.wait_until_ready(timeout_s=_READY_S)
            self._say_ready(street_port, logins, [server.log, machines.log])
            while True:
                for program, _ in programs:
                    program.check()
                time.sleep(0.25)
        finally:
            self.say("")
            with self.step("Ending the server and the machines"):
                for program, _ in programs:
                    program.tell_to_stop()
                killed = [program.name for program, limit in programs if not program.wait_until_gone(timeout_s=limit)]
                if guacd is not None:
                    guacd.remove()
                else:
                    _stop_gateways()
            if killed:
                self.say(f"  Killed, for it did not end by itself: {', '.join(killed)}")

    def _say_ready(self, street_port: int, logins: list[tuple[str, str | None, str]], logs: list[Path]) -> None:
        serials = [machine.serial for plan in FLEETS for machine in plan.machines]
        self.say("\nPortafilter is ready.\n")
        self.say(f"  Machines   http://127.0.0.1:{street_port}/  (their screens: press help there)")
        self.say(f"             or from a terminal: make press MACHINE={serials[0]}")
        self.say(f"             or {', '.join(serials[1:])}")
        self.say(f"  Logs       {', '.join(short(log) for log in logs)}")
        self.say(f"  Stop       Ctrl-C here, or: kill {os.getpid()}\n")
        self.say(f"  Portal     {settings.PUBLIC_ORIGINS[0]}/")
        self.say_logins(logins)

    # --- words --------------------------------------------------------------------------------------------------------

    def say_logins(self, logins: list[tuple[str, str | None, str]]) -> None:
        for number, (username, password, about) in enumerate(logins):
            label = "Sign in as" if number == 0 else "or as"
            self.say(f"  {label:10} {username:8} {password or '(the password that you chose)'}  ({about})")

    @contextlib.contextmanager
    def step(self, words: str) -> Iterator[None]:
        """Says what is being done, and, when it is done, how long it took."""
        began = time.monotonic()
        self.say(f"  {words} … ", ending="")
        try:
            yield
        except BaseException:
            self.say("stopped")
            raise
        self.say(f"{time.monotonic() - began:.1f} s")

    def say(self, words: str, *, ending: str = "\n") -> None:
        self.stdout.write(words, ending=ending)
        self.stdout.flush()


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Holds the folder; raises DemoError naming the process that has it already."""
    with open(folder / "lock", "a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise DemoError(
                f"The demo of this folder runs already, as process {holder}. "
                f"End it with Ctrl-C in its terminal, or: kill {holder}"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _start_server(folder: Path, environment: dict[str, str]) -> Program:
    ready = folder / "server.ready"
    command = [sys.executable, str(settings.BASE_DIR / "manage.py"), "serve"]
    return Program(
        "The server",
        [*command, "--ready-file", str(ready), "--stop-gateways"],
        log=folder / "server.log",
        ready_file=ready,
        environment=environment,
    )


def _start_machines(folder: Path, street_port: int) -> Program:
    ready = folder / "machines.ready"
    command = [sys.executable, "-m", "agent.simulator", "run", "--folder", str(folder / "machines")]
    return Program(
        "The simulated machines",
        [*command, "--street-port", str(street_port), "--ready-file", str(ready)],
        log=folder / "machines.log",
        ready_file=ready,
        environment={"PYTHONPATH": str(settings.BASE_DIR)},
    )


def _stop_gateways() -> None:
    """Stops what the server has left; it stops its gateways itself, unless it was killed. Raises DemoError."""
    driver = get_driver(settings.GATEWAY)
    try:
        for attempt in driver.running():
            driver.stop(attempt, {})
    except GatewayError as error:
        raise DemoError(f"Not all gateways could be stopped: {error}") from error


def _reachable(host: str) -> str:
    """Where a server that listens on `host` is reached from this computer."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host
    return "127.0.0.1" if everywhere else host


def short(path: Path) -> str:
    """A path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
