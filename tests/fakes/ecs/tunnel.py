"""What runs beside guacd in a task that joins the VPN itself: the real join.py, with an openvpn that only says so.

As a program of its own (`python -I tunnel.py ADDRESS FOLDER`) it is join.py with two things changed, since here are
neither a network for each task nor a VPN: its door is at the task's own address, and it is inside once its openvpn has
left a file of that name.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

PORT = 4823
JOIN = Path(__file__).resolve().parents[3] / "backbone/images/gateway/join.py"
_PROGRAMS = Path(__file__).resolve().parent / "programs"


class Tunnel:
    """One join.py with a key of its own. Start it in a thread that lives as long as the fake, as Guacd."""

    def __init__(self, address: str, task_arn: str, *, joins_s: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pf-ecs-", dir="/dev/shm"))
        self.process = subprocess.Popen(
            ["/usr/bin/setpriv", "--pdeathsig=KILL", sys.executable, "-I", __file__, address, str(self.folder)],
            env={"PATH": f"{_PROGRAMS}:/usr/bin:/bin", "PORTAFILTER_FAKE_TASK": task_arn, "JOINS_S": f"{joins_s:g}"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def is_healthy(self) -> bool:
        """What `join.py --health` would say."""
        return self.is_alive() and (self.folder / "inside").exists()

    def join(self) -> None:
        """Its openvpn is in the VPN now."""
        (self.folder / "inside").touch()

    def kill(self) -> int:
        """Returns when it is gone, with the code that its container has ended with."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        code = self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code if code >= 0 else 128 - code


def _main(address: str, folder: str) -> int:
    spec = importlib.util.spec_from_file_location("join", JOIN)
    assert spec and spec.loader
    join: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(join)
    real_door = join._Door
    join._Door = lambda host, port, gateway: real_door(address, port, gateway)
    join.is_inside = lambda folder, device: (Path(folder) / "inside").exists()
    sys.argv = [str(JOIN), "--folder", folder, "--port", str(PORT)]
    return int(join.main())


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
