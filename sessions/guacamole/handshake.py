"""The gateway's side of the handshake, which the browser has no part in.

Theory of operation
===================

We send `select` with a protocol, or with the id of a connection to join. guacd answers `args`: its version and the
names of the arguments it takes. We send what our display is like, then `connect` with one value for each name, in
guacd's order, the version first. guacd answers `ready` with the connection's id; from there on it draws.

Names are all that binds a value to its meaning: lists differ between versions (76 names in 1.3.0, 88 in 1.6.0), so
values go by name, and a name without an allowed value is answered with nothing. guacd sends `ready` before it has
counted our values, so a wrong count would look like success: there is one value a name by construction.

An owner with an empty user name or password is refused before anything is sent: guacd would ask whoever looks at the
desktop for the credentials, and wait for ever (argv.c). The connection's id admits whoever knows it: it stays here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from sessions.guacamole.arguments import check_arguments
from sessions.guacamole.codec import Decoder, Instruction, encode
from sessions.guacamole.errors import (
    ArgumentRefused,
    ConnectionRefused,
    ProtocolError,
    RemoteProtocolError,
    TruncatedInput,
)
from sessions.guacamole.status import Status

Version = tuple[int, int, int]

# What 1.5 and 1.6 announce. 1.5 added `msg` and `name`; the browser's client knows both.
OUR_VERSION: Version = (1, 5, 0)
_FIRST_VERSION: Version = (1, 0, 0)  # a guacd from before there was a version to announce
_TIMEZONE_SINCE: Version = (1, 1, 0)
_NAME_SINCE: Version = (1, 5, 0)

_IMAGE_TYPES = ("image/png", "image/jpeg", "image/webp")
_VERSION = re.compile(r"VERSION_([0-9]{1,4})_([0-9]{1,4})_([0-9]{1,4})")
_CONNECTION_ID = re.compile(r"\$[!-~]{1,63}")
_STATUS = re.compile(r"[0-9]{1,5}")

_OWNER_NEEDS = ("hostname", "username", "password")
# A joiner's desktop is there already: where it is and who logs in is settled.
_OWNER_ONLY = frozenset({"hostname", "port", "username", "password", "domain", "security"})


@dataclass(frozen=True, slots=True)
class Display:
    """The picture we ask for: pixels, and pixels an inch (guacd divides by those). Raises ValueError out of range."""

    width: int = 1024
    height: int = 768
    dpi: int = 96

    def __post_init__(self) -> None:
        for name, value, highest in (
            ("width", self.width, 8192),
            ("height", self.height, 8192),
            ("dpi", self.dpi, 1000),
        ):
            if not 1 <= value <= highest:
                raise ValueError(f"display {name} is {value}, expected 1 to {highest}")


class _State(Enum):
    NEW = auto()
    SELECTED = auto()
    CONNECTING = auto()
    DONE = auto()
    FAILED = auto()


class Handshake:
    """One handshake with guacd: make it by `open_rdp` or `join`, send what `start` and `receive` return.

    Holds the credentials until they have been sent, and shows them nowhere.
    """

    def __init__(
        self, selection: str, arguments: Mapping[str, str], *, display: Display, name: str, timezone: str
    ) -> None:
        self._selection = selection
        self._arguments = check_arguments(arguments)
        self._display = display
        # Checked by the same rules as the arguments of these names.
        check_arguments({"client-name": name, "timezone": timezone})
        self._name = name
        self._timezone = timezone
        self._state = _State.NEW
        self._decoder = Decoder(peer="guacd")
        self._version: Version | None = None
        self._unanswered: frozenset[str] = frozenset()
        self._connection_id = ""

    @classmethod
    def open_rdp(
        cls, arguments: Mapping[str, str], *, display: Display | None = None, name: str = "", timezone: str = ""
    ) -> Handshake:
        """Prepare to open a new RDP connection and be its owner.

        Raises ArgumentRefused for a name or value outside of the allow-list, and for an owner without host, user or
        password. Sound stays off unless `disable-audio` says otherwise.
        """
        for needed in _OWNER_NEEDS:
            if not arguments.get(needed):
                raise ArgumentRefused(needed, "nothing", "a value: guacd would ask the operator for it")
        arguments = {"disable-audio": "true", **arguments}
        return cls("rdp", arguments, display=display or Display(), name=name, timezone=timezone)

    @classmethod
    def join(
        cls,
        connection_id: str,
        *,
        read_only: bool,
        arguments: Mapping[str, str] | None = None,
        display: Display | None = None,
        name: str = "",
        timezone: str = "",
    ) -> Handshake:
        """Prepare to join a connection that somebody else owns; `read_only` for those who only look.

        Raises ArgumentRefused as `open_rdp` does, and for arguments that only the owner has.
        """
        if not _CONNECTION_ID.fullmatch(connection_id):
            raise ArgumentRefused("connection id", "something else", "'$' and up to 63 printable characters")
        for refused in sorted(_OWNER_ONLY.intersection(arguments or {})):
            raise ArgumentRefused(refused, "a value for someone who joins", "none: the connection is open already")
        arguments = {**(arguments or {}), "read-only": "true" if read_only else ""}
        return cls(connection_id, arguments, display=display or Display(), name=name, timezone=timezone)

    def __repr__(self) -> str:
        return f"<Handshake {'opening' if self._selection == 'rdp' else 'joining'} {self._state.name}>"

    @property
    def done(self) -> bool:
        """Whether guacd has said `ready`."""
        return self._state is _State.DONE

    @property
    def connection_id(self) -> str:
        """The id by which others join, "" before `ready`. Whoever knows it can join: never send it to a browser."""
        return self._connection_id

    @property
    def version(self) -> Version | None:
        """The version of the protocol that is spoken, once guacd has announced its own."""
        return self._version

    @property
    def unanswered(self) -> frozenset[str]:
        """The arguments we set and this guacd does not know: they have no effect."""
        return self._unanswered

    def start(self) -> bytes:
        """Return the first instruction to send; raises RuntimeError when called twice."""
        if self._state is not _State.NEW:
            raise RuntimeError("this handshake has been started already")
        self._state = _State.SELECTED
        return encode("select", self._selection).encode()

    def receive(self, data: bytes) -> bytes:
        """Return what to send in answer to these bytes, b"" for nothing.

        Raises ConnectionRefused when guacd says `error`, RemoteProtocolError for anything that is no handshake,
        LocalProtocolError when the arguments together are longer than an instruction may be.
        What guacd sends after `ready` is kept for `take_rest`.
        """
        if self._state not in (_State.SELECTED, _State.CONNECTING):
            raise RuntimeError(f"a handshake that is {self._state.name.lower()} receives nothing")
        answer = b""
        try:
            for instruction in self._decoder.feed(data):
                answer += self._react(instruction)
                if self.done:
                    break
        except ProtocolError:
            self._fail()
            raise
        return answer

    def end_of_input(self) -> None:
        """Say that guacd hung up: raises TruncatedInput unless the handshake was done."""
        if not self.done:
            self._fail()
            raise TruncatedInput("the end of what guacd sent", "the rest of the handshake")

    def take_rest(self) -> bytes:
        """Hand over what guacd sent after `ready`: it goes first to whoever reads the connection now."""
        return self._decoder.take_rest()

    def _fail(self) -> None:
        self._state = _State.FAILED
        self._arguments = {}

    def _react(self, instruction: Instruction) -> bytes:
        opcode, args = instruction.opcode, instruction.args
        if opcode == "nop":
            return b""
        if opcode == "error":
            code = args[1] if len(args) > 1 else ""
            raise ConnectionRefused(int(code) if _STATUS.fullmatch(code) else int(Status.SERVER_ERROR))
        if opcode == "args" and self._state is _State.SELECTED:
            answer = self._answer(args)
            self._state = _State.CONNECTING
            self._arguments = {}
            return answer
        if opcode == "ready" and self._state is _State.CONNECTING:
            self._connection_id = self._id_from_ready(args)
            self._state = _State.DONE
            return b""
        expected = "args" if self._state is _State.SELECTED else "ready"
        raise RemoteProtocolError(f"the instruction {opcode[:32]!a}", expected)

    def _answer(self, offered: tuple[str, ...]) -> bytes:
        """Return our description and one value for each name that guacd offers."""
        announced = bool(offered) and offered[0].startswith("VERSION_")
        self._version = min(_parsed_version(offered[0]), OUR_VERSION) if announced else _FIRST_VERSION
        names = offered[1:] if announced else offered
        self._check_names(names)
        display = self._display
        instructions = [
            encode("size", display.width, display.height, display.dpi),
            encode("audio"),
            encode("video"),
            encode("image", *_IMAGE_TYPES),
        ]
        if self._timezone and self._version >= _TIMEZONE_SINCE:
            instructions.append(encode("timezone", self._timezone))
        if self._name and self._version >= _NAME_SINCE:
            instructions.append(encode("name", self._name))
        values = [self._arguments.get(name, "") for name in names]
        if announced:
            values.insert(0, "VERSION_{}_{}_{}".format(*self._version))
        instructions.append(encode("connect", *values))
        return "".join(instructions).encode()

    def _check_names(self, names: tuple[str, ...]) -> None:
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RemoteProtocolError(f"the argument {twice[:32]!a} twice in args", "each name once")
        given = frozenset(name for name, value in self._arguments.items() if value)
        self._unanswered = given.difference(names)
        # Without these the desktop would not be the one that is meant, or a watcher could type.
        for name in (*_OWNER_NEEDS, "port", "read-only"):
            if name in self._unanswered:
                raise RemoteProtocolError(f"args without {name!r}", f"a guacd that takes {name!r}")

    def _id_from_ready(self, args: tuple[str, ...]) -> str:
        if len(args) != 1 or not _CONNECTION_ID.fullmatch(args[0]):
            raise RemoteProtocolError("ready without the id of a connection", "'$' and an id")
        if self._selection.startswith("$") and args[0] != self._selection:
            raise RemoteProtocolError("ready for another connection", "the one that was joined")
        return args[0]


def _parsed_version(announced: str) -> Version:
    match = _VERSION.fullmatch(announced)
    if match is None:
        raise RemoteProtocolError(f"the version {announced[:32]!a}", "VERSION_ and three numbers")
    return int(match[1]), int(match[2]), int(match[3])
