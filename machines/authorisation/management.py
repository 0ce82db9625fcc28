"""OpenVPN's management protocol, without any I/O: bytes become events, commands become bytes.

The protocol is OpenVPN 2.6's management-notes.txt. What comes in is half hostile: a machine chooses much of what stands
behind `>CLIENT:ENV,` (its name, its `IV_` and `UV_` values), so a value is only ever data, a name that is given twice
names nothing, and nothing that a machine can write ends a block. What goes out is checked word by word: OpenVPN reads
commands with the lexer of its configuration file.
"""

from __future__ import annotations

import ipaddress
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

# An ENV value holds at most a certificate's subject; OpenVPN's own buffers end far below this.
MAX_LINE = 64 * 1024
MAX_BLOCK_LINES = 4096
# `status` answers with two lines a client, and a server has a few thousand at most.
MAX_REPLY_LINES = 100_000

_CLIENT_HEAD = re.compile(
    r"(?P<kind>CONNECT|REAUTH|CR_RESPONSE|ESTABLISHED|DISCONNECT),(?P<cid>\d{1,20})(?:,(?P<kid>\d{1,20})(?:,.*)?)?"
)
_TRAFFIC = re.compile(r"(?P<cid>\d{1,20}),(?P<received>\d{1,20}),(?P<sent>\d{1,20})")
_WORDS = re.compile(r"[A-Za-z0-9 .,:;()_/+-]{1,200}")


class ManagementError(Exception):
    """OpenVPN said something that its protocol does not have; the connection to it is of no more use."""


