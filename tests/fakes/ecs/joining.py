"""The real join.py, as a program of a fake task: `python -I joining.py ADDRESS PORT FOLDER`.

It is join.py with two things changed, since here are neither a network for each task nor a VPN: its door is at the
task's own address, and it is inside once its openvpn has left a file of that name.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

JOIN = Path(__file__).resolve().parents[3] / "backbone/images/gateway/join.py"


def _main(address: str, port: str, folder: str) -> int:
    spec = importlib.util.spec_from_file_location("join", JOIN)
    assert spec and spec.loader
    join: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(join)
    real_door = join._Door
    join._Door = lambda host, port, gateway: real_door(address, port, gateway)
    join.is_inside = lambda folder, device: (Path(folder) / "inside").exists()
    sys.argv = [str(JOIN), "--folder", folder, "--port", port]
    return int(join.main())


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
