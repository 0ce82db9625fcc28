"""A simulated machine that runs in a namespace, as the tests see it: through its simulator's socket."""

from __future__ import annotations

import base64
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.simulator.config import MachineConfig
from agent.simulator.fleet import ask_simulator


@dataclass
class Rescue:
    """What the person at the machine reads."""

    state: str
    message: str


class DistantMachine:
    """Answers what `SimulatedMachine` answers, as far as the tests and `Person` ask."""

    def __init__(self, config: MachineConfig) -> None:
        self.config = config

    def press(self) -> None:
        """Presses help and returns as soon as the machine shows anything."""
        for _ in ask_simulator(self.config.folder, {"do": "press"}):
            return

    def cancel(self) -> None:
        self._ask("cancel")

    @property
    def state(self) -> dict[str, Any]:
        return self._ask("state")

    @property
    def screen(self) -> dict[str, Any]:
        return dict(self.state["screen"])

    @property
    def rescue(self) -> Rescue:
        rescue = self.state["rescue"]
        return Rescue(rescue["state"], rescue["message"])

    @property
    def rdp_port(self) -> int | None:
        port = self.state["rdp_port"]
        return int(port) if port else None

    def pixel(self, x: int, y: int) -> tuple[int, int, int]:
        width, rows = _decode(base64.b64decode(self._ask("screenshot")["png"]))
        assert x < width
        red, green, blue = rows[y][3 * x : 3 * x + 3]
        return red, green, blue

    def wait_for(self, holds: Callable[[DistantMachine], bool], *, timeout_s: float = 40.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds(self):
            assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain; the machine: {self.state}"
            time.sleep(0.1)

    def _ask(self, command: str) -> dict[str, Any]:
        return next(iter(ask_simulator(self.config.folder, {"do": command})))


def _decode(png: bytes) -> tuple[int, list[bytes]]:
    """Width and lines of a PNG in RGB whose lines have no filter (agent/simulator/png.py makes such)."""
    at, packed, width = 8, b"", 0
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width = struct.unpack(">I", body[:4])[0]
        elif kind == b"IDAT":
            packed += body
        at += 12 + length
    raw, stride = zlib.decompress(packed), 1 + 3 * width
    lines = [raw[start : start + stride] for start in range(0, len(raw), stride)]
    assert all(line[0] == 0 for line in lines), "found a filtered line, expected what the simulator makes"
    return width, [line[1:] for line in lines]
