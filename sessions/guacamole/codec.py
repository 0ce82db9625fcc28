"""Instructions to text and back, exactly, at any split of the bytes.

Theory of operation
===================

An instruction is its opcode and its arguments, each written `LENGTH.VALUE`, joined by commas, ended by a semicolon:
`4.size,1.0,4.1024,3.768;`. LENGTH counts Unicode code points of the UTF-8 text; nothing stands between instructions.

Two rules make everything else simple:

* **Only one spelling.** A length has no sign, no leading zero and at least one digit. libguac and Apache's JavaScript
  take more than that, each something different; that is how instructions get smuggled past a filter (CVE-2023-30575).
  With one spelling, `encode(decode(text)) == text` for all text that is accepted, so text that has been proven
  well-formed may be sent on verbatim: re-encoding it would give the same bytes.
* **A buffer of text, not of bytes.** Python indexes `str` by code point, which is what lengths count, and decodes UTF-8
  and finds characters at the speed of C. Bytes are decoded as they come; a character cut in two waits for its rest.
  Surrogates and overlong forms are not UTF-8 and are refused.

What is accepted depends on the bytes alone, never on how they were cut: everything before a fault is delivered, then
the fault is raised, and raised again by every later call.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from sessions.guacamole.errors import LocalProtocolError, RemoteProtocolError, TruncatedInput

# GUAC_INSTRUCTION_MAX_LENGTH, _MAX_ELEMENTS and _MAX_DIGITS of libguac (parser-constants.h); its buffer for one whole
# instruction is 32,768 bytes (parser.c), so that is what we may write, and more characters than that nobody can mean.
MAX_ELEMENT_LENGTH = 8192
MAX_ELEMENTS = 128
MAX_LENGTH_DIGITS = 5
MAX_INSTRUCTION_LENGTH = 32768

_LENGTH = re.compile(rf"(0|[1-9][0-9]{{0,{MAX_LENGTH_DIGITS - 1}}})\.")
_LENGTH_SO_FAR = re.compile(rf"(?:0|[1-9][0-9]{{0,{MAX_LENGTH_DIGITS - 1}}})?")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True, repr=False)
class Instruction:
    """One instruction: what to do, and to what."""

    opcode: str
    args: tuple[str, ...] = ()

    def encode(self) -> str:
        """Return the instruction as text for the wire; raises LocalProtocolError where it does not fit."""
        return encode(self.opcode, *self.args)

    def __repr__(self) -> str:
        # Arguments may hold a password, a typed key, a clipboard: they have no place in a log.
        return f"<Instruction {self.opcode[:32]!r} with {len(self.args)} arguments>"


def encode(opcode: str, *args: str | int) -> str:
    """Return one instruction as text for the wire.

    Raises LocalProtocolError, which names the element but never shows it, for what libguac would not take.
    """
    elements = [opcode, *map(str, args)]
    if len(elements) > MAX_ELEMENTS:
        raise LocalProtocolError(f"{len(elements)} elements", f"at most {MAX_ELEMENTS}")
    for position, element in enumerate(elements):
        if len(element) > MAX_ELEMENT_LENGTH:
            raise LocalProtocolError(
                f"{len(element)} characters in element {position}", f"at most {MAX_ELEMENT_LENGTH}"
            )
        if not element.isascii() and _SURROGATE.search(element):
            raise LocalProtocolError(f"half a surrogate pair in element {position}", "Unicode text")
    text = ",".join([f"{len(element)}.{element}" for element in elements]) + ";"
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_INSTRUCTION_LENGTH:
        raise LocalProtocolError(f"an instruction of {size} bytes", f"at most {MAX_INSTRUCTION_LENGTH}")
    return text


def decode(data: bytes | str) -> list[Instruction]:
    """Return the instructions of `data`, which must be whole; raises RemoteProtocolError otherwise."""
    decoder = Decoder(peer="the peer")
    instructions = list(decoder.feed(data))
    decoder.end_of_input()
    return instructions


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The instruction is not all there; nothing can be said before the text is `length` characters long."""

    length: int


