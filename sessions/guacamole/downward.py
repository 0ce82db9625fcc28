"""What guacd may send to a browser: it may draw, and nothing that asks the browser for more.

guacd parses what a strange machine sends, so it is not trusted either (CVE-2020-9497 and its kin). `nest` would feed a
second parser in the browser, past this filter; `required` would ask a person for credentials; files, pipes and objects
are never enabled; `ready` names the connection, which whoever knows it can join.

This is the hot path. The text is passed on verbatim once it is proven to consist of whole instructions with allowed
opcodes, which is exact because an instruction has one spelling (see codec.py). One regular expression runs over whole
stretches of the small drawing instructions; a `blob` is jumped over by its length; anything else, or anything odd, is
read by the codec, one instruction at a time. The shortcuts accept a subset of what the codec and `_may_pass` accept:
they change the speed and nothing else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sessions.guacamole.codec import MAX_ELEMENT_LENGTH, MAX_ELEMENTS, Incomplete, Utf8Reader, read_instruction
from sessions.guacamole.errors import RemoteProtocolError, TruncatedInput
from sessions.guacamole.status import Status

# What Apache's JavaScript client 1.6.0 knows and that can only draw or inform (Client.js, instructionHandlers).
# fmt: off
_DRAWING = frozenset({
    "ack", "arc", "cfill", "clip", "close", "copy", "cstroke", "cursor", "curve", "dispose", "distort", "identity",
    "jpeg", "lfill", "line", "lstroke", "mouse", "move", "msg", "name", "nop", "png", "pop", "push", "rect",
    "reset", "set", "shade", "size", "start", "transfer", "transform",
})
# fmt: on
_PASSED = _DRAWING | {"sync", "img", "blob", "end"}
# Which argument of an instruction that opens a stream is the stream's number; blob and end belong to the stream.
_OPENS_STREAM = {"img": 0, "clipboard": 0, "audio": 0, "video": 0, "file": 0, "pipe": 0, "argv": 0, "body": 1}
_ENDINGS = frozenset({"error", "disconnect"})
# libguac has 64 streams a user and 64 a client; a guacd that opens more without ending any is not guacd.
_MAX_DROPPED_STREAMS = 1024

_STREAM_INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
_MAX_TIMESTAMP_DIGITS = 18
_TIMESTAMP = re.compile(rf"[0-9]{{1,{_MAX_TIMESTAMP_DIGITS}}}")


def _stretch_pattern(opcodes: Iterable[str], *, with_streams: bool) -> re.Pattern[str]:
    """Compile a pattern for a run of whole instructions, all elements short and free of separators.

    No value may hold ',' or ';', so those characters in a run are true boundaries, and there is one way to match:
    little is ever tried twice. Not possessive, for all that: CPython 3.11.2, Debian 12's own, matches too far then.
    """
    by_length: defaultdict[int, list[str]] = defaultdict(list)
    for opcode in sorted(opcodes):
        by_length[len(opcode)].append(opcode)
    names = "|".join(rf"{length}\.(?:{'|'.join(same)})" for length, same in sorted(by_length.items()))
    tens = "".join(rf"|{n - 10}\.[^,;]{{{n}}}" for n in range(10, 14))
    ones = "".join(rf"|{n}\.[^,;]{{{n}}}" for n in range(2, 10))
    element = rf"(?:1(?:\.[^,;]{tens}){ones}|0\.)"
    # guacd 1.3 counts from the computer's start, later ones from 1970: milliseconds in 5 to 13 digits.
    timestamp = "|".join(rf"{n}\.[0-9]{{{n}}}" for n in range(_MAX_TIMESTAMP_DIGITS, 0, -1))
    kinds = [
        rf"(?:{names})(?:,{element}){{0,{MAX_ELEMENTS - 1}}}",
        rf"4\.sync,(?:{timestamp})(?:,(?:1\.[0-9]|2\.[0-9]{{2}}))?",
    ]
    if with_streams:
        index = r"(?:1\.[0-9]|2\.[1-9][0-9]|3\.[1-9][0-9]{2})"
        kinds += [rf"3\.img,{index}(?:,{element}){{0,{MAX_ELEMENTS - 2}}}", rf"3\.end,{index}"]
    return re.compile(rf"(?:(?:{'|'.join(kinds)});)+")


_STRETCH = _stretch_pattern(_DRAWING, with_streams=True)
_STRETCH_WHILE_DROPPING = _stretch_pattern(_DRAWING, with_streams=False)
_BLOB_HEAD = re.compile(r"4\.blob,(?:1\.[0-9]|2\.[1-9][0-9]|3\.[1-9][0-9]{2}),([1-9][0-9]{0,3})\.")
_SYNC = "4.sync,"


@dataclass(frozen=True, slots=True)
class Downward:
    """What came of some bytes from guacd.

    `text` holds whole instructions, verbatim, for one WebSocket frame; "" is nothing to send. `last_sync` is the newest
    `sync` in it. `error` (a status code) and `disconnect` are guacd's endings: they are reported here and not part of
    `text`, since the tunnel ends with its own words. `dropped` names each opcode that was held back, once.
    """

    text: str = ""
    last_sync: int | None = None
    error: int | None = None
    disconnect: bool = False
    dropped: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether guacd has ended the connection; nothing more comes."""
        return self.disconnect or self.error is not None


_NOTHING = Downward()


