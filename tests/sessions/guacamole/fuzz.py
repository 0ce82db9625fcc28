"""A coverage-guided fuzzer for the protocol package (T1); not part of `make test`, since it has no end of its own.

    .venv/bin/python -m pip install atheris
    .venv/bin/python -m tests.sessions.guacamole.fuzz -max_total_time=600

What comes in is cut at random places and goes through the decoder, both filters and a handshake. Whatever it is, only
the package's own errors may come out, where it was cut must not matter, and what a filter lets through must be on its
list when a plain decoder reads it again.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports():
    from sessions.guacamole import (
        Decoder,
        Display,
        DownwardFilter,
        Handshake,
        ProtocolError,
        RemoteProtocolError,
        Role,
        UpwardFilter,
        decode,
    )

_NEVER_DOWN = {"nest", "required", "argv", "file", "filesystem", "body", "pipe", "clipboard", "audio", "video"}
_NEVER_UP = {"select", "connect", "ready", "argv", "file", "pipe", "put", "get", "audio", "video", "clipboard"}


def _decoded(pieces: list[bytes]) -> tuple[list[tuple[str, ...]], bool]:
    """The instructions read before the first fault, and whether there was one."""
    decoder = Decoder()
    found: list[tuple[str, ...]] = []
    try:
        for piece in pieces:
            found.extend((one.opcode, *one.args) for one in decoder.feed(piece))
    except RemoteProtocolError:
        return found, True
    return found, False


def _downward(pieces: list[bytes]) -> str:
    passing, out = DownwardFilter(), []
    try:
        for piece in pieces:
            result = passing.receive(piece)
            out.append(result.text)
            if result.ended:
                break
    except RemoteProtocolError:
        pass  # what came before is still all that a browser has had
    return "".join(out)


def _handshake(pieces: list[bytes]) -> None:
    secret = "canary-7Yk2"
    arguments = {"hostname": "127.64.0.1", "port": "3389", "username": "once", "password": secret}
    handshake = Handshake.open_rdp(arguments, display=Display(1024, 768, 96), name="Portafilter")
    handshake.start()
    try:
        for piece in pieces:
            if handshake.done:
                break
            handshake.receive(piece)
    except ProtocolError as error:
        assert secret not in str(error)


def one_input(data: bytes) -> None:
    """Raises whatever should not have happened."""
    if len(data) < 2:
        return
    cut, stream = data[0], data[1:]
    at = 1 + cut % max(1, len(stream))
    pieces = [stream[:at], stream[at:]]
    assert _decoded([stream]) == _decoded(pieces), "where the bytes are cut must not matter"
    down = _downward(pieces)
    assert not _NEVER_DOWN & {one.opcode for one in decode(down)}
    for role in Role:
        upward = UpwardFilter(role=role)
        upward.note_sync(1)
        result = upward.receive(stream.decode(errors="replace"))
        assert not _NEVER_UP & {one.opcode for one in decode(result.text)}
    _handshake(pieces)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
