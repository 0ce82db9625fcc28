"""The package stands alone: what it imports, and what that imports, is Python's own."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
before = set(sys.modules)
import sessions.guacamole
ours = {name for name in sys.modules if name.split(".")[0] == "sessions"}
foreign = {name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names - {"sessions"}
above = {name for name in ours if name != "sessions" and not name.startswith("sessions.guacamole")}
print(sorted(foreign), sorted(above))
"""


def test_package_imports_nothing_but_the_standard_library() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout == "[] []\n"
