"""The codec: one spelling, the same at every split of the bytes, and errors that say where and what."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.guacamole import (
    MAX_ELEMENT_LENGTH,
    MAX_ELEMENTS,
    MAX_INSTRUCTION_LENGTH,
    Decoder,
    Instruction,
    LocalProtocolError,
    RemoteProtocolError,
    TruncatedInput,
    decode,
    encode,
)
from tests.sessions.guacamole.vectors import FAULTS, HALVES, SPELLINGS

unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
hostile_text = st.text(st.sampled_from("0123456789.,;-ab è😀\n"), max_size=80)


def collect(decoder: Decoder, pieces: list[bytes]) -> tuple[list[Instruction], str]:
    """Return what the decoder made of the pieces: the instructions, and the fault it ended with."""
    found: list[Instruction] = []
    try:
        for piece in pieces:
            for instruction in decoder.feed(piece):
                found.append(instruction)
        decoder.end_of_input()
    except RemoteProtocolError as error:
        return found, f"{type(error).__name__}: {error}"
    return found, ""


@pytest.mark.parametrize(("opcode", "args", "text"), SPELLINGS)
def test_instruction_has_one_spelling(opcode: str, args: tuple[str, ...], text: str) -> None:
    assert encode(opcode, *args) == text
    assert decode(text) == decode(text.encode()) == [Instruction(opcode, args)]
    assert Instruction(opcode, args).encode() == text


@pytest.mark.parametrize(("opcode", "args", "text"), [vector for vector in SPELLINGS if len(vector[2]) < 100])
def test_decoding_does_not_depend_on_where_the_bytes_are_cut(opcode: str, args: tuple[str, ...], text: str) -> None:
    data = (text + "3.nop;").encode()
    expected = [Instruction(opcode, args), Instruction("nop")]
    for cut in range(len(data) + 1):
        assert collect(Decoder(), [data[:cut], data[cut:]]) == (expected, "")
    assert collect(Decoder(), [bytes([byte]) for byte in data]) == (expected, "")


@pytest.mark.parametrize(("data", "offset", "found"), FAULTS)
def test_fault_is_told_with_place_found_and_expected(data: bytes, offset: int, found: str) -> None:
    decoder = Decoder()
    with pytest.raises(RemoteProtocolError) as caught:
        for _ in decoder.feed(data):
            pass
    assert (caught.value.offset, caught.value.found) == (offset, found)
    assert f"found {found} at character {offset}, expected {caught.value.expected}" == str(caught.value)
    with pytest.raises(RemoteProtocolError):
        list(decoder.feed(b"3.nop;"))
    with pytest.raises(RemoteProtocolError):
        decoder.end_of_input()


@pytest.mark.parametrize(("data", "offset", "found"), [vector for vector in FAULTS if len(vector[0]) < 100])
def test_fault_does_not_depend_on_where_the_bytes_are_cut(data: bytes, offset: int, found: str) -> None:
    data = b"4.name,2.\xc3\xa8;;" + data
    whole = collect(Decoder(), [data])
    assert whole[0][0] == Instruction("name", ("è;",))
    for cut in range(len(data) + 1):
        assert collect(Decoder(), [data[:cut], data[cut:]]) == whole
    assert collect(Decoder(), [bytes([byte]) for byte in data]) == whole


@pytest.mark.parametrize("data", HALVES)
def test_half_an_instruction_is_told_at_the_end_of_input(data: bytes) -> None:
    decoder = Decoder(peer="the browser")
    list(decoder.feed(data))
    with pytest.raises(TruncatedInput, match="the end of what the browser sent"):
        decoder.end_of_input()


def test_end_of_input_between_instructions_is_no_fault() -> None:
    decoder = Decoder()
    decoder.end_of_input()
    assert list(decoder.feed(b"3.nop;")) == [Instruction("nop")]
    decoder.end_of_input()


def test_instructions_not_taken_yet_are_there_next_time() -> None:
    decoder = Decoder()
    assert next(decoder.feed(b"3.nop;4.sync,1.1;4.sy")) == Instruction("nop")
    assert list(decoder.feed(b"nc,1.2;")) == [Instruction("sync", ("1",)), Instruction("sync", ("2",))]


@pytest.mark.parametrize("rest", [b"", b"4.sync,1.1;4.na", "4.name,1.😀".encode()[:-2], b"3.nop;\xff3.nop;"])
def test_rest_is_handed_over_byte_for_byte(rest: bytes) -> None:
    decoder = Decoder()
    assert next(decoder.feed(b"5.ready,1.$;" + rest)).opcode == "ready"
    assert decoder.take_rest() == rest


@pytest.mark.parametrize(
    ("opcode", "args", "found"),
    [
        ("blob", ("1", "x" * (MAX_ELEMENT_LENGTH + 1)), "8193 characters in element 2"),
        ("image", ("secret",) * MAX_ELEMENTS, "129 elements"),
        ("name", ("secret\ud800",), "half a surrogate pair in element 1"),
        ("\udfff", (), "half a surrogate pair in element 0"),
        ("name", ("😀" * 8192,), "an instruction of 32781 bytes"),
        ("name", ("x" * 8192,) * 4, "an instruction of 32799 bytes"),
    ],
)
def test_encoder_refuses_what_guacd_would_not_take(opcode: str, args: tuple[str, ...], found: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        encode(opcode, *args)
    assert caught.value.found == found
    assert "secret" not in str(caught.value)


def test_text_with_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="not UTF-8"):
        decode("4.name,1.\ud83d;")


def test_repr_shows_no_values() -> None:
    instruction = Instruction("connect", ("hunter2", "s3cret"))
    assert repr(instruction) == "<Instruction 'connect' with 2 arguments>"
    decoder = Decoder()
    list(decoder.feed(b"7.connect,7.hunter2,6.s3c"))
    assert "hunter2" not in repr(decoder)
    with pytest.raises(RemoteProtocolError) as caught:
        decode(b"7.connect,7.hunter23,6.s3cret;")
    assert "hunter" not in str(caught.value)


@given(st.lists(st.tuples(unicode_text, st.lists(unicode_text, max_size=8)), max_size=5), st.data())
def test_any_text_survives_the_round_trip(instructions: list[tuple[str, list[str]]], data: st.DataObject) -> None:
    encoded = "".join(encode(opcode, *args) for opcode, args in instructions).encode()
    cut = data.draw(st.integers(0, len(encoded)))
    expected = [Instruction(opcode, tuple(args)) for opcode, args in instructions]
    assert collect(Decoder(), [encoded[:cut], encoded[cut:]]) == (expected, "")


@given(st.one_of(st.binary(max_size=60), hostile_text.map(str.encode)), st.lists(st.integers(0, 80), max_size=4))
def test_hostile_bytes_give_the_same_at_any_split(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert collect(Decoder(), pieces) == collect(Decoder(), [data])


@given(hostile_text)
def test_what_is_accepted_is_spelled_as_we_would_spell_it(text: str) -> None:
    instructions, fault = collect(Decoder(), [text.encode()])
    accepted = "".join(instruction.encode() for instruction in instructions)
    assert text.startswith(accepted)
    assert fault or accepted == text


def test_unfinished_instruction_never_holds_more_than_the_limit() -> None:
    decoder = Decoder()
    with pytest.raises(RemoteProtocolError):
        for _ in range(40):
            for _ in decoder.feed(b"1000." + b"x" * 1000 + b","):
                pass
    assert len(decoder.take_rest()) <= MAX_INSTRUCTION_LENGTH
