"""The handshake: one value a name, only allowed names, and nothing secret anywhere but on the wire."""

from __future__ import annotations

import traceback

import pytest

from sessions.guacamole import (
    ALLOWED_ARGUMENTS,
    ArgumentRefused,
    ConnectionRefused,
    Decoder,
    Display,
    Handshake,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    TruncatedInput,
    decode,
    encode,
)
from tests.fakes.guacd_words import ARGUMENT_NAMES

NAMES_1_3_0 = ARGUMENT_NAMES[:76]
# 1.6 without SSH support has no SFTP names.
NAMES_1_6 = tuple(name for name in ARGUMENT_NAMES if "sftp" not in name)
ID = "$6f9c2d1e-0000-4000-8000-00000000a1a1"
PASSWORD = "pa;ss,w.örd😀"
OWNER = {
    "hostname": "127.64.0.9",
    "port": "3389",
    "username": "rescue-user",
    "password": PASSWORD,
    "security": "nla",
    "ignore-cert": "true",
    "color-depth": "24",
}


def args(*names: str) -> bytes:
    return encode("args", *names).encode()


def ready(connection_id: str = ID) -> bytes:
    return encode("ready", connection_id).encode()


def connect_values(sent: bytes, names: tuple[str, ...]) -> dict[str, str]:
    """Return what `connect` says by name, having checked that there is one value a name."""
    connect = decode(sent)[-1]
    assert connect.opcode == "connect"
    return dict(zip(names, connect.args, strict=True))


@pytest.mark.parametrize(
    ("version", "names", "spoken"),
    [
        ("VERSION_1_3_0", NAMES_1_3_0, "VERSION_1_3_0"),
        ("VERSION_1_5_0", NAMES_1_6, "VERSION_1_5_0"),
        ("VERSION_1_6_0", ARGUMENT_NAMES, "VERSION_1_5_0"),
        ("VERSION_2_0_0", tuple(reversed(NAMES_1_6)), "VERSION_1_5_0"),
        ("VERSION_1_0_0", NAMES_1_3_0, "VERSION_1_0_0"),
    ],
)
def test_desktop_is_opened_with_one_value_a_name(version: str, names: tuple[str, ...], spoken: str) -> None:
    handshake = Handshake.open_rdp(OWNER, name="Alice", timezone="Europe/Rome", display=Display(800, 600, 120))
    assert handshake.start() == b"6.select,3.rdp;"
    sent = handshake.receive(args(version, *names, "a-name-of-tomorrow", "enable-everything"))
    instructions = decode(sent)
    opcodes = ["size", "audio", "video", "image"]
    opcodes += ["timezone"] * (version != "VERSION_1_0_0") + ["name"] * (spoken == "VERSION_1_5_0")
    assert [instruction.opcode for instruction in instructions] == [*opcodes, "connect"]
    assert instructions[0].args == ("800", "600", "120")
    assert instructions[1].args == instructions[2].args == ()
    values = connect_values(sent, ("VERSION", *names, "a-name-of-tomorrow", "enable-everything"))
    assert {name: value for name, value in values.items() if value} == {
        "VERSION": spoken,
        "disable-audio": "true",
        **OWNER,
    }
    assert not handshake.done
    assert handshake.receive(ready()) == b""
    assert handshake.done
    assert handshake.connection_id == ID
    assert handshake.unanswered == frozenset()


def test_guacd_without_a_version_is_answered_without_one() -> None:
    handshake = Handshake.open_rdp(OWNER, name="Alice", timezone="Europe/Rome")
    handshake.start()
    names = ("hostname", "port", "username", "password")
    values = connect_values(handshake.receive(args(*names)), names)
    assert values == {name: OWNER[name] for name in names}
    assert handshake.version == (1, 0, 0)
    assert handshake.unanswered == {"security", "ignore-cert", "color-depth", "disable-audio"}