class DownwardFilter:
    """Passes what guacd sends on to one browser, without what that browser must not get.

    `clipboard`, `audio` and `video` let those streams pass. The filter keeps at most one unfinished instruction.
    """

    def __init__(self, *, clipboard: bool = False, audio: bool = False, video: bool = False) -> None:
        wanted = {"clipboard": clipboard, "audio": audio, "video": video}
        self._allowed = _PASSED.union(opcode for opcode, is_wanted in wanted.items() if is_wanted)
        self._reader = Utf8Reader()
        self._rest = ""  # the beginning of an instruction
        self._needed = 0  # _rest says nothing new before it is this long
        self._offset = 0  # where _rest begins in guacd's stream, in characters
        self._dropped_streams: set[int] = set()
        self._ending: Downward | None = None
        self._fault: RemoteProtocolError | None = None

    def receive(self, data: bytes) -> Downward:
        """Return what of these bytes goes to the browser.

        Raises RemoteProtocolError, now and ever after, where guacd broke the protocol. After guacd's `error` or
        `disconnect` everything is ignored and the ending returned again.
        """
        if self._fault is not None:
            raise self._fault
        if self._ending is not None:
            return self._ending
        text = self._rest + self._reader.read(data)
        if len(text) < self._needed and not self._reader.is_broken:
            self._rest = text
            return _NOTHING
        try:
            return self._filter(text)
        except RemoteProtocolError as error:
            self._fault, self._rest = error, ""
            raise

    def end_of_input(self) -> None:
        """Say that guacd hung up: raises TruncatedInput in the middle of an instruction."""
        if self._fault is not None:
            raise self._fault
        if self._ending is None and (self._rest or self._reader.cut_character):
            raise TruncatedInput(
                "the end of what guacd sent", "the rest of the instruction", offset=self._offset + len(self._rest)
            )

    def _filter(self, text: str) -> Downward:
        passed: list[str] = []
        dropped: dict[str, None] = {}
        last_sync: int | None = None
        kept_from = position = needed = 0
        available = len(text)
        while position < available:
            dropping = bool(self._dropped_streams)
            stretch = (_STRETCH_WHILE_DROPPING if dropping else _STRETCH).match(text, position)
            if stretch is not None:
                started, position = position, stretch.end()
                last_sync = _newest_sync(text, started, position, last_sync)
                if position == available:
                    break
            blob = None if dropping else _BLOB_HEAD.match(text, position)
            if blob is not None and (length := int(blob[1])) <= MAX_ELEMENT_LENGTH:
                end = blob.end() + length
                if end >= available:
                    needed = end + 1 - position
                    break
                if text[end] == ";":
                    position = end + 1
                    continue
            outcome = read_instruction(text, position, offset=self._offset)
            if isinstance(outcome, Incomplete):
                needed = outcome.length - position
                break
            (opcode, *args), after = outcome
            if opcode in _ENDINGS:
                passed.append(text[kept_from:position])
                return self._end("".join(passed), last_sync, opcode, args, tuple(dropped))
            if self._may_pass(opcode, args, self._offset + position):
                if opcode == "sync":
                    last_sync = int(args[0])
            else:
                passed.append(text[kept_from:position])
                kept_from = after
                dropped[opcode[:32]] = None
            position = after
        if self._reader.is_broken:
            raise self._reader.fault(self._offset + available)
        passed.append(text[kept_from:position])
        self._rest, self._needed = text[position:], needed
        self._offset += position
        return Downward("".join(passed), last_sync, dropped=tuple(dropped))

    def _may_pass(self, opcode: str, args: list[str], offset: int) -> bool:
        """Whether this instruction goes to the browser; keeps track of the streams that do not."""
        if opcode == "sync":
            if not args or not _TIMESTAMP.fullmatch(args[0]):
                raise RemoteProtocolError("sync without a time", "a time in milliseconds", offset=offset)
        elif opcode in _OPENS_STREAM:
            index = _stream_index(opcode, args, _OPENS_STREAM[opcode], offset)
            if opcode in self._allowed:
                self._dropped_streams.discard(index)
            else:
                self._dropped_streams.add(index)
                if len(self._dropped_streams) > _MAX_DROPPED_STREAMS:
                    raise RemoteProtocolError(
                        f"more than {_MAX_DROPPED_STREAMS} open streams", "streams that end", offset=offset
                    )
        elif opcode in ("blob", "end"):
            index = _stream_index(opcode, args, 0, offset)
            if index in self._dropped_streams:
                if opcode == "end":
                    self._dropped_streams.discard(index)
                return False
        return opcode in self._allowed

    def _end(
        self, text: str, last_sync: int | None, opcode: str, args: list[str], dropped: tuple[str, ...]
    ) -> Downward:
        code: int | None = None
        if opcode == "error":
            has_code = len(args) > 1 and _STREAM_INDEX.fullmatch(args[1])
            code = int(args[1]) if has_code else int(Status.SERVER_ERROR)
        self._rest = ""
        self._ending = Downward(error=code, disconnect=opcode == "disconnect")
        return Downward(text, last_sync, code, opcode == "disconnect", dropped)


def _newest_sync(text: str, start: int, end: int, otherwise: int | None) -> int | None:
    """Return the time of the last `sync` in a stretch; values there hold no ';', so what is found is an instruction."""
    found = text.rfind(";" + _SYNC, start, end) + 1
    if not found:
        if not text.startswith(_SYNC, start):
            return otherwise
        found = start
    length = found + len(_SYNC)
    digits = text.index(".", length) + 1
    return int(text[digits : digits + int(text[length : digits - 1])])


def _stream_index(opcode: str, args: list[str], argument: int, offset: int) -> int:
    if len(args) <= argument or not _STREAM_INDEX.fullmatch(args[argument]):
        raise RemoteProtocolError(f"{opcode} without a stream", "the number of a stream", offset=offset)
    return int(args[argument])
