"""Words are shortened between words, and never within what people see as one character."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifications import wording


def test_words_are_left_out_whole() -> None:
    assert wording.shorten("The grinder is jammed", max_chars=16) == "The grinder is…"
    assert wording.shorten("The grinder is jammed", max_chars=21) == "The grinder is jammed"
    assert wording.shorten("Ä" * 10, max_chars=99, max_bytes=15) == "Ä" * 6 + "…"
    assert wording.shorten("コーヒーマシンが動きません", max_chars=8) == "コーヒーマシン…"


def test_what_belongs_to_one_character_is_not_parted() -> None:
    assert wording.shorten("cafe\u0301s", max_chars=5) == "caf…"
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert wording.shorten("x" + family + "y", max_chars=4) == "x…"
    assert wording.shorten("x\U0001f44d\U0001f3fd yes", max_chars=3) == "x…"


@given(text=st.text(max_size=80), chars=st.integers(1, 60), size=st.integers(0, 120))
@settings(max_examples=150, deadline=None)
def test_shortened_text_fits_and_begins_as_the_whole_one(text: str, chars: int, size: int) -> None:
    text = text.encode(errors="replace").decode()
    short = wording.shorten(text, max_chars=chars, max_bytes=size)
    assert len(short) <= chars and len(short.encode()) <= size
    assert short == text or short == "" or (short.endswith("…") and text.startswith(short[:-1]))


@given(text=st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_one_line_is_one_line(text: str) -> None:
    assert len(wording.one_line(text).splitlines()) <= 1
    assert all(ord(one) >= 32 for one in wording.one_line(text))


@pytest.mark.parametrize("control", ["\u202e", "\u2066", "\u200f", "\u200b", "\u00ad", "\ufeff", "\U000e0041"])
def test_name_cannot_turn_round_or_hide_what_is_read(control: str) -> None:
    """U+202E makes "A1 (gpj.exe)" of what is "A1 (exe.jpg)", on a screen that people act on."""
    assert wording.one_line(f"Bar {control}Centrale") == "Bar Centrale"
    assert wording.lines(f"A1\nBar {control}Centrale") == "A1\nBar Centrale"


def test_what_words_and_emoji_are_made_with_stays() -> None:
    for text in ("می\u200cخواهم", "क्\u200dष", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "❤\ufe0f", "שלום café"):
        assert wording.one_line(text) == text


@given(text=st.text(alphabet=st.characters(categories=["Cf", "Cc", "Lu"]), max_size=40))
@settings(max_examples=100, deadline=None)
def test_no_other_format_character_is_left(text: str) -> None:
    left = {one for one in wording.one_line(text) if unicodedata.category(one) in {"Cf", "Cc"}}
    assert left <= {"\u200c", "\u200d"}