def read_instruction(text: str, start: int, *, offset: int = 0) -> tuple[list[str], int] | Incomplete:
    """Read the one instruction that begins at `start`: its elements, and where the next one begins.

    `offset` is where `text` begins in the peer's stream, for the words of the RemoteProtocolError that is raised
    as soon as no continuation could make the text right.
    """
    elements: list[str] = []
    position = start
    available = len(text)
    while True:
        length_match = _LENGTH.match(text, position)
        if length_match is None:
            return _length_not_whole(text, position, offset)
        length = int(length_match[1])
        if length > MAX_ELEMENT_LENGTH:
            raise RemoteProtocolError(
                f"an element of {length} characters", f"at most {MAX_ELEMENT_LENGTH}", offset=offset + position
            )
        value_start = length_match.end()
        end = value_start + length
        if end + 1 - start > MAX_INSTRUCTION_LENGTH:
            raise RemoteProtocolError(
                f"an instruction of more than {MAX_INSTRUCTION_LENGTH} characters",
                f"at most {MAX_INSTRUCTION_LENGTH}",
                offset=offset + start,
            )
        if end >= available:
            return Incomplete(end + 1)
        elements.append(text[value_start:end])
        terminator = text[end]
        position = end + 1
        if terminator == ";":
            return elements, position
        if terminator != ",":
            raise RemoteProtocolError(f"{terminator!a}", "',' or ';' after the element", offset=offset + end)
        if len(elements) == MAX_ELEMENTS:
            raise RemoteProtocolError(
                f"more than {MAX_ELEMENTS} elements", f"at most {MAX_ELEMENTS}", offset=offset + end
            )


def _length_not_whole(text: str, position: int, offset: int) -> Incomplete:
    """Say that a length has yet to arrive, or raise because it never can."""
    so_far = _LENGTH_SO_FAR.match(text, position)
    wrong = position if so_far is None else so_far.end()
    if wrong == len(text):
        return Incomplete(wrong + 1)
    if wrong == position:
        expected = "the length of an element"
    elif wrong - position == MAX_LENGTH_DIGITS:
        expected = f"'.' after {MAX_LENGTH_DIGITS} digits of length"
    else:
        expected = "'.' or a digit of the length" if text[position] != "0" else "'.' after the length 0"
    raise RemoteProtocolError(f"{text[wrong]!a}", expected, offset=offset + wrong)


class Utf8Reader:
    """Bytes to text as they come; a fault is kept until all text before it has been used."""

    def __init__(self) -> None:
        self.cut_character = b""
        self.is_broken = False

    def read(self, data: bytes | str) -> str:
        """Return the text of `data`, up to a fault; what follows a fault is thrown away."""
        if self.is_broken:
            return ""
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")
        if self.cut_character:
            data = self.cut_character + data
        try:
            text, used = codecs.utf_8_decode(data, "strict", False)
        except UnicodeDecodeError as error:
            used = error.start  # the exception itself holds the peer's bytes: it goes no further
            self.is_broken = True
            text = data[:used].decode()
        self.cut_character = data[used:]
        return text

    def fault(self, offset: int) -> RemoteProtocolError:
        """Return the error for the fault at this character."""
        return RemoteProtocolError("bytes that are not UTF-8", "UTF-8 text", offset=offset)


class Decoder:
    """Instructions out of one peer's bytes.

    `feed` returns the decoder itself, to iterate over: `for instruction in decoder.feed(data)`. What is not taken
    now is there next time.
    """

    def __init__(self, *, peer: str = "guacd") -> None:
        self._peer = peer
        self._reader = Utf8Reader()
        self._text = ""
        self._position = 0
        self._offset = 0  # where _text begins in the stream
        self._needed = 0  # _text says nothing new before it is this long
        self._error: RemoteProtocolError | None = None

    def __repr__(self) -> str:
        return f"<Decoder of {self._peer} at character {self._offset + self._position}>"

    def feed(self, data: bytes | str) -> Iterator[Instruction]:
        """Take in what arrived and return an iterator over the instructions that are whole.

        The iterator raises RemoteProtocolError when it comes to a fault, and from then on always.
        """
        self._offset += self._position
        self._needed -= self._position
        self._text = self._text[self._position :] + self._reader.read(data)
        self._position = 0
        return self

    def __iter__(self) -> Iterator[Instruction]:
        return self

    def __next__(self) -> Instruction:
        if self._error is not None:
            raise self._error
        try:
            if len(self._text) >= self._needed:
                outcome = read_instruction(self._text, self._position, offset=self._offset)
                if not isinstance(outcome, Incomplete):
                    (opcode, *args), self._position = outcome
                    return Instruction(opcode, tuple(args))
                self._needed = outcome.length
            if self._reader.is_broken:
                raise self._reader.fault(self._offset + len(self._text))
        except RemoteProtocolError as error:
            self._error = error
            self._text, self._position = "", 0
            raise
        raise StopIteration

    def end_of_input(self) -> None:
        """Say that the peer has stopped sending: raises TruncatedInput in the middle of an instruction.

        Take all whole instructions first.
        """
        if self._error is not None:
            raise self._error
        if self._position < len(self._text) or self._reader.cut_character:
            raise TruncatedInput(
                f"the end of what {self._peer} sent",
                "the rest of the instruction",
                offset=self._offset + len(self._text),
            )

    def take_rest(self) -> bytes:
        """Hand over the bytes that have not been decoded yet, for whoever reads this stream from here on."""
        rest = self._text[self._position :].encode() + self._reader.cut_character
        self._text, self._position, self._needed, self._reader = "", 0, 0, Utf8Reader()
        return rest
