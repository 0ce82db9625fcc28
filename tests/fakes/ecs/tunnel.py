"""What runs beside guacd in a task that joins the VPN itself: the real join.py, with an openvpn that only says so."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.fakes.ecs.process import TaskProcess

PORT = 4823
_FOLDER = Path(__file__).resolve().parent


class Tunnel(TaskProcess):
    """One join.py with a key of its own."""

    def __init__(self, address: str, task_arn: str, *, joins_s: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pf-ecs-", dir="/dev/shm"))
        program = [sys.executable, "-I", str(_FOLDER / "joining.py"), address, str(PORT), str(self.folder)]
        environment = {"PATH": f"{_FOLDER / 'programs'}:/usr/bin:/bin", "JOINS_S": f"{joins_s:g}"}
        super().__init__(program, task_arn, environment)

    def is_healthy(self) -> bool:
        """What `join.py --health` would say."""
        return self.is_alive() and (self.folder / "inside").exists()

    def join(self) -> None:
        """Its openvpn is in the VPN now."""
        (self.folder / "inside").touch()

    def kill(self) -> int:
        """Nothing of it is left, its key neither."""
        code = super().kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code