@dataclass(frozen=True, slots=True)
class Connecting:
    """A client wants in (`is_new`), or one that is in has negotiated new keys; either waits for an answer."""

    client_id: int
    key_id: int
    is_new: bool
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Established:
    """A client that was let in has its tunnel."""

    client_id: int
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A client is gone; also one that was never let in."""

    client_id: int
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many bytes a client has sent and got so far; only told of clients that any traffic happened with."""

    client_id: int
    bytes_received: int
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Notice:
    """What OpenVPN tells unasked and nobody needs to act upon: INFO, LOG, STATE, NOTIFY, …"""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a command; `lines` are those of a command that answers with several."""

    command: str
    succeeded: bool
    text: str
    lines: tuple[str, ...] = ()


Event = Connecting | Established | Disconnected | Traffic | Notice | Reply


@dataclass(frozen=True, slots=True)
class Command:
    """What is said to OpenVPN; `body` is sent with its END, `has_lines` expects an answer that ends with one."""

    line: str
    body: tuple[str, ...] | None = None
    has_lines: bool = False


@dataclass(frozen=True, slots=True)
class StatusRow:
    """One client as `status 3` lists it; `since` is Unix time."""

    client_id: int
    common_name: str
    remote_address: str
    remote_port: int
    virtual_address: str
    bytes_received: int
    bytes_sent: int
    since: int


@dataclass(slots=True)
class Management:
    """One connection to the management socket."""

    _buffer: bytearray = field(default_factory=bytearray)
    _expected: deque[Command] = field(default_factory=deque)
    _lines: list[str] = field(default_factory=list)
    _block: _Block | None = None

    def send(self, command: Command) -> bytes:
        """The bytes of a command; its Reply will come in the order of sending."""
        self._expected.append(command)
        lines = [command.line] if command.body is None else [command.line, *command.body, "END"]
        return "".join(f"{line}\n" for line in lines).encode("ascii")

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes complete; the rest is kept for the next call. Raises ManagementError."""
        self._buffer += data
        events = []
        *lines, rest = self._buffer.split(b"\n")
        for line in lines:
            event = self._take_line(line)
            if event is not None:
                events.append(event)
        if len(rest) > MAX_LINE:
            raise ManagementError(f"Found a line of more than {MAX_LINE} bytes, expected its end.")
        self._buffer = bytearray(rest)
        return events

    def _take_line(self, raw: bytes | bytearray) -> Event | None:
        if len(raw) > MAX_LINE:
            raise ManagementError(f"Found a line of {len(raw)} bytes, expected {MAX_LINE} at most.")
        line = raw.decode("utf-8", "backslashreplace").rstrip("\r")
        if self._block is not None:
            return self._take_environment(self._block, line)
        if line.startswith(">"):
            return self._take_notice(line[1:])
        return self._take_reply(line)

    def _take_notice(self, line: str) -> Event | None:
        kind, colon, text = line.partition(":")
        if not colon:
            raise ManagementError(f"Found {line[:80]!r}, expected KIND:text.")
        if kind == "CLIENT":
            head = _CLIENT_HEAD.fullmatch(text)
            if head is None:
                if text.startswith("ADDRESS,"):
                    return Notice("CLIENT", text)
                raise ManagementError(f"Found >CLIENT:{text[:80]!r}, expected CONNECT, ESTABLISHED, ….")
            if (head["kid"] is None) != (head["kind"] in ("ESTABLISHED", "DISCONNECT")):
                raise ManagementError(f"Found >CLIENT:{text[:80]!r}, with a key id too many or too few.")
            self._block = _Block(head["kind"], int(head["cid"]), int(head["kid"] or 0))
            return None
        if kind == "BYTECOUNT_CLI":
            counts = _TRAFFIC.fullmatch(text)
            if counts is None:
                raise ManagementError(f"Found >BYTECOUNT_CLI:{text[:80]!r}, expected three numbers.")
            return Traffic(int(counts["cid"]), int(counts["received"]), int(counts["sent"]))
        return Notice(kind, text)

    def _take_environment(self, block: _Block, line: str) -> Event | None:
        prefix = ">CLIENT:ENV,"
        if not line.startswith(prefix):
            raise ManagementError(f"Found {line[:80]!r} within a client's environment.")
        if line == prefix + "END":
            self._block = None
            return block.event()
        block.add(line[len(prefix) :])
        return None

    def _take_reply(self, line: str) -> Event | None:
        if not self._expected:
            raise ManagementError(f"Found {line[:80]!r} without a question.")
        command = self._expected[0]
        for word, succeeded in (("SUCCESS:", True), ("ERROR:", False)):
            if not self._lines and line.startswith(word):
                if succeeded and command.has_lines:
                    raise ManagementError(f"Found {line[:80]!r}, expected the lines of {command.line[:40]!r}.")
                self._expected.popleft()
                return Reply(command.line, succeeded, line.removeprefix(word).strip())
        if not command.has_lines:
            raise ManagementError(f"Found {line[:80]!r}, expected SUCCESS or ERROR to {command.line[:40]!r}.")
        if line == "END":
            self._expected.popleft()
            lines, self._lines = tuple(self._lines), []
            return Reply(command.line, True, "", lines)
        if len(self._lines) >= MAX_REPLY_LINES:
            raise ManagementError(f"Found more than {MAX_REPLY_LINES} lines to {command.line[:40]!r}.")
        self._lines.append(line)
        return None


@dataclass(slots=True)
class _Block:
    """A client's environment as far as it has come in."""

    kind: str
    client_id: int
    key_id: int
    _values: dict[str, str] = field(default_factory=dict)
    _twice: set[str] = field(default_factory=set)
    _count: int = 0

    def add(self, pair: str) -> None:
        self._count += 1
        if self._count > MAX_BLOCK_LINES:
            raise ManagementError(f"Found more than {MAX_BLOCK_LINES} values of client {self.client_id}.")
        name, _, value = pair.partition("=")
        if name in self._values or name in self._twice:
            # Whoever smuggled a second one in, neither is to be believed.
            self._twice.add(name)
            self._values.pop(name, None)
        else:
            self._values[name] = value

    def event(self) -> Event:
        match self.kind:
            case "CONNECT" | "REAUTH":
                return Connecting(self.client_id, self.key_id, self.kind == "CONNECT", self._values)
            case "ESTABLISHED":
                return Established(self.client_id, self._values)
            case "DISCONNECT":
                return Disconnected(self.client_id, self._values)
        return Notice("CLIENT", self.kind)