@pytest.mark.parametrize("read_only", [True, False])
def test_joiner_sends_no_credentials_and_says_whether_it_only_looks(read_only: bool) -> None:
    handshake = Handshake.join(ID, read_only=read_only, arguments={"disable-paste": "true"})
    assert handshake.start() == encode("select", ID).encode()
    names = ("VERSION", *NAMES_1_3_0)
    values = connect_values(handshake.receive(args("VERSION_1_3_0", *NAMES_1_3_0)), names)
    expected = {"VERSION": "VERSION_1_3_0", "disable-paste": "true", **({"read-only": "true"} if read_only else {})}
    assert {name: value for name, value in values.items() if value} == expected
    handshake.receive(ready())
    assert handshake.connection_id == ID


def test_same_at_any_split_and_the_rest_is_handed_over() -> None:
    frame = "4.size,1.0,4.1024,3.768;4.name,1.☕;4.sync,13.17".encode()
    script = args("VERSION_1_5_0", *NAMES_1_6) + b"3.nop;" + ready() + frame
    for cut in range(len(script) + 1):
        handshake = Handshake.open_rdp(OWNER)
        handshake.start()
        sent = b""
        rest = b""
        for piece in (script[:cut], script[cut:]):
            if handshake.done:
                rest += piece
            else:
                sent += handshake.receive(piece)
                if handshake.done:
                    rest += handshake.take_rest()
        assert connect_values(sent, ("VERSION", *NAMES_1_6))["password"] == PASSWORD
        assert handshake.connection_id == ID
        assert rest == frame


@pytest.mark.parametrize(
    "name",
    sorted({*ARGUMENT_NAMES, "hostname ", "Hostname", "VERSION_1_5_0", ""} - ALLOWED_ARGUMENTS),
)
def test_name_outside_of_the_list_cannot_be_set(name: str) -> None:
    with pytest.raises(ArgumentRefused) as caught:
        Handshake.open_rdp({**OWNER, name: "/s3cret"})
    assert caught.value.name == name
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ArgumentRefused):
        Handshake.join(ID, read_only=True, arguments={name: "true"})


def test_list_holds_nothing_that_reaches_beyond_the_desktop() -> None:
    for name in ALLOWED_ARGUMENTS:
        for word in (
            "drive",
            "sftp",
            "recording",
            "gateway",
            "wol",
            "remote-app",
            "printer",
            "printing",
            "program",
            "input",
            "channel",
        ):
            assert word not in name


@pytest.mark.parametrize("missing", ["hostname", "username", "password"])
@pytest.mark.parametrize("value", ["", None])
def test_owner_without_credentials_is_refused_before_anything_is_sent(missing: str, value: str | None) -> None:
    arguments = {name: given for name, given in OWNER.items() if name != missing}
    if value is not None:
        arguments[missing] = value
    with pytest.raises(ArgumentRefused, match=f"{missing}: nothing"):
        Handshake.open_rdp(arguments)


@pytest.mark.parametrize("name", ["hostname", "port", "username", "password", "domain", "security"])
def test_joiner_with_what_only_an_owner_has_is_refused(name: str) -> None:
    with pytest.raises(ArgumentRefused, match=f"{name}: a value for someone who joins"):
        Handshake.join(ID, read_only=False, arguments={name: OWNER.get(name, "x")})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[
            ("security", "nla "),
            ("security", "NLA"),
            ("security", "none"),
            ("port", "0"),
            ("port", "65536"),
            ("port", "x"),
        ],
        *[("port", "٣"), ("hostname", "a b"), ("hostname", "a\n"), ("hostname", "x" * 256), ("ignore-cert", "yes")],
        *[("password", "a\0b"), ("password", "\ud83d"), ("password", "x" * 8193), ("username", "x" * 10_000)],
        *[("width", "8193"), ("dpi", "0"), ("color-depth", "15"), ("resize-method", "none"), ("read-only", "1")],
        *[("timezone", "../etc"), ("timezone", "Europe Rome"), ("client-name", "a\tb"), ("server-layout", "IT")],
    ],
)
def test_value_that_cannot_be_right_is_refused_without_being_told(name: str, value: str) -> None:
    with pytest.raises(ArgumentRefused) as caught:
        Handshake.open_rdp({**OWNER, name: value})
    assert caught.value.name == name
    assert caught.value.found == f"{name}: a value that is not allowed"


