"""A real RDP server on a machine's display, which lets exactly one one-off user in: an agent's hook."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from agent.credentials import Credentials
from agent.files import erase, private_folder, read_json, write_json
from agent.processes import birth_of
from agent.rdp import RdpError
from agent.simulator import children
from agent.simulator.display import Display
from agent.simulator.md4 import nt_hash

log = logging.getLogger("agent.simulator.rdp")

_START_S = 60.0  # more than 10 s were measured with eight others starting on two busy processors
_STOP_S = 5.0
_POLL_S = 0.01
_LONGEST_POLL_S = 0.1  # reading the kernel's list costs a millisecond, which a slow start can use better
_LISTEN = "0A"


class ShadowServer:
    """FreeRDP's shadow server, with network level authentication against a SAM file of one line.

    The SAM file (mode 0600, in a folder of mode 0700) exists from `open` to `close`. A state file beside it names the
    process, so that a later run can end what this one left.
    """

    def __init__(self, display: Display, folder: Path, *, address: Callable[[], str], port: int) -> None:
        self._display = display
        self._folder = private_folder(folder)
        self._choose_address = address
        self._address = ""
        self._wanted_port = port
        self._sam = folder / "sam"
        self._state = folder / "shadow.json"
        self._process: subprocess.Popen[bytes] | None = None
        self.port: int | None = None  # while it is open

    def open(self, credentials: Credentials) -> int:
        """Starts the server; the user can log in when this returns. Raises RdpError, and then nothing is left open."""
        return self._open(credentials, self._choose_address())

    def _open(self, credentials: Credentials, address: str) -> int:
        self.close(credentials.username)
        children.require("freerdp-shadow-cli")
        if not address:
            raise RdpError("the tunnel is not up: there is no address to listen on")
        self._address = address
        port = self._choose_port()
        where = {"address": address, "port": port}
        try:
            self._write_sam(credentials)
            write_json(self._state, where, durable=False)
            process = self._start(port)
            write_json(self._state, {**where, "pid": process.pid, "birth": birth_of(process.pid)}, durable=False)
            self._wait_until_listening(process, port)
        except (RdpError, OSError) as error:
            self.close(credentials.username)
            raise RdpError(f"the RDP server did not start on {self._address}:{port}: {error}") from error
        self.port = port
        return port

    def close(self, username: str) -> None:
        """Ends the server and removes the user, also those of an earlier run; returns when nothing listens any more."""
        state = read_json(self._state) or {}
        if self._process is not None:
            # Not gently: the shadow server takes its time for SIGTERM while somebody is connected.
            self._process.kill()
            self._process.wait()
            self._process = None
        elif children.kill_leftover(int(state.get("pid", 0)), str(state.get("birth", ""))):
            log.warning("close: ended an RDP server of an earlier run (process %s)", state["pid"])
        erase(self._sam)
        if state:
            self._wait_until_closed(str(state.get("address") or self._address), int(state.get("port", 0)))
        self._state.unlink(missing_ok=True)
        self.port = None

    def warm_up(self) -> None:
        """Starts and ends it once: it makes its certificate the first time, for which no rescue should wait."""
        if not (self._folder / ".config/freerdp/shadow/shadow.crt").exists():
            # On loopback: an address in the VPN may be there only during a rescue.
            self._open(Credentials("nobody", os.urandom(16).hex()), self._choose_address() or "127.0.0.1")
            self.close("nobody")

    def _write_sam(self, credentials: Credentials) -> None:
        line = f"{credentials.username}:::{nt_hash(credentials.password)}:::\n"
        erase(self._sam)
        handle = os.open(self._sam, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(line)

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        environment = {**self._display.environment, "HOME": str(self._folder)}
        environment.pop("XDG_CONFIG_HOME", None)
        with open(self._folder / "shadow.log", "wb") as output:
            self._process = children.start(
                [
                    *("freerdp-shadow-cli", f"/bind-address:{self._address}", f"/port:{port}"),
                    *("+auth", "/sec:nla", f"/sam-file:{self._sam}"),
                ],
                env=environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def _wait_until_listening(self, process: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + _START_S
        pause_s = _POLL_S
        while time.monotonic() < deadline:
            if is_listening(self._address, port):
                return
            if process.poll() is not None:
                said = (self._folder / "shadow.log").read_text(encoding="utf-8", errors="replace").strip()
                raise RdpError(f"it ended with status {process.returncode}: {said[-200:]}")
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.1, _LONGEST_POLL_S)
        raise RdpError(f"nothing listened within {_START_S:g} s")

    def _wait_until_closed(self, address: str, port: int) -> None:
        deadline = time.monotonic() + _STOP_S
        while address and port and is_listening(address, port):
            if time.monotonic() > deadline:
                raise RdpError(f"something still listens on {address}:{port}")
            time.sleep(_POLL_S)

    def _choose_port(self) -> int:
        if self._wanted_port:
            if is_listening(self._address, self._wanted_port):
                raise RdpError(f"{self._address}:{self._wanted_port} is taken by another program")
            return self._wanted_port
        # Support was told one port for the whole rescue: the same one again after a restart, as long as it is free.
        remembered = self._folder / "port"
        with contextlib.suppress(OSError, ValueError):
            port = int(remembered.read_text(encoding="ascii"))
            if not is_listening(self._address, port):
                return port
        with socket.socket() as probe:
            probe.bind((self._address, 0))
            port = int(probe.getsockname()[1])
        remembered.write_text(str(port), encoding="ascii")
        return port


def is_listening(address: str, port: int) -> bool:
    """Whether something listens there, by the kernel's own list.

    Trying to connect would give a server a guest that says nothing; trying to bind could take the port from the very
    server that is about to bind it. IPv4 only, as the simulated machines are. Linux: proc(5), /proc/net/tcp.
    """
    here = {f"{_hex(address)}:{port:04X}", f"00000000:{port:04X}"}
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, _, state = line.split()[:4]
        if state == _LISTEN and local in here:
            return True
    return False


def _hex(address: str) -> str:
    return (
        socket.inet_aton(address)[::-1].hex().upper()
    )  # the kernel prints the number as a little-endian machine sees it
