"""Instructions and their one spelling, for encoder and decoder alike; and text that is not Guacamole's."""

from __future__ import annotations

from sessions.guacamole import MAX_ELEMENT_LENGTH, MAX_ELEMENTS

# (opcode, arguments, text on the wire)
SPELLINGS: list[tuple[str, tuple[str, ...], str]] = [
    ("nop", (), "3.nop;"),
    ("", ("ping", "1700000000000"), "0.,4.ping,13.1700000000000;"),
    ("", (), "0.;"),
    ("size", ("0", "1024", "768"), "4.size,1.0,4.1024,3.768;"),
    ("audio", (), "5.audio;"),
    ("connect", ("VERSION_1_5_0", "", ""), "7.connect,13.VERSION_1_5_0,0.,0.;"),
    # Separators inside of values are values.
    ("name", ("a,b;c.d",), "4.name,7.a,b;c.d;"),
    ("name", ("1.x;4.sync,1.0;",), "4.name,15.1.x;4.sync,1.0;;"),
    ("name", (";",), "4.name,1.;;"),
    ("name", (",", "."), "4.name,1.,,1..;"),
    ("name", ("\n\0\r",), "4.name,3.\n\0\r;"),
    # Lengths count code points: not bytes, not UTF-16 units.
    ("name", ("è",), "4.name,1.è;"),
    ("name", ("caffè ☕",), "4.name,7.caffè ☕;"),
    ("name", ("🧉",), "4.name,1.🧉;"),
    ("name", ("e\u0301👩‍🔧", "\U0010ffff"), "4.name,5.e\u0301👩‍🔧,1.\U0010ffff;"),
    ("name", ("😀;4.nest,1.0,0.", "x"), "4.name,15.😀;4.nest,1.0,0.,1.x;"),
    ("☕", ("☕",), "1.☕,1.☕;"),
    # As long as it may be.
    ("blob", ("1", "A" * MAX_ELEMENT_LENGTH), f"4.blob,1.1,8192.{'A' * MAX_ELEMENT_LENGTH};"),
    ("name", ("😀" * 8000,), f"4.name,8000.{'😀' * 8000};"),
    ("image", ("",) * (MAX_ELEMENTS - 1), f"5.image{',0.' * (MAX_ELEMENTS - 1)};"),
]

# (text or bytes, characters before the fault, what the error says was found)
FAULTS: list[tuple[bytes, int, str]] = [
    (b";", 0, "';'"),
    (b"sync;", 0, "'s'"),
    (b".sync;", 0, "'.'"),
    (b"-4.sync;", 0, "'-'"),
    (b"+4.sync;", 0, "'+'"),
    (b" 4.sync;", 0, "' '"),
    (b"04.sync;", 1, "'4'"),
    (b"00.;", 1, "'0'"),
    (b"0x4.sync;", 1, "'x'"),
    (b"4,sync;", 1, "','"),
    (b"1000000.x;", 5, "'0'"),
    ("٤.sync;".encode(), 0, "'\\u0664'"),
    (b"4.sync 1.0;", 6, "' '"),
    (b"4.sync,1.0.;", 10, "'.'"),
    (b"4.syncs;", 6, "'s'"),
    (b"3.nop;\n3.nop;", 6, "'\\n'"),
    (b"3.nop;3.nopp;", 11, "'p'"),
    # One character more or less than there is: the JavaScript before 1.5.2 counted UTF-16 units.
    ("4.name,2.😀;3.nop;".encode(), 11, "'3'"),
    (b"4.name,8193.", 7, "an element of 8193 characters"),
    (b"4.name,99999.", 7, "an element of 99999 characters"),
    (b"1.x" + b",1.x" * MAX_ELEMENTS + b";", 4 * MAX_ELEMENTS - 1, "more than 128 elements"),
    (b"1.x" + (b",8192." + b"y" * 8192) * 4 + b";", 0, "an instruction of more than 32768 characters"),
    # Not UTF-8: a stray continuation, an overlong slash, a surrogate, beyond Unicode, Latin-1.
    (b"4.name,1.\x80;", 9, "bytes that are not UTF-8"),
    (b"4.name,1.\xc0\xaf;", 9, "bytes that are not UTF-8"),
    (b"4.name,1.\xed\xa0\x80;", 9, "bytes that are not UTF-8"),
    (b"4.name,1.\xf4\x90\x80\x80;", 9, "bytes that are not UTF-8"),
    (b"4.name,1.\xe8;", 9, "bytes that are not UTF-8"),
    (b"3.nop;\xff", 6, "bytes that are not UTF-8"),
]

# Beginnings of something that may yet become an instruction.
HALVES: list[bytes] = [
    b"3",
    b"3.",
    b"3.no",
    b"3.nop",
    b"3.nop,",
    b"3.nop,0",
    b"3.nop;4.sync,13.17",
    b"4.name,1.\xf0\x9f\x98",
    "4.name,2.😀".encode(),
    b"8192.",
]
