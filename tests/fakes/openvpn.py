"""An OpenVPN server as its management socket shows it (2.6.14, as measured): strict about what is said to it.

One client of the socket at a time, as in the real one. Bytes go out in pieces of any size. What a real OpenVPN would
not understand is kept in `misunderstood`, for the test to look at.
"""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

_ADMIT = re.compile(r"client-auth (\d+) (\d+)")
_CONFIRM = re.compile(r"client-auth-nt (\d+) (\d+)")
_DENY = re.compile(r'client-deny (\d+) (\d+) "([^"\\]*)" "([^"\\]*)"')
_KILL = re.compile(r"client-kill (\d+)( HALT)?")
_FORGET = re.compile(r"kill ([0-9.]+):(\d+)")
_PUSH = re.compile(r"ifconfig-push ([0-9.]+) ([0-9.]+)")


@dataclass(slots=True)
class FakeClient:
    """A machine at the fake server; `state` is asking, inside, denied or gone."""

    client_id: int
    common_name: str
    fingerprint: str
    address: str
    port: int
    key_id: int = 1
    state: str = "asking"
    inside_address: str = ""
    shown: str = ""
    since: int = 0
    received: int = 0
    environment: dict[str, str] = field(default_factory=dict)


class FakeOpenVpn:
    """Listens at `path` until closed. `start` and `kill` may alternate: a killed one forgets everybody."""

    def __init__(self, path: Path, *, goodbye_s: float = 0.2, seed: int = 1) -> None:
        self.path = path
        self.goodbye_s = goodbye_s
        self.clients: dict[int, FakeClient] = {}
        self.misunderstood: list[str] = []
        self.said: list[str] = []
        self._random = random.Random(seed)
        self._lock = threading.RLock()
        self._listener: socket.socket | None = None
        self._peer: socket.socket | None = None
        self._timers: list[threading.Timer] = []
        self._next_id = 0

    # --- the test's side ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen(1)
        self._listener = listener
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def kill(self) -> None:
        """As by kill -9: nobody is told, everybody is forgotten, numbers begin anew."""
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.shutdown(socket.SHUT_RDWR)
                listener.close()
            self.hang_up()
            for timer in self._timers:
                timer.cancel()
            for client in self.clients.values():
                client.state = "gone"
            self.clients, self._next_id = {}, 0

    def hang_up(self) -> None:
        """Ends the connection of the management client; tunnels live on."""
        with self._lock:
            if self._peer is not None:
                self._peer.shutdown(socket.SHUT_RDWR)

    def asks(self, common_name: str, fingerprint: str, *, address: str = "192.0.2.7", **values: str) -> FakeClient:
        """A client whose certificate was found good; waits for an answer as long as it takes."""
        with self._lock:
            client = FakeClient(self._next_id, common_name, fingerprint, address, 40000 + self._next_id)
            client.environment = values
            self._next_id += 1
            self.clients[client.client_id] = client
            self._send_block(f"CONNECT,{client.client_id},{client.key_id}", client)
            return client

    def renegotiates(self, client: FakeClient) -> None:
        with self._lock:
            client.key_id += 1
            self._send_block(f"REAUTH,{client.client_id},{client.key_id}", client)

    def sends(self, client: FakeClient, count: int) -> None:
        """Bytes come in from a machine."""
        with self._lock:
            client.received += count
            self._send(f">BYTECOUNT_CLI:{client.client_id},{client.received},0\r\n")

    def leaves(self, client: FakeClient) -> None:
        with self._lock:
            if self.clients.pop(client.client_id, None) is not None:
                client.state = "gone" if client.state == "inside" else client.state
                self._send_block(f"DISCONNECT,{client.client_id}", client)

    def noise(self, data: bytes) -> None:
        with self._lock:
            self._send(data.decode("latin-1"))

    # --- OpenVPN's side ----------------------------------------------------------------------------------------------

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                with self._lock:
                    if self._listener is not listener:
                        return  # killed meanwhile
                    self._peer = peer
                    self._send(">INFO:OpenVPN Management Interface Version 5 -- type 'help' for more info\r\n")
                self._listen(peer)
                with self._lock:
                    if self._peer is peer:  # the one that was started after a kill may have another by now
                        self._peer = None

    def _listen(self, peer: socket.socket) -> None:
        buffer = b""
        block: tuple[str, list[str]] | None = None
        while True:
            try:
                data = peer.recv(4096)
            except OSError:
                return
            if not data:
                return
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for raw in lines:
                line = raw.decode("ascii")
                if block is None:
                    block = (line, []) if _ADMIT.fullmatch(line) else None
                    if block is None:
                        self._obey(line, [])
                elif line == "END":
                    self._obey(*block)
                    block = None
                else:
                    block[1].append(line)

    def _obey(self, line: str, body: list[str]) -> None:
        with self._lock:
            self.said.append(line)
            if line == "status 3":
                self._send(self._status())
            elif line == "bytecount 2":
                self._send("SUCCESS: bytecount interval changed\r\n")
            elif found := _ADMIT.fullmatch(line):
                self._admit(int(found[1]), int(found[2]), body)
            elif found := _CONFIRM.fullmatch(line):
                known = self.clients.get(int(found[1]))
                word = "SUCCESS" if known is not None and known.key_id == int(found[2]) else "ERROR"
                self._send(f"{word}: client-auth-nt command {'succeeded' if word == 'SUCCESS' else 'failed'}\r\n")
            elif found := _DENY.fullmatch(line):
                client = self.clients.get(int(found[1]))
                if client is None:
                    self._send("ERROR: client-deny command failed\r\n")
                    return
                self._send("SUCCESS: client-deny command succeeded\r\n")
                client.state, client.shown = "denied", found[4]
                self.leaves(client)
            elif found := _KILL.fullmatch(line):
                client = self.clients.get(int(found[1]))
                if client is None:
                    self._send("ERROR: client-kill command failed\r\n")
                    return
                self._send("SUCCESS: client-kill command succeeded\r\n")
                timer = threading.Timer(self.goodbye_s, self.leaves, [client])
                self._timers.append(timer)
                timer.start()
            elif found := _FORGET.fullmatch(line):
                victims = [one for one in self.clients.values() if (one.address, str(one.port)) == found.groups()]
                if not victims:
                    self._send(f"ERROR: client at address {found[1]}:{found[2]} not found\r\n")
                    return
                self._send(f"SUCCESS: 1 client(s) at address {found[1]}:{found[2]} killed\r\n")
                self.leaves(victims[0])
            else:
                self.misunderstood.append(line)
                self._send("ERROR: unknown command, enter 'help' for more options\r\n")

    def _admit(self, client_id: int, key_id: int, body: list[str]) -> None:
        client = self.clients.get(client_id)
        pushes = [_PUSH.fullmatch(line) for line in body]
        if not all(pushes):
            self.misunderstood += body
        if client is None or client.key_id != key_id or client.state == "denied":
            self._send("ERROR: client-auth command failed\r\n")
            return
        self._send("SUCCESS: client-auth command succeeded\r\n")
        if client.state == "asking":
            client.state, client.since = "inside", int(time.time())
            client.inside_address = next((push[1] for push in pushes if push), "")
            self._send(f">CLIENT:ADDRESS,{client_id},{client.inside_address},1\r\n")
            self._send_block(f"ESTABLISHED,{client_id}", client)
            # One name, one place: OpenVPN drops the earlier one by itself.
            for other in list(self.clients.values()):
                if other.common_name == client.common_name and other is not client and other.state == "inside":
                    self.leaves(other)

    def _status(self) -> str:
        rows = [
            "TITLE\tOpenVPN 2.6.14 x86_64-pc-linux-gnu",
            "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tVirtual IPv6 Address\tBytes Received"
            "\tBytes Sent\tConnected Since\tConnected Since (time_t)\tUsername\tClient ID\tPeer ID"
            "\tData Channel Cipher",
        ]
        for one in self.clients.values():
            rows.append(
                f"CLIENT_LIST\t{one.common_name}\t{one.address}:{one.port}\t{one.inside_address}\t\t{one.received}\t0\tthen\t{one.since}"
                f"\tUNDEF\t{one.client_id}\t0\tAES-256-GCM"
            )
        return "".join(f"{line}\r\n" for line in [*rows, "GLOBAL_STATS\tMax bcast/mcast queue length\t0", "END"])

    def _send_block(self, head: str, client: FakeClient) -> None:
        digest = client.fingerprint
        values = {
            "n_clients": "0", "common_name": client.common_name, "untrusted_ip": client.address,
            "untrusted_port": str(client.port), **client.environment,
            "tls_digest_sha256_0": ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)),
            "bytes_received": str(client.received), "bytes_sent": "0",
        }  # fmt: skip
        lines = [f">CLIENT:{head}", *(f">CLIENT:ENV,{name}={value}" for name, value in values.items())]
        self._send("".join(f"{line}\r\n" for line in [*lines, ">CLIENT:ENV,END"]))

    def _send(self, text: str) -> None:
        data = text.encode("latin-1")
        while data and self._peer is not None:
            size = self._random.choice([1, 3, 17, 200, 5000])
            piece, data = data[:size], data[size:]
            try:
                self._peer.sendall(piece)
            except OSError:
                return
