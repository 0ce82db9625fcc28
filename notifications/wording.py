"""Makes words fit: a message is shortened between words, never within a character."""

from __future__ import annotations

import re
import unicodedata

_ELLIPSIS = "…"
_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}
# Of the invisible characters that say how others are written (Unicode's Cf) the two that words and emoji are made with.
# The others make one thing read like another, as U+202E does, which turns round what follows, or hide what is there.
_HARMLESS_FORMATS = {"\u200c", "\u200d"}


def one_line(text: str) -> str:
    """The text on one line, without control and format characters: nothing a header could be made of."""
    return " ".join(_printable(text).split())


def lines(text: str) -> str:
    """The text with its line breaks and without other control and format characters."""
    return "\n".join(" ".join(line.split()) for line in _printable(text).splitlines()).strip()


def shorten(text: str, *, max_chars: int, max_bytes: int | None = None) -> str:
    """The text, or as many of its first words as fit, with an ellipsis; bytes are counted in UTF-8."""
    limit = max_chars if max_bytes is None else min(max_chars, _chars_in(text, max_bytes))
    if limit >= len(text):
        return text
    room = max_chars - 1
    if max_bytes is not None:
        room = min(room, _chars_in(text, max_bytes - len(_ELLIPSIS.encode())))
    if room <= 0:
        return ""
    cut = _between_characters(text, room)
    between_words = [found.start() for found in re.finditer(r"\s+", text[: cut + 1])]
    # One word that fills half of the room, as in Japanese, is better cut than left out.
    if between_words and between_words[-1] > room // 2:
        cut = between_words[-1]
    return text[:cut].rstrip() + _ELLIPSIS


def _chars_in(text: str, max_bytes: int) -> int:
    """How many of the first characters have at most so many bytes."""
    return len(text.encode()[: max(max_bytes, 0)].decode(errors="ignore"))


def _between_characters(text: str, at: int) -> int:
    """The place at or before `at` where what people see as one character (accents, joined emoji) is not cut."""
    while 0 < at < len(text) and (
        unicodedata.combining(text[at])
        or text[at] in _JOINERS
        or text[at - 1] == "\u200d"
        or "\U0001f3fb" <= text[at] <= "\U0001f3ff"
    ):
        at -= 1
    return at


def _printable(text: str) -> str:
    return "".join(_printed(one) for one in text.replace("\r\n", "\n").replace("\r", "\n"))


def _printed(one: str) -> str:
    """The character; a space for a control character, nothing for one that only says how others are written."""
    if one in "\n\t" or one in _HARMLESS_FORMATS:
        return one
    match unicodedata.category(one):
        case "Cc" | "Cs":
            return " "
        case "Cf":
            return ""
    return one