@pytest.mark.parametrize("password", ["a;b,c.d", "5.evil,0.;", "\"'\\", "😀" * 2000, "x" * 8192, " ", "\n"])
def test_credentials_with_any_characters_arrive_as_they_are(password: str) -> None:
    handshake = Handshake.open_rdp({**OWNER, "password": password})
    handshake.start()
    sent = handshake.receive(args("VERSION_1_3_0", *NAMES_1_3_0))
    assert connect_values(sent, ("VERSION", *NAMES_1_3_0))["password"] == password


@pytest.mark.parametrize("connection_id", ["", "$", "rdp", "vnc", "6f9c2d1e", "$a b", "$" + "x" * 64, "$é", "$a\n"])
def test_only_an_id_can_be_joined(connection_id: str) -> None:
    with pytest.raises(ArgumentRefused):
        Handshake.join(connection_id, read_only=True)


@pytest.mark.parametrize(("width", "height", "dpi"), [(0, 768, 96), (1024, 8193, 96), (1024, 768, 0)])
def test_display_of_no_size_is_refused(width: int, height: int, dpi: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        Display(width, height, dpi)


NONSENSE = [
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "'H'"),
    (b"SSH-2.0-OpenSSH\r\n", "'S'"),
    (b"\x16\x03\x01\x02\x00", "'\\x16'"),
    (b"\xff\xfe", "not UTF-8"),
    (b"5.ready,2.$x;", "'ready'"),
    (b"4.sync,1.0;", "'sync'"),
    (b"8.required,8.password;", "'required'"),
    (args("VERSION_x", "hostname"), "VERSION_x"),
    (args("VERSION_1_5", "hostname"), "VERSION_1_5"),
    (args("VERSION_1_5_0"), "args without 'hostname'"),
    (args(), "args without 'hostname'"),
    (args("VERSION_1_5_0", "hostname", "port", "username"), "args without 'password'"),
    (args("VERSION_1_5_0", "hostname", "username", "password"), "args without 'port'"),
    (args("VERSION_1_5_0", *NAMES_1_6, "password"), "'password' twice"),
    (args("VERSION_1_5_0", *NAMES_1_6) + args("VERSION_1_5_0", *NAMES_1_6), "'args'"),
    (args("VERSION_1_5_0", *NAMES_1_6) + b"5.ready;", "ready without the id"),
    (args("VERSION_1_5_0", *NAMES_1_6) + b"5.ready,3.rdp;", "ready without the id"),
    (args("VERSION_1_5_0", *NAMES_1_6) + b"5.ready,2.$x,2.$y;", "ready without the id"),
    (args("VERSION_1_5_0", *NAMES_1_6) + b"4.size,1.0,1.1,1.1;", "'size'"),
]


@pytest.mark.parametrize(("answer", "found"), NONSENSE)
def test_nonsense_is_told_with_found_and_expected_and_without_secrets(answer: bytes, found: str) -> None:
    handshake = Handshake.open_rdp(OWNER)
    handshake.start()
    with pytest.raises(RemoteProtocolError) as caught:
        handshake.receive(answer)
    assert found in caught.value.found
    assert caught.value.expected
    assert not handshake.done
    assert_no_secret(handshake, caught.value)
    with pytest.raises(RuntimeError, match="failed"):
        handshake.receive(ready())


def test_watcher_is_not_let_in_by_a_guacd_that_knows_no_read_only() -> None:
    handshake = Handshake.join(ID, read_only=True)
    handshake.start()
    with pytest.raises(RemoteProtocolError, match="args without 'read-only'"):
        handshake.receive(args("VERSION_1_0_0", "hostname", "port", "username", "password"))


