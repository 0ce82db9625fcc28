"""guacd in a container, for a computer where the program cannot be installed but a container engine answers.

The container shares the computer's network, since guacd must reach the simulated machines at their loopback addresses,
and listens on loopback alone. It goes through the command line that Docker and Podman have in common.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
from pathlib import Path

from django.conf import settings

from portal.demo.errors import DemoError
from portal.demo.programs import Program
from sessions.gateways import probe

# The same in ./setup, which fetches it. Podman wants the registry's name in it.
IMAGE = "docker.io/guacamole/guacd:1.6.0"
_PROGRAM = "/opt/guacamole/sbin/guacd"  # the image's own command would listen on every address
_HOST = "127.0.0.1"
_PORT = 4822
_ENGINES = ("docker", "podman")
_ENGINE_S = 60.0


class GuacdContainer:
    """The demo's one guacd; `environment` is what the server needs to use it."""

    def __init__(self, engine: str, folder: Path) -> None:
        self._engine = engine
        self._name = f"portafilter-guacd-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        self._port = _free_port()
        self.environment = {"GATEWAY": "fixed", "GATEWAY_FIXED_HOSTS": f"{_HOST}:{self._port}"}
        self.remove()  # what a killed run has left
        command = [
            *(engine, "run", "--rm", "--name", self._name, "--network", "host", "--entrypoint", _PROGRAM, IMAGE),
            *("-f", "-b", _HOST, "-l", str(self._port), "-L", "info"),
        ]
        self.program = Program(
            f"guacd in a container of {engine}",
            command,
            log=folder / "guacd.log",
            ready_file=folder / "guacd.ready",
            environment={},
        )

    def wait_until_ready(self, *, timeout_s: float) -> None:
        """Returns when guacd answers; raises DemoError when the container ends or is too slow."""
        self.program.wait_until(self._answers, timeout_s=timeout_s)

    def remove(self) -> None:
        """Ends the container if it still runs; returns when it is gone. Raises DemoError."""
        command = [self._engine, "rm", "--force", self._name]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_ENGINE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DemoError(f"{self._engine} did not remove the container {self._name}: {error}") from error
        if done.returncode != 0 and "no such container" not in done.stderr.lower():
            raise DemoError(f"{self._engine} did not remove the container {self._name}: {done.stderr.strip()[-300:]}")

    def _answers(self) -> bool:
        try:
            probe.answers(_HOST, self._port, timeout_s=1)
        except (OSError, probe.NotGuacd):
            return False
        return True


def needed_engine() -> str | None:
    """The engine to run guacd with: where the settings want guacd from this computer, which has none. None: no need.

    None also where no engine answers: then the local gateways say what is missing.
    """
    if settings.GATEWAY != "local" or os.access(settings.GUACD_PATH, os.X_OK):
        return None
    return next((engine for engine in _ENGINES if _answers(engine)), None)


def _answers(engine: str) -> bool:
    if shutil.which(engine) is None:
        return False
    try:
        done = subprocess.run(
            [engine, "info"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_ENGINE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _free_port() -> int:
    """guacd's own port where it is free, or else any."""
    for wanted in (_PORT, 0):
        with socket.socket() as probe_socket:
            try:
                probe_socket.bind((_HOST, wanted))
            except OSError:
                continue
            return int(probe_socket.getsockname()[1])
    raise DemoError("No port of 127.0.0.1 is free for guacd.")
