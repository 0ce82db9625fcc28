"""Which machines are reached over the second device, that of those who came in over TCP.

Both devices have the server's address. The first one leads to the whole network; a machine on the second one is led to
by a route to its address alone, which goes first. Such routes are the kernel's and end with the device, so they are
made to be exactly what is wanted: at each change, and every few seconds as OpenVPN may have started again.

A thread of its own: whoever answers OpenVPN waits for no program, and a database that hangs keeps no machine waiting.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

_EVERY_S = 3.0
_TIMEOUT_S = 10.0
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"


class RouteError(Exception):
    """The routes are not what they should be; the text names what was found."""


def run(arguments: list[str], script: str = "") -> str:
    """Runs ip, the program of iproute2, and gives what it printed. Raises RouteError."""
    program = shutil.which("ip", path=_PATH)
    if program is None:
        raise RouteError("Found no program ip. Install the package iproute2: it leads to the machines over TCP.")
    try:
        done = subprocess.run(
            [program, *arguments],
            input=script, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env={"LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise RouteError(f"ip could not be run: {error}.") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise RouteError(f"ip {' '.join(arguments)}: {said[0][:200] if said else 'it said nothing'}")
    return done.stdout


class Routes:
    """Keeps the routes over `device`; `want` may be called by any thread, `run` is a thread's work."""

    def __init__(self, device: str, *, ip: Callable[[list[str], str], str] = run) -> None:
        self._device = device
        self._ip = ip
        self._wanted: frozenset[str] = frozenset()
        self._bell = threading.Event()
        self._said = ""

    def want(self, addresses: frozenset[str]) -> None:
        """Has these machines, and no others, led to over the device."""
        if addresses != self._wanted:
            self._wanted = addresses
            self._bell.set()

    def ring(self) -> None:
        """Wakes the thread, as before its end."""
        self._bell.set()

    def run(self, stop: threading.Event) -> None:
        """Rounds until `stop` is set; the routes stay then, as tunnels do."""
        # At the start nobody is known yet: what an earlier run has made stays until it is.
        self._bell.wait()
        while not stop.is_set():
            self._bell.clear()
            try:
                self.apply()
                self._said = ""
            except RouteError as error:
                if str(error) != self._said:
                    logger.error("Machines over TCP may not be reached: %s", error)
                self._said = str(error)
            except Exception:
                logger.exception("The routes to machines over TCP could not be looked at")
            self._bell.wait(_EVERY_S)

    def apply(self) -> None:
        """Makes the routes what is wanted. Raises RouteError."""
        wanted = self._wanted
        found = self._found()
        if found is None:
            return  # OpenVPN makes the device when it starts; nobody is behind it before
        lines = [f"route del {address}/32 dev {self._device}" for address in sorted(found - wanted)]
        lines += [f"route replace {address}/32 dev {self._device} scope link" for address in sorted(wanted - found)]
        if lines:
            self._ip(["-force", "-batch", "-"], "\n".join(lines) + "\n")

    def _found(self) -> frozenset[str] | None:
        """The machines that are led to over the device; None while there is no such device."""
        links = json.loads(self._ip(["-j", "link", "show"], "") or "[]")
        if not any(link.get("ifname") == self._device for link in links):
            return None
        listed = json.loads(self._ip(["-j", "-4", "route", "show", "dev", self._device], "") or "[]")
        return frozenset(route["dst"] for route in listed if "/" not in route["dst"])
