"""What a browser may send to guacd: input, acknowledgements, and its goodbye.

Everything is decoded, checked for role, arity and ranges, and written anew. libguac's handlers check neither how many
arguments there are nor whether they make sense (user-handlers.c): they would read past what was sent. We check here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from sessions.guacamole.codec import Decoder, Instruction, encode
from sessions.guacamole.errors import RemoteProtocolError
from sessions.guacamole.status import Status

# A larger clipboard is cut off by guacd itself (GUAC_COMMON_CLIPBOARD_MAX_LENGTH).
MAX_CLIPBOARD_BYTES = 262_144

_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]{0,9})(?:\.[0-9]{1,20})?(?:e-[0-9]{1,3})?")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


class Role(StrEnum):
    """What a person may do with the desktop."""

    CONTROLLER = "controller"
    WATCHER = "watcher"


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why the tunnel must close: the browser sent something that it may not send.

    Neither field ever holds what was typed or copied.
    """

    found: str
    expected: str
    status: Status

    def __str__(self) -> str:
        return f"The browser sent {self.found}; expected {self.expected}."


@dataclass(frozen=True, slots=True)
class Upward:
    """What came of one message from the browser.

    `text` goes to guacd and `reply` straight back to the browser; both are right even when something after them was
    `rejected`. `acted` says that a person did something, which is what an idle limit counts.
    """

    text: str = ""
    reply: str = ""
    acted: bool = False
    disconnect: bool = False
    rejected: Rejected | None = None


@dataclass(frozen=True, slots=True)
class _Whole:
    """A whole number from `low` to `high`; one below `floor` becomes `floor`."""

    name: str
    low: int
    high: int
    floor: int | None = None

    @property
    def expected(self) -> str:
        return f"{self.name} from {self.low} to {self.high}"

    def read(self, value: str) -> str | None:
        if not _WHOLE.fullmatch(value) or not self.low <= (number := int(value)) <= self.high:
            return None
        return str(number if self.floor is None else max(number, self.floor))


@dataclass(frozen=True, slots=True)
class _Decimal:
    """A number as JavaScript writes it, from `low` to `high`."""

    name: str
    low: float
    high: float

    @property
    def expected(self) -> str:
        return f"{self.name} from {self.low:g} to {self.high:g}"

    def read(self, value: str) -> str | None:
        return value if _DECIMAL.fullmatch(value) and self.low <= float(value) <= self.high else None


@dataclass(frozen=True, slots=True)
class _Text:
    """A few words that guacd ignores or a name it knows: what `pattern` says, up to `longest` characters."""

    expected: str
    pattern: re.Pattern[str]
    longest: int

    def read(self, value: str) -> str | None:
        return value if len(value) <= self.longest and self.pattern.fullmatch(value) else None


# A drag that leaves the picture on the left or at the top gives coordinates below 0: they mean its edge.
_X = _Whole("x", -65_535, 65_535, floor=0)
_Y = _Whole("y", -65_535, 65_535, floor=0)
_STREAM = _Whole("stream", 0, 63)  # GUAC_USER_MAX_STREAMS
_Argument = _Whole | _Decimal | _Text

_KEEPING_UP: Mapping[str, tuple[_Argument, ...]] = {
    "sync": (_Whole("time in milliseconds", 0, 2**62),),
    "ack": (
        _Whole("stream", 0, 4095),
        _Text("a message of up to 256 printable characters", re.compile(r"[^\x00-\x1f\x7f]*"), 256),
        _Whole("status", 0, 65_535),
    ),
    "nop": (),
    "disconnect": (),
}
_INPUT: Mapping[str, tuple[_Argument, ...]] = {
    "mouse": (_X, _Y, _Whole("button mask", 0, 31)),
    # X11 keysyms: Unicode characters are 0x1000000 and more. Pressed is 1, released 0.
    "key": (_Whole("keysym", 0, 0x1FFFFFF), _Whole("pressed", 0, 1)),
    "touch": (
        # Safari numbers contacts with any 32-bit integer.
        _Whole("contact", -(2**31), 2**31 - 1),
        _X,
        _Y,
        _Whole("x radius", 0, 65_535),
        _Whole("y radius", 0, 65_535),
        _Decimal("angle", -360, 360),
        _Decimal("force", 0, 1),
    ),
    # libguac's own limits of a display; RDP divides by none of them.
    "size": (_Whole("width", 1, 8192), _Whole("height", 1, 8192)),
}
_CLIPBOARD: Mapping[str, tuple[_Argument, ...]] = {
    "clipboard": (_STREAM, _Text("the type text/plain", re.compile("text/plain"), 10)),
    "blob": (_STREAM, _Text("data in base64", _BASE64, 8192)),
    "end": (_STREAM,),
}
_PING = (_Whole("time in milliseconds", 0, 2**62),)
_ACTIONS = frozenset({"mouse", "key", "touch", "clipboard"})


class _Refusal(Exception):
    """One instruction may not pass."""

    def __init__(self, found: str, expected: str, status: Status) -> None:
        self.rejected = Rejected(found, expected, status)


