"""One run of the OpenVPN program: started, heard on its management connection, ended.

OpenVPN connects to a socket of ours (`--management-client`). When that connection breaks, because the agent was killed,
OpenVPN ends by itself within a second or two (tried with 2.6.14): a dead agent leaves no tunnel behind.

What it says there (management-notes.txt, and tried with 2.6.14) tells apart what its exit status does not: after
`client-kill … HALT` and after AUTH_FAILED alike it ends with status 0.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.processes import birth_of, end_group, group_options

log = logging.getLogger("agent.openvpn")

# Events
CONNECTING = "connecting"
CONNECTED = "connected"  # address: this machine's in the VPN
LOST = "lost"  # the line fell silent; OpenVPN itself tries again
HALTED = "halted"  # the server ended the tunnel, and the program ends
REFUSED = "refused"  # the server does not admit this machine, and the program ends
TRAFFIC = "traffic"  # received: bytes since the start
ENDED = "ended"  # the program is gone

TRAFFIC_EVERY_S = 2
_END_S = 5.0  # OpenVPN takes a second or two to say goodbye (explicit-exit-notify)
_CONNECT_BACK_S = 15.0
_LAST_WORDS_S = 10.0  # its end of the connection is gone with it: only a thread that is held up takes longer
_LINE_LIMIT = 64 * 1024
_LONGEST_SOCKET_NAME = 100  # unix(7) has room for 107 bytes
_STATE = re.compile(r"(?:>STATE:)?\d{1,20},([A-Z_]{1,30}),([^,]*),([^,]*)")
_TRAFFIC = re.compile(r">BYTECOUNT:(\d{1,20}),\d{1,20}")
_KINDS = {
    **{name: CONNECTING for name in ("CONNECTING", "RESOLVE", "TCP_CONNECT", "WAIT", "AUTH", "GET_CONFIG")},
    "CONNECTED": CONNECTED,
    "RECONNECTING": LOST,
}


class VpnError(Exception):
    """The tunnel cannot be had: the text says what was tried, found and expected; trying again does not help."""


@dataclass(frozen=True)
class Event:
    """Something that OpenVPN said, or did."""

    kind: str
    detail: str = ""
    address: str = ""
    received: int = 0


class ManagementReader:
    """Turns bytes of the management connection into events, however they are cut. No sockets in here."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Event]:
        """The events that are complete with these bytes; what is no event of ours is left out."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LINE_LIMIT:]
        events = (_event(line.rstrip(b"\r").decode("utf-8", errors="replace")) for line in lines)
        return [event for event in events if event is not None]


def _event(line: str) -> Event | None:
    state = _STATE.match(line)
    if state is not None:
        name, detail, address = state.groups()
        kind = _KINDS.get(name, "")
        if not kind:
            return None
        return Event(kind, _plain(detail), address=_plain(address) if kind == CONNECTED else "")
    traffic = _TRAFFIC.match(line)
    if traffic is not None:
        return Event(TRAFFIC, received=int(traffic[1]))
    if line.startswith(">PASSWORD:Verification Failed"):
        reason = line.partition("[")[2].rpartition("]")[0].strip("'\"")
        return Event(REFUSED, _plain(reason) or "AUTH_FAILED")
    if line.startswith(">NOTIFY:info,server-pushed-halt"):
        return Event(HALTED, _plain(line.split(",", 2)[2]) if line.count(",") > 1 else "")
    if line.startswith(">FATAL:"):
        log.error("openvpn: %s", _plain(line[7:]))
    return None


def _plain(text: str) -> str:
    """What the other side said, fit for one line of a log."""
    return "".join(character if character.isprintable() else " " for character in text)[:200].strip()


class OpenVpn:
    """Starts the program; what it says arrives in `inbox`, the last thing is ENDED."""

    def __init__(self, command: Sequence[str], *, folder: Path, inbox: queue.Queue[Event]) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._inbox = inbox
        self._process: subprocess.Popen[bytes] | None = None
        self._said: deque[str] = deque(maxlen=12)
        self._cleanup = contextlib.ExitStack()
        self._connection: socket.socket | None = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def birth(self) -> str:
        return birth_of(self.pid)

    def start(self) -> None:
        """Starts it, in a group of its own. Raises VpnError when there is no such program."""
        listener, options = self._listen()
        command = [*self._command, *options, "--management-client", "--script-security", "1"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                **group_options(),
            )
        except OSError as error:
            self._cleanup.close()
            raise VpnError(
                f"{self._command[0]} cannot be run ({error.strerror}): expected OpenVPN 2.5 or newer there"
            ) from error
        hearing = threading.Thread(
            target=self._hear, args=(listener, self._process), name="openvpn management", daemon=True
        )
        hearing.start()
        threading.Thread(target=self._watch, args=(self._process, hearing), name="openvpn log", daemon=True).start()

    def end(self) -> None:
        """Ends it; returns when it is gone."""
        if self._process is not None:
            if sys.platform == "win32" and self._connection is not None:
                with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                    self._connection.sendall(b"signal SIGTERM\n")
                    self._process.wait(_END_S)
            end_group(self._process, gently_s=_END_S)
        self._cleanup.close()

    def _listen(self) -> tuple[socket.socket, list[str]]:
        if sys.platform == "win32":
            listener = socket.socket(socket.AF_INET)
            listener.bind(("127.0.0.1", 0))
            options = ["--management", "127.0.0.1", str(listener.getsockname()[1])]
        else:
            path = self._folder / "openvpn.sock"
            if len(bytes(path)) > _LONGEST_SOCKET_NAME:
                path = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="openvpn-"))) / path.name
            path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(path))
            path.chmod(0o600)
            self._cleanup.callback(path.unlink, missing_ok=True)
            options = ["--management", str(path), "unix"]
        self._cleanup.enter_context(listener)
        listener.listen(1)
        listener.settimeout(0.1)
        return listener, options

    def _hear(self, listener: socket.socket, process: subprocess.Popen[bytes]) -> None:
        reader = ManagementReader()
        with contextlib.suppress(OSError):
            connection = _accept(listener, process)
            if connection is None:
                return
            with connection:
                self._connection = connection
                connection.settimeout(None)
                connection.sendall(f"state on all\nbytecount {TRAFFIC_EVERY_S}\n".encode())
                while data := connection.recv(4096):
                    for event in reader.feed(data):
                        self._inbox.put(event)

    def _watch(self, process: subprocess.Popen[bytes], hearing: threading.Thread) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                text = _plain(line.decode("utf-8", errors="replace"))
                self._said.append(text)
                log.debug("openvpn: %s", text)
        status = process.wait()
        hearing.join(_LAST_WORDS_S)  # what it said last comes before its end
        detail = f"status {status}"
        if status != 0 and self._said:
            detail += ": " + " | ".join(list(self._said)[-3:])
        self._inbox.put(Event(ENDED, detail))


def _accept(listener: socket.socket, process: subprocess.Popen[bytes]) -> socket.socket | None:
    """The program's connection; None when it ended before, or is ended here because it said nothing for long."""
    deadline = time.monotonic() + _CONNECT_BACK_S
    with listener:  # closed then: nobody else has anything to say here
        while process.poll() is None:
            with contextlib.suppress(socket.timeout):
                return listener.accept()[0]
            if time.monotonic() > deadline:
                log.error("openvpn: it did not connect to its management socket within %.0f s", _CONNECT_BACK_S)
                end_group(process, gently_s=_END_S)
    return None
