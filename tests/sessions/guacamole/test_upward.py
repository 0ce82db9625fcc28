"""Browser → guacd: who may send what, with how many arguments of which range; all else closes the tunnel."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessions.guacamole import Role, Status, Upward, UpwardFilter, decode, encode
from tests.fakes.guacd_words import DOWNWARD_SAMPLES
from tests.sessions.guacamole.vectors import FAULTS

SENT = 1700000000000

# What Guacamole.Client sends, as it sends it.
INPUT = {
    "mouse": ("10", "20", "1"),
    "key": ("65293", "1"),
    "touch": ("0", "10", "20", "4", "4", "0.7853981633974483", "0.5"),
    "size": ("1024", "768"),
}
KEEPING_UP = {"sync": (str(SENT),), "ack": ("1", "OK", "0"), "nop": (), "disconnect": ()}
CLIPBOARD = {"clipboard": ("0", "text/plain"), "blob": ("0", "aGVsbG8="), "end": ("0",)}
# Everything else that guacd understands, or that Guacamole's reference knows in any direction.
FORBIDDEN = {
    "argv": ("0", "text/plain", "password"),
    "audio": ("0", "audio/L16;rate=44100,channels=2"),
    "body": ("0", "0", "text/plain", "x"),
    "connect": ("VERSION_1_5_0", "evil"),
    "file": ("0", "text/plain", "x"),
    "get": ("0", "/"),
    "image": ("image/png",),
    "name": ("Mallory",),
    "pipe": ("0", "text/plain", "x"),
    "put": ("0", "0", "text/plain", "x"),
    "select": ("$00000000-0000-4000-8000-000000000000",),
    "timezone": ("Europe/Rome",),
    "video": ("0",),
    "usage": (),
    "Mouse": ("1", "1", "1"),
    "mouse ": ("1", "1", "1"),
    "☕": (),
}
EVERYTHING = {**DOWNWARD_SAMPLES, **FORBIDDEN, **INPUT, **KEEPING_UP, **CLIPBOARD}


def a_filter(role: Role = Role.CONTROLLER, *, clipboard: bool = False) -> UpwardFilter:
    up = UpwardFilter(role=role, clipboard=clipboard)
    up.note_sync(SENT)
    return up


@pytest.mark.parametrize("clipboard", [False, True])
@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("opcode", sorted(EVERYTHING))
def test_each_opcode_passes_for_those_who_may_send_it_and_nobody_else(opcode: str, role: Role, clipboard: bool) -> None:
    up = a_filter(role, clipboard=clipboard)
    prelude = encode("clipboard", 0, "text/plain") if opcode in ("blob", "end") else ""
    allowed = set(KEEPING_UP)
    if role is Role.CONTROLLER:
        allowed |= set(INPUT) | (set(CLIPBOARD) if clipboard else set())
    message = prelude + encode(opcode, *map(str, EVERYTHING[opcode]))
    result = up.receive(message)
    if opcode in allowed:
        assert (result.text, result.rejected) == (message, None)
        return
    assert (result.text, result.reply, result.acted) == ("", "", False)
    assert result.rejected is not None
    assert result.rejected.status is Status.CLIENT_FORBIDDEN
    assert role in result.rejected.found
    assert result.rejected.expected == "one of " + ", ".join(up._allowed)
    # It stays closed.
    assert up.receive("3.nop;") == Upward(rejected=result.rejected)


@pytest.mark.parametrize(("opcode", "args"), sorted({**INPUT, **KEEPING_UP, **CLIPBOARD}.items()))
def test_each_opcode_has_one_number_of_arguments(opcode: str, args: tuple[str, ...]) -> None:
    for wrong in (args[:-1], (*args, "0")):
        if wrong == args:
            continue
        up = a_filter(clipboard=True)
        up.receive(encode("clipboard", 0, "text/plain"))
        result = up.receive(encode(opcode, *wrong))
        assert (result.text, result.disconnect) == ("", False)
        assert result.rejected is not None
        assert result.rejected.found == f"{opcode} with {len(wrong)} arguments"
        assert result.rejected.expected == f"{len(args)} arguments"
        assert result.rejected.status is Status.CLIENT_BAD_REQUEST


@pytest.mark.parametrize(
    ("sent", "passed"),
    [
        ("mouse 0 0 0", "mouse 0 0 0"),
        ("mouse 65535 65535 31", "mouse 65535 65535 31"),
        # A drag beyond the edge means the edge.
        ("mouse -1 -65535 1", "mouse 0 0 1"),
        ("touch 0 -3 5 0 0 0 0", "touch 0 0 5 0 0 0 0"),
        ("key 0 0", "key 0 0"),
        ("key 33554431 1", "key 33554431 1"),
        ("touch -2147483648 1 2 3 4 -1.5e-7 1", "touch -2147483648 1 2 3 4 -1.5e-7 1"),
        ("size 1 8192", "size 1 8192"),
        ("ack 0 Aborted.☕ 65535", "ack 0 Aborted.☕ 65535"),
    ],
)
def test_values_in_range_pass(sent: str, passed: str) -> None:
    assert a_filter().receive(encode(*sent.split(" "))) == Upward(encode(*passed.split(" ")), acted=sent[0] not in "as")


@pytest.mark.parametrize(
    "sent",
    [
        *("mouse 65536 0 0", "mouse 0 -65536 0", "mouse 0 0 32", "mouse 0 0 -1", "mouse 1.5 0 0", "mouse NaN 0 0"),
        *(
            "mouse 01 0 0",
            "mouse +1 0 0",
            "mouse 1e3 0 0",
            "mouse ٣ 0 0",
            "mouse  0 0",
            "mouse 9999999999999999999999 0 0",
        ),
        *("key -1 1", "key 33554432 1", "key 65 2", "key 65 true", "key 0x41 1", "key a 1"),
        *("touch 0 0 0 0 0 361 0", "touch 0 0 0 0 0 0 1.01", "touch 0 0 0 0 0 Infinity 0", "touch x 0 0 0 0 0 0"),
        *("touch 2147483648 0 0 0 0 0 0", "touch 0 0 0 -1 0 0 0", "touch 0 0 0 0 0 0 -0.1", "touch 0 0 0 0 0 .5 0"),
        *("size 0 768", "size 1024 8193", "size -1 768", "size 1024.5 768"),
        *("ack -1 OK 0", "ack 4096 OK 0", "ack 1 OK 65536", "ack 1 a\nb 0", f"ack 1 {'x' * 257} 0", "ack 1 a\0b 0"),
        *("sync -1", "sync x", "sync 1700000000000.5"),
        *("clipboard 64 text/plain", "clipboard -1 text/plain", "clipboard 0 text/html", "clipboard x text/plain"),
    ],
)
def test_values_out_of_range_are_refused(sent: str) -> None:
    up = a_filter(clipboard=True)
    result = up.receive("3.nop;" + encode(*sent.split(" ")) + "3.nop;")
    assert result.text == "3.nop;"
    assert result.rejected is not None
    assert result.rejected.status is Status.CLIENT_BAD_REQUEST
    assert sent.split(" ")[0] in result.rejected.found


def test_sync_from_the_future_is_refused() -> None:
    up = UpwardFilter(role=Role.WATCHER)
    assert up.receive(encode("sync", 0)).rejected is not None
    up = a_filter()
    assert up.receive(encode("sync", SENT - 5)).text == encode("sync", SENT - 5)
    result = up.receive(encode("sync", SENT + 1))
    assert (result.text, str(result.rejected)) == (
        "",
        "The browser sent sync with a time that was never sent; expected the time of a sync from the server.",
    )


def test_sync_from_before_the_gateways_clock_was_set_back_is_left_out() -> None:
    up = a_filter()
    up.note_sync(SENT - 1000)
    assert up.receive(encode("sync", SENT)) == Upward()
    assert up.receive(encode("sync", SENT - 1000)).text == encode("sync", SENT - 1000)


def test_ping_of_the_tunnel_is_echoed_and_never_forwarded() -> None:
    ping = encode("", "ping", 1700000000123)
    for role in Role:
        assert a_filter(role).receive(ping + "3.nop;") == Upward("3.nop;", ping)


@pytest.mark.parametrize(
    "internal", ["0.;", "0.,4.ping;", "0.,4.ping,1.x;", "0.,4.ping,1.1,1.1;", "0.,6.ticket,3.abc;", "0.,4.uuid,1.1;"]
)
def test_other_internal_instructions_are_refused(internal: str) -> None:
    result = a_filter().receive(internal)
    assert (result.text, result.reply) == ("", "")
    assert result.rejected is not None


def test_nothing_passes_after_a_goodbye() -> None:
    up = a_filter()
    result = up.receive("10.disconnect;" + encode("key", 65, 1))
    assert result == Upward("10.disconnect;", disconnect=True)
    assert up.receive(encode("key", 65, 1)) == Upward(disconnect=True)


@pytest.mark.parametrize("opcode", ["blob", "end"])
def test_blob_and_end_belong_to_an_open_clipboard(opcode: str) -> None:
    instruction = encode(opcode, *CLIPBOARD[opcode])
    for before in ("", encode("clipboard", 1, "text/plain"), encode("clipboard", 0, "text/plain") + encode("end", 0)):
        up = a_filter(clipboard=True)
        up.receive(before)
        result = up.receive(instruction)
        assert result.text == ""
        assert str(result.rejected) == (
            f"The browser sent {opcode} for stream 0; expected the stream of an open clipboard."
        )


def test_clipboard_has_a_size() -> None:
    up = a_filter(clipboard=True)
    data = base64.b64encode(b"x" * 6048).decode()
    text = encode("clipboard", 0, "text/plain") + encode("blob", 0, data) * 43
    assert up.receive(text).text == text
    result = up.receive(encode("blob", 0, data))
    assert result.rejected is not None
    assert result.rejected.status is Status.CLIENT_OVERRUN


@pytest.mark.parametrize("data", ["aGVsbG8", "a", "=", "aGVs=bG8", "aGVsbG8===", "s3cret!!", "aGV\n"])
def test_clipboard_is_base64_and_is_never_told(data: str) -> None:
    up = a_filter(clipboard=True)
    result = up.receive(encode("clipboard", 0, "text/plain") + encode("blob", 0, data))
    assert result.rejected is not None
    assert result.rejected.expected == "data in base64"
    assert result.rejected.found == "blob with an argument 2 that is out of range or of another kind"


def test_only_what_a_person_does_counts_as_acting() -> None:
    for opcode, args in {**INPUT, **KEEPING_UP, **CLIPBOARD}.items():
        up = a_filter(clipboard=True)
        if opcode in ("blob", "end"):
            up.receive(encode("clipboard", 0, "text/plain"))
        assert up.receive(encode(opcode, *args)).acted is (opcode in ("mouse", "key", "touch", "clipboard"))


@pytest.mark.parametrize(("data", "offset", "found"), FAULTS)
def test_broken_text_is_rejected_and_not_raised(data: bytes, offset: int, found: str) -> None:
    result = a_filter().receive(b"3.nop;" + data)
    assert result.text in ("3.nop;", "3.nop;3.nop;")
    assert result.rejected is not None


def test_instruction_may_come_in_two_messages() -> None:
    up = a_filter()
    assert up.receive("5.mouse,2.1") == Upward()
    assert up.receive("0,2.20,1.1;").text == encode("mouse", 10, 20, 1)


@given(st.lists(st.sampled_from("0123456789.,;-keymousync "), max_size=40).map("".join), st.sampled_from(Role))
def test_whatever_comes_only_whole_allowed_instructions_pass(text: str, role: Role) -> None:
    up = a_filter(role, clipboard=True)
    passed = decode(up.receive(text).text + up.receive("3.nop;" + text).text)
    allowed = {**KEEPING_UP, **(INPUT | CLIPBOARD if role is Role.CONTROLLER else {})}
    assert all(len(instruction.args) == len(allowed[instruction.opcode]) for instruction in passed)
