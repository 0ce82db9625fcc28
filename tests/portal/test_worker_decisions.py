"""Runs worker_decisions.mjs: what the service worker decides, tried in Node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def test_worker_decides_as_its_own_tests_say() -> None:
    # setup takes the computer's Node, or puts one beside Python.
    node = shutil.which("node", path=f"{os.environ['PATH']}{os.pathsep}{Path(sys.executable).parent}")
    assert node, "found no Node, expected the one that ./setup test uses"
    script = Path(__file__).with_name("worker_decisions.mjs")
    done = subprocess.run([node, "--test", script], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0 and "# fail 0" in done.stdout.replace("ℹ", "#"), done.stdout + done.stderr
