"""A browser that is slow but takes what was sent: the tunnel alone, between streams of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from sessions import tunnel
from sessions.guacamole import Role, Status, encode
from sessions.standing import Ending

FLOOD = encode("name", "x" * 1000).encode() * 1000


async def test_slow_browser_is_called_slow_though_it_takes_longer_than_guacd_may_be_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"HIGH_WATER_BYTES": 131_072, "PATIENCE_S": 0.1, "NOP_EVERY_S": 0.02}.items():
        monkeypatch.setattr(tunnel, name, value)
    left_guacd = asyncio.Event()
    taken: list[str] = []

    async def guacd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(FLOOD)
        try:
            while await reader.read(4096):
                pass
        except ConnectionError:
            pass  # left while some of the flood was on its way
        monkeypatch.setattr(tunnel, "SILENCE_S", 0.1)  # not while the flood may only be held up
        left_guacd.set()
        writer.transport.abort()

    async def send(text: str) -> None:
        await left_guacd.wait()
        await asyncio.sleep(0.15)
        taken.append(text)

    async with await asyncio.start_server(guacd, "127.0.0.1") as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], limit=32 * 1024)
        pump = tunnel.Tunnel(reader, writer, role=Role.WATCHER, rest=b"", arguments={}, send=send)
        async with asyncio.timeout(60):
            ending: Ending | None = await pump.run()

    assert ending is not None and ending.status == Status.SERVER_BUSY, ending
    assert pump.backlog_bytes == 0 and len("".join(taken)) > 131_072 * 0.9
