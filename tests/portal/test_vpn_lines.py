"""The lines between machines and the VPN server, on loopback: late, lost, held back, and told so while they run."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from portal.demo.errors import DemoError
from portal.demo.vpn.lines import Lines, Place, Quality, Way, read_quality, tell
from tests.ports import free_ports
from tests.waiting import LONG_S


class Echo(asyncio.DatagramProtocol):
    transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.transport.sendto(data, address)


@asynccontextmanager
async def running(folder: Path, *ways: Way) -> AsyncIterator[Lines]:
    lines, stop, ready = Lines(folder / "lines.sock", list(ways)), asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(lines.run(stop, ready.set))
    await asyncio.wait([asyncio.create_task(ready.wait()), task], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield lines
    finally:
        stop.set()
        await task


@asynccontextmanager
async def udp(folder: Path) -> AsyncIterator[tuple[Lines, socket.socket]]:
    """A line to an echo, and a socket that is connected to its entry."""
    loop, (far, near) = asyncio.get_running_loop(), free_ports(2, kind=socket.SOCK_DGRAM)
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", far))
    way = Way("A1", "udp", Place(None, "127.0.0.1", near), Place(None, "127.0.0.1", far), "127.0.0.9")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", near))
        async with running(folder, way) as lines:
            yield lines, client
    transport.close()


async def answer(client: socket.socket, data: bytes, *, within_s: float = LONG_S) -> float:
    """How long the echo took; TimeoutError when there is none."""
    loop, began = asyncio.get_running_loop(), time.monotonic()
    client.send(data)
    assert await asyncio.wait_for(loop.sock_recv(client, 2048), within_s) == data
    return time.monotonic() - began


async def takes_between(least_s: float, most_s: float, client: socket.socket, data: bytes) -> None:
    """Each echo takes at least so long, and one of them less than so long, when nothing else holds it up."""
    async with asyncio.timeout(2 * LONG_S):
        took_s = most_s
        while took_s >= most_s:
            took_s = await answer(client, data)
            assert least_s <= took_s


async def test_slow_line_takes_its_time_in_each_direction(tmp_path: Path) -> None:
    async with udp(tmp_path) as (lines, client):
        lines.change("A1", Quality(delay_ms=0))
        await takes_between(0, 0.1, client, b"quick")
        lines.change("A1", Quality(delay_ms=100))
        await takes_between(0.2, 0.6, client, b"slow")


async def test_dead_line_carries_nothing_and_carries_again_when_it_is_good(tmp_path: Path) -> None:
    async with udp(tmp_path) as (lines, client):
        lines.change("A1", Quality(is_dead=True))
        with pytest.raises(TimeoutError):
            await answer(client, b"lost", within_s=0.2)
        lines.change("A1", Quality())
        await answer(client, b"back")
        counted = lines.change("A1", None)
        assert counted["up"] == {"carried": 1, "dropped": 1}


async def test_lossy_line_loses_about_its_share(tmp_path: Path) -> None:
    async with udp(tmp_path) as (lines, client):
        lines.change("A1", Quality(loss=0.5))
        for _ in range(400):
            client.send(b"x")
            await asyncio.sleep(0)
        up = lines.lines["A1"].up
        async with asyncio.timeout(LONG_S):
            while up.carried + up.dropped < 400:
                await asyncio.sleep(0.01)
        assert 130 < up.dropped < 270


async def test_narrow_line_takes_as_long_as_its_bytes_need(tmp_path: Path) -> None:
    async with udp(tmp_path) as (lines, client):
        lines.change("A1", Quality(kbit_s=80))  # 1000 bytes take 0.1 s, each way
        await takes_between(0.2, 0.7, client, b"x" * 1000)


@pytest.mark.parametrize("kind", ["tcp", "door"])
async def test_stream_arrives_whole_in_order_and_its_end_too(tmp_path: Path, kind: str) -> None:
    near, far = free_ports(2)

    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", far)
    way = Way("A1", kind, Place(None, "127.0.0.1", near), Place(None, "127.0.0.1", far))
    async with server, running(tmp_path, way) as lines:
        lines.lines["A1"].quality = Quality(delay_ms=20, jitter_ms=20, loss=0.02)
        reader, writer = await asyncio.open_connection("127.0.0.1", near)
        sent = b"".join(b"%06d " % number for number in range(30_000))
        writer.write(sent)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 2 * LONG_S) == sent.upper()
        writer.close()


async def test_line_is_told_by_its_socket_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    async with udp(tmp_path) as (lines, _):
        await asyncio.to_thread(tell, lines._control, "A1", "slow")
        assert lines.lines["A1"].quality == read_quality("slow")
        for line, quality, words in (
            ("B7", "slow", "Found line 'B7', expected one of A1"),
            ("A1", "purple", "Found 'purple', expected one of good, slow"),
        ):
            with pytest.raises(DemoError, match=words):
                await asyncio.to_thread(tell, lines._control, line, quality)
        assert lines.lines["A1"].quality == read_quality("slow")


def test_nobody_is_told_that_nobody_carries(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="make run-vpn"):
        tell(tmp_path / "lines.sock", "A1", "slow")


@pytest.mark.parametrize("value", [{"loss": 2}, {"delay_ms": -1}, {"colour": 1}, 7, None, "dead as a dodo"])
def test_quality_that_cannot_be_is_refused(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        read_quality(value)
