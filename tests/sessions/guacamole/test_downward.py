"""guacd → browser: what only draws passes verbatim, what asks for more does not, and the shortcuts change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sessions.guacamole import (
    Decoder,
    Downward,
    DownwardFilter,
    Instruction,
    RemoteProtocolError,
    TruncatedInput,
    decode,
    encode,
)
from tests.fakes.guacd_words import DOWNWARD_SAMPLES, FIRST_FRAME
from tests.sessions.guacamole.vectors import FAULTS, HALVES

# The rules once more, by other means: decode everything, look each opcode up, write it anew.
DRAWING_WORDS = """
    ack arc blob cfill clip close copy cstroke cursor curve dispose distort end identity img jpeg lfill line lstroke
    mouse move msg name nop png pop push rect reset set shade size start sync transfer transform
"""
MAY_DRAW = set(DRAWING_WORDS.split())
OPENERS = {"img": 0, "clipboard": 0, "audio": 0, "video": 0, "file": 0, "pipe": 0, "argv": 0, "body": 1}


@dataclass
class PlainFilter:
    """What the filter must be equal to, written to be read and not to be fast."""

    switched_on: frozenset[str] = frozenset()
    text: str = ""
    syncs: list[int] = field(default_factory=list)
    ending: tuple[int | None, bool] | None = None
    failed: bool = False
    dropped_streams: set[int] = field(default_factory=set)

    def run(self, data: bytes) -> None:
        decoder = Decoder()
        try:
            for instruction in decoder.feed(data):
                self.take(instruction)
                if self.ending:
                    return
            decoder.end_of_input()
        except TruncatedInput:
            pass
        except RemoteProtocolError:
            self.failed = True

    def take(self, instruction: Instruction) -> None:
        opcode, args = instruction.opcode, instruction.args
        if opcode == "disconnect":
            self.ending = (None, True)
        elif opcode == "error":
            known = len(args) > 1 and is_canonical(args[1], 6)
            self.ending = (int(args[1]) if known else 512, False)
        elif opcode == "sync":
            if not (args and args[0].isascii() and args[0].isdigit() and len(args[0]) <= 18):
                raise RemoteProtocolError("sync", "a time")
            self.syncs.append(int(args[0]))
            self.text += instruction.encode()
        elif opcode in OPENERS:
            stream = stream_of(args, OPENERS[opcode])
            if opcode == "img" or opcode in self.switched_on:
                self.dropped_streams.discard(stream)
                self.text += instruction.encode()
            else:
                self.dropped_streams.add(stream)
        elif opcode in ("blob", "end"):
            stream = stream_of(args, 0)
            if stream not in self.dropped_streams:
                self.text += instruction.encode()
            elif opcode == "end":
                self.dropped_streams.discard(stream)
        elif opcode in MAY_DRAW:
            self.text += instruction.encode()


def is_canonical(number: str, digits: int) -> bool:
    return number.isascii() and number.isdigit() and str(int(number)) == number and len(number) <= digits


def stream_of(args: tuple[str, ...], position: int) -> int:
    if len(args) <= position or not is_canonical(args[position], 6):
        raise RemoteProtocolError("no stream", "a stream")
    return int(args[position])


def pour(down: DownwardFilter, pieces: list[bytes]) -> tuple[str, list[int], Downward | None, bool]:
    """Return all text, the newest sync of each piece, the ending, and whether it failed."""
    text, syncs, ending = "", [], None
    try:
        for piece in pieces:
            result = down.receive(piece)
            if not ending:
                text += result.text
                if result.last_sync is not None:
                    syncs.append(result.last_sync)
            if result.ended:
                ending = result
    except RemoteProtocolError:
        return text, syncs, ending, True
    return text, syncs, ending, False


short = st.text(st.sampled_from("019.,;-aè😀"), max_size=5)
index = st.sampled_from(["1", "1", "1", "0", "10", "127", "1000", "999999"])
odd_index = st.sampled_from(["", "-1", "01", "1x", "1000000", "٣", " 1"])
base64ish = st.text(st.sampled_from("A/+=;,."), max_size=30)
opcodes = st.sampled_from([*sorted(DOWNWARD_SAMPLES), "args", "select", "connect", "unheard-of", "", "sy", "syncs"])
whole = st.one_of(
    st.sampled_from(sorted(DOWNWARD_SAMPLES.items())).map(lambda item: encode(item[0], *map(str, item[1]))),
    st.builds(lambda a, b, c: encode("copy", a, b, c), short, short, short),
    st.builds(lambda i, data: encode("blob", i, data), index, base64ish),
    st.builds(
        lambda op, i: encode(op, i, "14"), st.sampled_from(["img", "clipboard", "audio", "video", "argv"]), index
    ),
    st.builds(lambda o, i: encode("body", o, i, "x", "y"), index, index),
    st.builds(lambda i: encode("end", i), index),
    st.builds(lambda op, i: encode(op, i, "x"), st.sampled_from(["blob", "end", "img", "file", "sync"]), odd_index),
    st.builds(lambda t, f: encode("sync", t, f), st.integers(0, 10**14), st.integers(0, 200)),
    st.builds(lambda t: encode("sync", t), st.integers(10**12, 10**13)),
    st.builds(lambda t: encode("sync", t), st.text("0123456789", max_size=20)),
    st.builds(lambda op, args: encode(op, *args), opcodes, st.lists(short, max_size=4)),
    st.builds(lambda n: encode("copy", *["1"] * n), st.sampled_from([125, 126, 127])),
    st.builds(lambda n: encode("img", "1", *["1"] * n), st.sampled_from([125, 126])),
)
# Text with true instructions inside of values, lengths that lie a little, and plain noise.
lying = whole.flatmap(
    lambda text: st.builds(
        lambda position, char: text[:position] + char + text[position + 1 :],
        st.integers(0, len(text) - 1),
        st.sampled_from("0123456789.,;x😀"),
    )
)
lying_blob = st.builds(
    lambda data, shift, end: f"4.blob,1.1,{max(0, len(data) + shift)}.{data}{end}",
    base64ish,
    st.integers(-2, 2),
    st.sampled_from([";", ",", ".", ",1.x;", ";3.nop;", ";4.nest,1.0,0.;"]),
)
nested = whole.map(lambda text: encode("name", text + ";4.nest,1.0,6.3.nop;;"))
noise = st.text(st.sampled_from("0123456789.,;blobsync"), max_size=20)
stream = st.lists(st.one_of(whole, whole, whole, whole, nested, lying, lying_blob, noise), max_size=12).map("".join)


@settings(max_examples=400, deadline=None)
@example("4.copy" + ",1.1" * 128 + ";", [], set())
@example("4.blob,1.1,4.AAAA,4.nest;4.blob,1.1,4.AAAA.4.nest;", [], set())
@example(f"4.blob,1.1,8193.{'A' * 8193};", [], set())
@example("9.clipboard,1.1;4.blob,1.1,1.x;3.end,1.1;4.blob,1.1,1.y;", [], set())
@example("3.img,1.1,1.x;3.nop;4.sync,13.1700000000000,1.1;3.end,1.1;4.sync,13.170000000000", [55], set())
@given(stream, st.lists(st.integers(0, 400), max_size=5), st.sets(st.sampled_from(["clipboard", "audio", "video"])))
def test_shortcuts_are_equal_to_decoding_everything(text: str, cuts: list[int], switched_on: set[str]) -> None:
    data = text.encode()
    plain = PlainFilter(frozenset(switched_on))
    plain.run(data)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    for split in ([data], pieces, [bytes([byte]) for byte in data]):
        down = DownwardFilter(
            clipboard="clipboard" in switched_on, audio="audio" in switched_on, video="video" in switched_on
        )
        passed, syncs, ending, failed = pour(down, split)
        if plain.failed:
            # What was in the same piece as the fault is lost with the connection.
            assert failed
            assert plain.text.startswith(passed)
            continue
        assert not failed
        assert passed == plain.text
        assert syncs[-1:] == plain.syncs[-1:]
        assert set(syncs) <= set(plain.syncs)
        assert (ending and (ending.error, ending.disconnect)) == plain.ending


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_pass_only_as_whole_allowed_instructions(data: bytes) -> None:
    passed, *_ = pour(DownwardFilter(), [b"4.name,1.", data, b";"])
    assert {instruction.opcode for instruction in decode(passed)} <= MAY_DRAW


@pytest.mark.parametrize(("opcode", "args"), sorted(DOWNWARD_SAMPLES.items()))
def test_each_opcode_of_guacd_passes_or_is_held_back(opcode: str, args: tuple[object, ...]) -> None:
    sample = encode(opcode, *map(str, args))
    result = DownwardFilter().receive((FIRST_FRAME + sample).encode())
    if opcode == "error":
        assert (result.text, result.error, result.ended) == (FIRST_FRAME, 519, True)
    elif opcode == "disconnect":
        assert (result.text, result.disconnect, result.ended) == (FIRST_FRAME, True, True)
    elif opcode in MAY_DRAW:
        assert (result.text, result.dropped, result.ended) == (FIRST_FRAME + sample, (), False)
    else:
        assert (result.text, result.dropped, result.ended) == (FIRST_FRAME, (opcode,), False)


@pytest.mark.parametrize(
    "opcode",
    [
        "nest",
        "required",
        "argv",
        "file",
        "filesystem",
        "body",
        "pipe",
        "ready",
        "args",
        "undefine",
        "log",
        "put",
        "get",
    ],
)
def test_opcode_that_asks_more_of_a_browser_never_reaches_it(opcode: str) -> None:
    instruction = encode(opcode, "1", "2", "password").encode()
    for cut in range(len(instruction)):
        down = DownwardFilter(clipboard=True, audio=True, video=True)
        texts = [down.receive(b"3.nop;" + instruction[:cut]).text, down.receive(instruction[cut:] + b"3.nop;").text]
        assert "".join(texts) == "3.nop;3.nop;"


def test_empty_opcode_belongs_to_the_tunnel_and_is_dropped() -> None:
    result = DownwardFilter().receive(b"0.,36.00000000-0000-4000-8000-000000000000;3.nop;0.;")
    assert result.text == "3.nop;"
    assert result.dropped == ("",)


@pytest.mark.parametrize("opener", ["4.file,1.1,1.x,1.y;", "4.body,1.0,1.1,1.x,1.y;", "9.clipboard,1.1,10.text/plain;"])
def test_blobs_of_a_dropped_stream_are_dropped_until_the_number_is_used_anew(opener: str) -> None:
    other = "4.blob,1.2,4.AAAA;3.end,1.2;"
    secret = "4.blob,1.1,8.c2VjcmV0;"
    again = "3.img,1.1,2.14,1.0,9.image/png,1.0,1.0;" + "4.blob,1.1,4.BBBB;3.end,1.1;"
    whole = f"{opener}{secret}{other}{secret}3.end,1.1;{again}"
    assert DownwardFilter().receive(whole.encode()).text == other + again
    # Taken over while it was open: the picture passes, too.
    assert DownwardFilter().receive(f"{opener}{secret}{again}".encode()).text == again
    down = DownwardFilter()
    assert "".join(down.receive(bytes([byte])).text for byte in whole.encode()) == other + again


@pytest.mark.parametrize("end", [".4.nest,1.0,0.;", "A;", "3.nop;"])
def test_blob_of_another_length_than_it_says_is_guacds_fault(end: str) -> None:
    down = DownwardFilter()
    with pytest.raises(RemoteProtocolError):
        down.receive(f"4.blob,1.1,4.AAAA{end}4.nest,1.0,0.;".encode())


def test_blob_longer_than_an_element_may_be_is_guacds_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="8193 characters"):
        DownwardFilter().receive(b"4.blob,1.1,8193." + b"A" * 8193 + b";")


@pytest.mark.parametrize("opcode", ["clipboard", "audio", "video"])
def test_stream_that_is_switched_on_passes_with_its_blobs(opcode: str) -> None:
    text = f"{encode(opcode, '1', '0', 'text/plain')}4.blob,1.1,4.AAAA;3.end,1.1;"
    everything = DownwardFilter(clipboard=True, audio=True, video=True)
    assert everything.receive(text.encode()).text == text
    assert DownwardFilter().receive(text.encode()) == Downward(dropped=(opcode, "blob", "end"))


@pytest.mark.parametrize(("opcode", "argument"), [("blob", "x"), ("end", "-1"), ("img", "1.5"), ("clipboard", "")])
def test_stream_without_a_number_is_guacds_fault(opcode: str, argument: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{opcode} without a stream"):
        DownwardFilter().receive(encode(opcode, argument, "x").encode())


def test_streams_that_never_end_do_not_grow_memory() -> None:
    down = DownwardFilter()
    with pytest.raises(RemoteProtocolError, match="1024"):
        for stream_index in range(2000):
            down.receive(encode("clipboard", stream_index, "text/plain").encode())


def test_streams_that_end_may_be_as_many_as_they_like() -> None:
    down = DownwardFilter()
    for stream_index in range(2000):
        assert (
            down.receive(f"{encode('clipboard', stream_index, 'x')}{encode('end', stream_index)}".encode()).text == ""
        )


def test_newest_sync_is_reported_and_passed() -> None:
    down = DownwardFilter()
    text = (
        "4.sync,13.1700000000000;4.sync,13.1700000000003;4.sync,13.1700000000001,1.1;3.nop;"
        "4.sync,13.1700000000002;4.name,12.;4.sync,13.1;"
    )
    assert down.receive(text.encode()) == Downward(text, 1700000000002)
    assert down.receive(b"3.nop;").last_sync is None
    assert down.receive(b"4.sync,1.7;").last_sync == 7


@pytest.mark.parametrize("sync", ["4.sync;", "4.sync,0.;", "4.sync,2.-1;", "4.sync,3.NaN;", "4.sync,1.٣;"])
def test_sync_without_a_time_is_guacds_fault(sync: str) -> None:
    with pytest.raises(RemoteProtocolError, match="sync without a time"):
        DownwardFilter().receive(sync.encode())


@pytest.mark.parametrize(
    ("ending", "error", "disconnect"),
    [
        ("5.error,18.Aborted. See logs.,3.519;", 519, False),
        ("5.error,1.x;", 512, False),
        ("5.error,1.x,2.-1;", 512, False),
        ("10.disconnect;", None, True),
    ],
)
def test_ending_is_reported_and_nothing_after_it_passes(ending: str, error: int | None, disconnect: bool) -> None:
    down = DownwardFilter()
    result = down.receive(f"3.nop;{ending}4.name,5.after;rubbish".encode())
    assert result == Downward("3.nop;", None, error, disconnect)
    assert down.receive(b"4.name,5.later;\xff") == Downward("", None, error, disconnect)
    down.end_of_input()


@pytest.mark.parametrize(("data", "offset", "found"), FAULTS)
def test_fault_is_told_as_the_codec_tells_it(data: bytes, offset: int, found: str) -> None:
    down = DownwardFilter()
    before = down.receive(b"3.nop;4.blob,1.1,4.AAAA;")
    assert before.text == "3.nop;4.blob,1.1,4.AAAA;"
    with pytest.raises(RemoteProtocolError) as caught:
        down.receive(data)
    assert (caught.value.offset, caught.value.found) == (len(before.text) + offset, found)
    with pytest.raises(RemoteProtocolError):
        down.receive(b"3.nop;")
    with pytest.raises(RemoteProtocolError):
        down.end_of_input()


@pytest.mark.parametrize("data", [*HALVES, b"4.blob,1.1,8000.AAAA", b"4.blob,1.1,4.AAAA"])
def test_half_an_instruction_waits_and_is_told_at_the_end(data: bytes) -> None:
    down = DownwardFilter()
    passed = down.receive(data).text
    assert all(instruction.opcode == "nop" for instruction in decode(passed))
    with pytest.raises(TruncatedInput):
        down.end_of_input()


def test_pictures_cut_at_every_byte_arrive_whole() -> None:
    text = FIRST_FRAME + encode("blob", 1, "QUJD" * 40) + encode("name", "caffè ☕;4.nest,1.0,0.;") + "4.sync,1.9;"
    data = text.encode()
    for cut in range(len(data) + 1):
        down = DownwardFilter()
        first, second = down.receive(data[:cut]), down.receive(data[cut:])
        assert first.text + second.text == text
        decode(first.text)