# --- commands ---------------------------------------------------------------------------------------------------------


def status() -> Command:
    """Asks who is connected; `read_status` reads the answer."""
    return Command("status 3", has_lines=True)


def report_traffic(every_s: int) -> Command:
    """Has OpenVPN tell each client's traffic every so many seconds."""
    return Command(f"bytecount {_number(every_s)}")


def admit(client_id: int, key_id: int, *, address: str, netmask: str) -> Command:
    """Lets a client in, at this address of its own."""
    push = f"ifconfig-push {ipaddress.IPv4Address(address)} {ipaddress.IPv4Address(netmask)}"
    return Command(f"client-auth {_number(client_id)} {_number(key_id)}", body=(push,))


def confirm(client_id: int, key_id: int) -> Command:
    """Lets a client stay that has negotiated new keys."""
    return Command(f"client-auth-nt {_number(client_id)} {_number(key_id)}")


def deny(client_id: int, key_id: int, *, log: str, shown: str) -> Command:
    """Turns a client away; `log` stands in OpenVPN's log, `shown` in the client's."""
    return Command(f'client-deny {_number(client_id)} {_number(key_id)} "{_words(log)}" "{_words(shown)}"')


def halt(client_id: int) -> Command:
    """Tells a client to end for good (its openvpn ends with code 0); OpenVPN forgets it about 5 s later."""
    return Command(f"client-kill {_number(client_id)} HALT")


def restart(client_id: int) -> Command:
    """Tells a client to come again: it is back after about 2 s, through admission."""
    return Command(f"client-kill {_number(client_id)}")


def forget(remote_address: str, remote_port: int) -> Command:
    """Drops a client at once, without telling it."""
    return Command(f"kill {ipaddress.IPv4Address(remote_address)}:{_number(remote_port)}")


def read_status(reply: Reply) -> list[StatusRow]:
    """The clients of an answer to `status`; those without a virtual address have shown their certificate and wait.

    Who is still shaking hands has no name that was proven, and is left out. Raises ManagementError.
    """
    columns: list[str] = []
    rows = []
    for line in reply.lines:
        cells = line.split("\t")
        if cells[:2] == ["HEADER", "CLIENT_LIST"]:
            columns = cells[2:]
        elif cells[0] == "CLIENT_LIST":
            if len(cells) - 1 != len(columns):
                raise ManagementError(f"Found a client with {len(cells) - 1} columns, expected {len(columns)}.")
            row = dict(zip(columns, cells[1:], strict=True))
            if row.get("Common Name") != "UNDEF":
                rows.append(_status_row(row))
    return rows


def _status_row(row: Mapping[str, str]) -> StatusRow:
    try:
        address, _, port = row["Real Address"].removeprefix("udp4:").removeprefix("tcp4-server:").rpartition(":")
        return StatusRow(
            client_id=int(row["Client ID"]),
            common_name=row["Common Name"],
            remote_address=address,
            remote_port=int(port),
            virtual_address=row["Virtual Address"],
            bytes_received=int(row["Bytes Received"]),
            bytes_sent=int(row["Bytes Sent"]),
            since=int(row["Connected Since (time_t)"]),
        )
    except (KeyError, ValueError) as error:
        raise ManagementError(f"A client's status row cannot be read: {error}.") from error


def _number(value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"Found {value!r}, expected a number of 0 or more.")
    return value


def _words(text: str) -> str:
    if not _WORDS.fullmatch(text):
        raise ValueError(f"Found {text[:80]!r}, expected 1 to 200 plain letters, digits, spaces and marks.")
    return text
