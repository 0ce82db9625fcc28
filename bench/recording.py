"""A recording of a real desktop: what guacd sends of a simulated machine while somebody clicks and types there."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from agent.simulator import SimulatedMachine
from bench import machine as rescue
from bench.figures import RESULTS
from bench.server import server
from bench.wire import Guacd, instruction, newest_sync

_PATH = RESULTS / "recording.guac"
_SECONDS = 15.0
_KEYS = ("rinse", "reset_grinder", "test_drink", "clear_fault")


def recording() -> Path:
    """The recording's file, made now if there is none yet; whole instructions that end with a frame's end."""
    if not _PATH.exists():
        stream = _record()
        RESULTS.mkdir(exist_ok=True)
        _PATH.write_bytes(stream)
    return _PATH


def _record() -> bytes:
    data = bytearray()
    with server() as one, rescue.simulated(one) as machine:
        session_id, _ = rescue.press(one, machine)
        desktop = one.rows_tool("desktop", session=session_id)
        user = Guacd(desktop["port"], desktop["connection_id"], {"read-only": ""})
        data += user.wait_for_frame()
        worker = threading.Thread(target=_use, args=(machine, time.monotonic() + _SECONDS))
        worker.start()
        user.socket.settimeout(0.5)
        while worker.is_alive():
            try:
                part = user.socket.recv(65536)
            except TimeoutError:
                user.socket.sendall(instruction("nop"))
                continue
            data += part
            if sync := newest_sync(part):
                user.socket.sendall(instruction("sync", sync.decode()))
        user.close()
        rescue.end(one, machine, session_id)
    begin = data.index(b";") + 1  # after guacd's `ready`
    last = data.rindex(b";4.sync,", 0, data.rindex(b";")) + 1
    return bytes(data[begin : data.index(b";", last) + 1])


def _use(machine: SimulatedMachine, until: float) -> None:
    """Somebody who tries everything, and writes down what."""
    number = 0
    while time.monotonic() < until:
        machine.click_widget(_KEYS[number % len(_KEYS)])
        machine.type_text(f"try {number} ")
        if number % 6 == 5:
            machine.break_down(("E17", "E12", "E22")[number // 6 % 3])
        number += 1
        time.sleep(0.15)
