"""All the simulated machines of a folder in one process, and the socket by which other processes reach them."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agent.api import ApiError
from agent.config import ConfigError
from agent.rdp import RdpError
from agent.simulator.coffee import FAULTS
from agent.simulator.config import MachineConfig, machine_folders
from agent.simulator.display import DisplayError
from agent.simulator.machine import SimulatedMachine
from agent.simulator.street import StreetView

log = logging.getLogger("agent.simulator")

SOCKET_NAME = "simulator.sock"
OVER = ("closed", "cancelled", "failed")
_AT_ONCE = 3  # machines that start at a time: each is two programs
_REQUEST_LIMIT = 64 * 1024


class Fleet:
    """Starts, keeps and stops the machines. `street_port` 0 takes any free port, None has no street view."""

    def __init__(self, folder: Path, *, street_port: int | None = 0) -> None:
        self._folder = folder
        self._street_port = street_port
        self.machines: dict[str, SimulatedMachine] = {}
        for path in machine_folders(folder):
            config = MachineConfig.from_folder(path)
            if config.serial in self.machines:
                raise ConfigError(
                    f"{path}: found serial {config.serial} a second time, expected another for each machine."
                )
            self.machines[config.serial] = SimulatedMachine(config)
        self._street: StreetView | None = None
        self._socket: _SocketServer | None = None

    def __enter__(self) -> Fleet:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def street_url(self) -> str:
        return self._street.url if self._street is not None else ""

    def start(self, on_up: Callable[[SimulatedMachine], None] = lambda machine: None) -> None:
        """Switches all machines on; returns when every screen is drawn. When one fails, all are switched off again."""
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for machine in pool.map(_switch_on, self.machines.values()):
                    on_up(machine)
            if self._street_port is not None:
                self._street = StreetView(self.machines, port=self._street_port)
                self._street.start()
            self._socket = _SocketServer(self._folder, self)
            threading.Thread(target=self._socket.serve_forever, args=(0.1,), name="simulator.sock", daemon=True).start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Switches all machines off, and returns when nothing of them runs any more."""
        if self._socket is not None:
            self._socket.shutdown()
            self._socket.server_close()
        if self._street is not None:
            self._street.stop()
        if self.machines:
            with ThreadPoolExecutor(len(self.machines)) as pool:
                list(pool.map(SimulatedMachine.stop, self.machines.values()))
        (self._folder / SOCKET_NAME).unlink(missing_ok=True)

    def answer(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of the answer to one command; raises ValueError for a command that cannot be understood."""
        command = request.get("do")
        if command == "list":
            yield {"machines": [describe(machine) for machine in self.machines.values()]}
            return
        machine = self._machine(request.get("machine"))
        if command == "state":
            yield {**describe(machine), "screen": machine.screen}
        elif command == "screenshot":
            yield {"png": base64.b64encode(machine.screenshot()).decode("ascii")}
        elif command == "press":
            yield from self._press(machine, request)
        elif command == "cancel":
            yield {"was_open": machine.cancel()}
        elif command == "fault":
            if request.get("code") not in FAULTS:
                raise ValueError(f"found fault {request.get('code')!r}, expected one of {', '.join(FAULTS)}")
            machine.break_down(request["code"])
            yield describe(machine)
        else:
            raise ValueError(f"found command {command!r}, expected list, state, screenshot, press, cancel or fault")

    def _machine(self, serial: object) -> SimulatedMachine:
        if not serial and len(self.machines) == 1:
            return next(iter(self.machines.values()))
        if not isinstance(serial, str) or serial not in self.machines:
            raise ValueError(f"found machine {serial!r}, expected one of {', '.join(self.machines)}")
        return self.machines[serial]

    def _press(self, machine: SimulatedMachine, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the person at the machine reads, line by line, from this press to the end of the rescue."""
        number = len(machine.notices)
        if number and machine.notices[-1].state not in OVER:
            number -= 1  # a rescue is open already: begin with what its screen says now
        machine.press(code=request.get("code"), text=request.get("text"))
        while True:
            number += 1
            notice = machine.wait_for_notice(number)
            yield {"state": notice.state, "message": notice.message, "operator": notice.operator_name}
            if notice.state in OVER:
                return


def describe(machine: SimulatedMachine) -> dict[str, Any]:
    """A machine in a few words."""
    config, rescue = machine.config, machine.rescue
    fault = machine.screen.get("fault")
    return {
        **{"serial": config.serial, "name": config.name, "site": config.site},
        "address": config.address or machine.line.address,
        "fault": f"{fault['code']} {fault['title']}" if fault else "",
        "rdp_port": machine.rdp_port,
        "rescue": {"state": rescue.state, "message": rescue.message, "operator": rescue.operator_name},
    }


def ask_simulator(folder: Path, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Sends a command to the simulator that runs this folder's machines; raises ConfigError when none does."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with _short_path(folder) as path:
                connection.connect(path)
        except OSError as error:
            raise ConfigError(
                f"{folder}: no simulator runs here ({error.strerror}). Start it: "
                f"python3 -m agent.simulator run --folder {folder}"
            ) from error
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as answer:
            for line in answer:
                document = json.loads(line)
                if "error" in document:
                    raise ValueError(document["error"])
                yield document


def _switch_on(machine: SimulatedMachine) -> SimulatedMachine:
    machine.start()
    return machine


@contextlib.contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """The socket's path by way of an open folder: a Unix socket's name has room for 107 bytes only."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{SOCKET_NAME}"
    finally:
        os.close(handle)


class _SocketServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, folder: Path, fleet: Fleet) -> None:
        self.fleet = fleet
        path = folder / SOCKET_NAME
        path.unlink(missing_ok=True)  # each machine's folder is locked by now: it can only be a dead simulator's
        with _short_path(folder) as short:
            super().__init__(short, _SocketHandler)
        path.chmod(0o600)


class _SocketHandler(socketserver.StreamRequestHandler):
    server: _SocketServer

    def handle(self) -> None:
        try:
            request = json.loads(self.rfile.readline(_REQUEST_LIMIT))
            if not isinstance(request, dict):
                raise ValueError("expected a JSON object")
            for line in self.server.fleet.answer(request):
                self._say(line)
        except (BrokenPipeError, ConnectionResetError):
            pass  # whoever asked has gone; the rescue goes on
        except (ValueError, TimeoutError, ApiError, RdpError, DisplayError) as error:
            self._say({"error": str(error)})

    def _say(self, document: dict[str, Any]) -> None:
        self.wfile.write(json.dumps(document).encode() + b"\n")
