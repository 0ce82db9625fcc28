"""A profile and the stand-in for OpenVPN, in a folder; and what both did."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.waiting import until

_FAKE = Path(__file__).with_name("fake_openvpn.py")


class TunnelFiles:
    """The far end of the tunnel, as far as a test decides over it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        self.profile = folder / "profile.ovpn"
        self.profile.write_text("client\n", encoding="utf-8")
        self.program = folder / "openvpn"
        # This Python, whatever the PATH holds.
        self.program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{_FAKE}" "$@"\n', encoding="utf-8")
        self.program.chmod(0o755)

    def script(self, *words: str) -> None:
        """What the next runs do, one word each."""
        (self.folder / "script").write_text("\n".join(words), encoding="utf-8")

    def do(self, order: str) -> None:
        """Gives an order to the running program; returns when it was taken."""
        path = self.folder / "do"
        new = self.folder / "do.new"
        new.write_text(order, encoding="utf-8")
        os.replace(new, path)
        until(lambda: not path.exists(), f"{order} is taken")

    @property
    def runs(self) -> list[dict[str, Any]]:
        path = self.folder / "runs"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    @property
    def running(self) -> list[int]:
        """The processes of all runs that still live."""
        return [run["pid"] for run in self.runs if is_alive(run["pid"])]

    @property
    def never_two_at_once(self) -> bool:
        return not (self.folder / "two-at-once").exists()


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
