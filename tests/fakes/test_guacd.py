"""The fake guacd itself: tests lean on it, so it must be what it says."""

from __future__ import annotations

import socket

import pytest

from tests.fakes.guacd import FakeGuacd, Fault, instruction
from tests.fakes.guacd_words import ARGUMENT_NAMES
from tests.waiting import LONG_S

HELLO = (
    instruction("size", 1024, 768, 96) + instruction("audio") + instruction("video")
    + instruction("image", "image/png")
)  # fmt: skip


def _dial(guacd: FakeGuacd) -> socket.socket:
    return socket.create_connection(("127.0.0.1", guacd.port), timeout=LONG_S)


def _read_until(sock: socket.socket, mark: str) -> str:
    text = ""
    while mark not in text:
        data = sock.recv(65536)
        assert data, f"the end came before {mark!r}; read {text!r}"
        text += data.decode()
    return text


def _enter(guacd: FakeGuacd, select: str) -> tuple[socket.socket, str]:
    sock = _dial(guacd)
    sock.sendall(instruction("select", select).encode())
    _read_until(sock, ";")
    values = ["secret ☕" if name == "password" else "" for name in ARGUMENT_NAMES]
    sock.sendall((HELLO + instruction("connect", "VERSION_1_5_0", *values)).encode())
    return sock, _read_until(sock, "4.sync,")


def test_first_user_opens_a_desktop_and_a_second_joins_it() -> None:
    with FakeGuacd() as guacd:
        keeper, _ = _enter(guacd, "rdp")
        (owner,) = guacd.wait_until(lambda: guacd.owners)
        assert owner.arguments["password"] == "secret ☕"
        assert owner.handshake["size"] == ("1024", "768", "96")
        viewer, text = _enter(guacd, owner.connection_id)
        assert "3.img," in text
        assert len(guacd.joiners) == 1
        keeper.close()
        guacd.wait_until(lambda: not guacd.owners)
        assert len(guacd.joiners) == 1, "the desktop outlives its first user"
        viewer.close()
        guacd.wait_until(lambda: not guacd.desktops)
        assert [c.violations for c in guacd.connections] == [[], []]


def test_unknown_desktop_is_refused() -> None:
    with FakeGuacd() as guacd, _dial(guacd) as sock:
        sock.sendall(instruction("select", "$nobody").encode())
        assert "3.516;" in _read_until(sock, ";")


def test_invented_sync_is_a_violation() -> None:
    with FakeGuacd() as guacd:
        keeper, _ = _enter(guacd, "rdp")
        keeper.sendall(instruction("sync", 99).encode())
        guacd.wait_until(lambda: guacd.connections[0].violations)
        keeper.close()


@pytest.mark.parametrize(
    ("fault", "mark"),
    [(Fault.NONSENSE, "HTTP/1.1"), (Fault.WRONG_LENGTH, "99."), (Fault.HALF_ARGS, "4.args,")],
)
def test_select_is_answered_wrongly_when_told_so(fault: Fault, mark: str) -> None:
    with FakeGuacd(fault=fault) as guacd, _dial(guacd) as sock:
        sock.sendall(instruction("select", "rdp").encode())
        _read_until(sock, mark)


def test_flood_stops_when_nobody_reads() -> None:
    with FakeGuacd(frame_interval_s=None, send_buffer=65536) as guacd:
        sock, _ = _enter(guacd, "rdp")
        (owner,) = guacd.owners
        guacd.start_flood(total=50_000_000)
        guacd.wait_until(lambda: owner.bytes_sent > 100_000)
        read = 0
        while read < 1_000_000:
            read += len(sock.recv(65536))
        assert owner.bytes_sent < 20_000_000
        sock.close()


def test_killed_guacd_refuses_and_comes_back_empty() -> None:
    with FakeGuacd() as guacd:
        _enter(guacd, "rdp")
        guacd.kill(reset=True)
        with pytest.raises(ConnectionRefusedError):
            _dial(guacd)
        guacd.restart()
        assert not guacd.desktops
        _enter(guacd, "rdp")