class UpwardFilter:
    """Passes what one browser sends on to guacd, as far as its role allows.

    A watcher may only keep up; a controller may also act, and use the clipboard if `clipboard` is on. Pings of the
    tunnel itself (the empty opcode) are answered in `reply` and never reach guacd.
    """

    def __init__(self, *, role: Role, clipboard: bool = False) -> None:
        may_act = role is Role.CONTROLLER
        self._role = role
        self._allowed = {**_KEEPING_UP, **(_INPUT if may_act else {}), **(_CLIPBOARD if may_act and clipboard else {})}
        self._decoder = Decoder(peer="the browser")
        self._clipboard_sizes: dict[str, int] = {}
        self._newest_sync = -1
        self._highest_sync = -1
        self._said_goodbye = False
        self._rejected: Rejected | None = None

    def note_sync(self, timestamp: int) -> None:
        """Remember that the browser is about to be sent this `sync`: call it before the text is sent."""
        self._newest_sync = timestamp
        self._highest_sync = max(self._highest_sync, timestamp)

    def receive(self, data: str | bytes) -> Upward:
        """Return what of this message goes where; never raises for what a browser sends.

        After a rejection or a `disconnect` nothing passes any more.
        """
        to_guacd: list[str] = []
        to_browser: list[str] = []
        acted = False
        if self._rejected is None and not self._said_goodbye:
            try:
                for instruction in self._decoder.feed(data):
                    if instruction.opcode:
                        to_guacd.append(self._translate(instruction))
                        acted = acted or instruction.opcode in _ACTIONS
                    else:
                        to_browser.append(_echo(instruction))
                    if self._said_goodbye:
                        break
            except _Refusal as refusal:
                self._rejected = refusal.rejected
            except RemoteProtocolError as error:
                self._rejected = Rejected(error.found, error.expected, Status.CLIENT_BAD_REQUEST)
        return Upward("".join(to_guacd), "".join(to_browser), acted, self._said_goodbye, self._rejected)

    def _translate(self, instruction: Instruction) -> str:
        """Return the instruction written anew for guacd, or "" where it is better left out."""
        opcode = instruction.opcode
        expected = self._allowed.get(opcode)
        if expected is None:
            raise _Refusal(
                f"{opcode[:32]!a} as a {self._role}", f"one of {', '.join(self._allowed)}", Status.CLIENT_FORBIDDEN
            )
        args = _checked(opcode, instruction.args, expected)
        if opcode == "sync":
            return self._answer_to_sync(int(args[0]))
        if opcode in _CLIPBOARD:
            self._follow_clipboard(opcode, args)
        elif opcode == "disconnect":
            self._said_goodbye = True
        return encode(opcode, *args)

    def _answer_to_sync(self, timestamp: int) -> str:
        """Refuse a time from the future: guacd throws out whoever sends one (user-handlers.c)."""
        if timestamp > self._highest_sync:
            raise _Refusal(
                "sync with a time that was never sent", "the time of a sync from the server", Status.CLIENT_BAD_REQUEST
            )
        # The gateway's clock was set back since: guacd would take this answer, honest as it is, for the future.
        return "" if timestamp > self._newest_sync else encode("sync", timestamp)

    def _follow_clipboard(self, opcode: str, args: list[str]) -> None:
        """Keep blob and end to clipboard streams that are open, and those to a size."""
        stream = args[0]
        if opcode == "clipboard":
            self._clipboard_sizes[stream] = 0
            return
        if stream not in self._clipboard_sizes:
            raise _Refusal(
                f"{opcode} for stream {stream}", "the stream of an open clipboard", Status.CLIENT_BAD_REQUEST
            )
        if opcode == "end":
            del self._clipboard_sizes[stream]
            return
        data = args[1]
        self._clipboard_sizes[stream] += len(data) * 3 // 4 - data.count("=")
        if self._clipboard_sizes[stream] > MAX_CLIPBOARD_BYTES:
            raise _Refusal(
                f"a clipboard of more than {MAX_CLIPBOARD_BYTES} bytes",
                f"at most {MAX_CLIPBOARD_BYTES}",
                Status.CLIENT_OVERRUN,
            )


def _checked(opcode: str, found: tuple[str, ...], expected: tuple[_Argument, ...]) -> list[str]:
    """Return the arguments in their one spelling; the values that are refused are not repeated."""
    if len(found) != len(expected):
        raise _Refusal(f"{opcode} with {len(found)} arguments", f"{len(expected)} arguments", Status.CLIENT_BAD_REQUEST)
    args = []
    for position, (value, argument) in enumerate(zip(found, expected, strict=True), start=1):
        read = argument.read(value)
        if read is None:
            raise _Refusal(
                f"{opcode} with an argument {position} that is out of range or of another kind",
                argument.expected,
                Status.CLIENT_BAD_REQUEST,
            )
        args.append(read)
    return args


def _echo(instruction: Instruction) -> str:
    """Answer a ping of the tunnel itself; Tunnel.js sends them to see that the line is alive."""
    if instruction.args[:1] != ("ping",):
        raise _Refusal("an internal instruction that is no ping", "ping", Status.CLIENT_FORBIDDEN)
    return encode("", "ping", *_checked("ping", instruction.args[1:], _PING))
