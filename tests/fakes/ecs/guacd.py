"""What runs in a task: a real guacd, at an address of its own, that outlives nothing."""

from __future__ import annotations

import os
import pwd
import random
import socket
from contextlib import suppress

from tests.fakes.ecs.process import WITH_THE_FAKE, TaskProcess

PORT = 4822
_GUACD = "/usr/sbin/guacd"


class Addresses:
    """Loopback addresses that nobody else uses: each fake has a /24 of 127.65.0.0/16, if need be another one, too.

    Fakes run in several processes at once. Whoever has bound a port of a net's last address has the net.
    """

    def __init__(self) -> None:
        self._net, self._last = -1, 0
        self._held: list[socket.socket] = []
        self._take_net()

    def close(self) -> None:
        for one in self._held:
            one.close()

    def next(self) -> str:
        """An address on whose port 4822 nobody listens."""
        while True:
            self._last += 1
            if self._last > 250:
                self._take_net()
                self._last = 1
            address = f"127.65.{self._net}.{self._last}"
            with socket.socket() as probe, suppress(OSError):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((address, PORT))
                return address

    def _take_net(self) -> None:
        for net in random.sample(range(256), 256):
            mark = socket.socket()
            try:
                mark.bind((f"127.65.{net}.254", PORT))
            except OSError:
                mark.close()
                continue
            self._held.append(mark)
            self._net = net
            return
        raise AssertionError("found every net of 127.65.0.0/16 taken")


class Guacd(TaskProcess):
    """One guacd.

    For root it has process ids of its own, so that the processes of its connections end with it at once, too. For
    others those end by themselves, within 17 s.
    """

    def __init__(self, address: str, task_arn: str) -> None:
        chain: list[str] = []
        if os.getuid() == 0:
            account = _account()
            chain += ["/usr/bin/unshare", "--pid", "--fork", "--kill-child=KILL", *WITH_THE_FAKE]
            chain += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        chain += ["/usr/bin/prlimit", "--core=0", _GUACD, "-f", "-b", address, "-l", str(PORT), "-L", "error"]
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}
        super().__init__(chain, task_arn, environment, ends_at_once=os.getuid() == 0)


def _account() -> pwd.struct_passwd:
    for name in ("guacd", "_guacd"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    return pwd.getpwnam("nobody")
