"""Ports for programs that must be told one: free now, and given to nobody else before they listen there.

The kernel gives who asks for any port, and who connects somewhere, one of a range of its own (ip(7),
ip_local_port_range): one of those that was free a moment ago may be taken. These are below it, each once a run.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIRST, _LAST = 20_000, 32_000


def free_ports(count: int, *, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[int]:
    """So many ports of 127.0.0.1 that nobody listens on, and no other process of this run will be given."""
    kernels = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = list(range(_FIRST, min(_LAST, kernels)))
    assert len(ports) > 1000, f"the kernel's own ports begin at {kernels}, expected above {_FIRST + 1000}"
    # At a place of chance: another run may be under way.
    at = random.SystemRandom().randrange(len(ports))
    found: list[int] = []
    for port in ports[at:] + ports[:at]:
        if _is_free(port, kind) and _is_ours(port):
            found.append(port)
            if len(found) == count:
                return found
    raise AssertionError(f"found {len(found)} free ports from {_FIRST} on, expected {count}")


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections: held, so that nobody else listens there, and not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def _is_free(port: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_ours(port: int) -> bool:
    """Whether no other process of the run has been given it."""
    run = os.environ.get("PORTAFILTER_TEST_RUN")
    if not run:
        return True  # a benchmark's installation: nothing else runs beside it
    folder = Path(run) / "ports"
    folder.mkdir(exist_ok=True)
    try:
        (folder / str(port)).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