def test_ready_for_another_connection_is_told() -> None:
    handshake = Handshake.join(ID, read_only=True)
    handshake.start()
    handshake.receive(args("VERSION_1_3_0", *NAMES_1_3_0))
    with pytest.raises(RemoteProtocolError, match="ready for another connection"):
        handshake.receive(ready("$other"))


@pytest.mark.parametrize(
    ("error", "status"), [("5.error,3.No.,3.519;", 519), ("5.error,0.,3.516;", 516), ("5.error;", 512)]
)
@pytest.mark.parametrize("before", [b"", args("VERSION_1_3_0", *NAMES_1_3_0)])
def test_error_of_guacd_is_told_by_its_code(before: bytes, error: str, status: int) -> None:
    handshake = Handshake.open_rdp(OWNER)
    handshake.start()
    with pytest.raises(ConnectionRefused) as caught:
        handshake.receive(before + error.encode())
    assert caught.value.status == status
    assert_no_secret(handshake, caught.value)


@pytest.mark.parametrize("answer", [b"", b"4.ar", args("VERSION_1_3_0", *NAMES_1_3_0)[:-1]])
def test_guacd_that_hangs_up_in_the_middle_is_told(answer: bytes) -> None:
    handshake = Handshake.open_rdp(OWNER)
    handshake.start()
    assert handshake.receive(answer) == b""
    with pytest.raises(TruncatedInput, match="the rest of the handshake"):
        handshake.end_of_input()


def test_end_of_input_after_ready_is_no_fault_of_the_handshake() -> None:
    handshake = Handshake.open_rdp(OWNER)
    handshake.start()
    handshake.receive(args("VERSION_1_3_0", *NAMES_1_3_0) + ready())
    handshake.end_of_input()
    assert handshake.done


def test_unknown_arguments_of_an_old_guacd_are_named() -> None:
    handshake = Handshake.open_rdp({**OWNER, "cert-fingerprints": "AA:BB", "disable-gfx": ""})
    handshake.start()
    handshake.receive(args("VERSION_1_3_0", *NAMES_1_3_0))
    assert handshake.unanswered == {"cert-fingerprints"}


def test_arguments_that_are_too_long_together_are_our_fault() -> None:
    long = {"username": "😀" * 5000, "password": "😀" * 5000}
    handshake = Handshake.open_rdp({**OWNER, **long})
    handshake.start()
    with pytest.raises(LocalProtocolError, match="an instruction of"):
        handshake.receive(args("VERSION_1_3_0", *NAMES_1_3_0))


def test_handshake_starts_once() -> None:
    handshake = Handshake.open_rdp(OWNER)
    with pytest.raises(RuntimeError, match="new"):
        handshake.receive(b"3.nop;")
    handshake.start()
    with pytest.raises(RuntimeError, match="started already"):
        handshake.start()


def test_repr_shows_no_secret_at_any_stage() -> None:
    handshake = Handshake.open_rdp(OWNER)
    stages = [repr(handshake)]
    handshake.start()
    stages.append(repr(handshake))
    sent = handshake.receive(args("VERSION_1_3_0", *NAMES_1_3_0))
    stages += [repr(handshake), repr(list(Decoder().feed(sent)))]
    handshake.receive(ready())
    stages += [repr(handshake), repr(Handshake.join(ID, read_only=True))]
    for stage in stages:
        assert PASSWORD not in stage
        assert "rescue-user" not in stage
        assert ID not in stage


def assert_no_secret(handshake: Handshake, error: ProtocolError) -> None:
    words = [str(error), repr(error), repr(handshake), *traceback.format_exception(error)]
    cause: BaseException | None = error
    while cause is not None:
        words += [repr(cause), repr(cause.args), repr(vars(cause))]
        cause = cause.__cause__ or cause.__context__
    for word in words:
        assert PASSWORD not in word
        assert "rescue-user" not in word
