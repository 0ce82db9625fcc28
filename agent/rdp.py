"""How support gets in and out of this machine's desktop: the hook, and one that runs commands of the machine's own."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from typing import IO, Any, Protocol

from agent.credentials import Credentials

log = logging.getLogger("agent.rdp")


class RdpError(Exception):
    """RDP could not be opened or closed; the text says what was tried and what came of it, never the password."""


class RdpHook(Protocol):
    """Lets one user in, and out again.

    `open` returns the port on which RDP now listens; the user can log in when it returns. It raises RdpError otherwise,
    and then nothing is left open. `close` shuts RDP and removes the user; it returns only when both are done, may be
    called at any time and any number of times, also in a later process than the one that opened, and raises RdpError.
    """

    def open(self, credentials: Credentials) -> int: ...

    def close(self, username: str) -> None: ...


class CommandHook:
    """Runs a configured command to open and one to close, without a shell.

    Both get the user name as the first line of stdin, `open` the password as the second: neither is in an argument
    list, where every user of the machine could read it. `open` may print the port it opened; else the configured one
    counts. An exit status other than 0 is a failure. What a command writes to stderr is logged, but for the password.
    """

    def __init__(
        self, open_command: tuple[str, ...], close_command: tuple[str, ...], *, port: int, timeout_s: float
    ) -> None:
        self._open_command = open_command
        self._close_command = close_command
        self._port = port
        self._timeout_s = timeout_s

    def open(self, credentials: Credentials) -> int:
        try:
            printed = self._run(self._open_command, [credentials.username, credentials.password])
            return self._port_of(printed)
        except RdpError:
            # Half a success, or a time-out after the whole: either way nothing may stay open behind.
            self.close(credentials.username)
            raise

    def close(self, username: str) -> None:
        self._run(self._close_command, [username])

    def _run(self, command: tuple[str, ...], lines: list[str]) -> str:
        name = command[0]
        # Files, not pipes: a server that the command leaves running in the background would hold a pipe open for ever.
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            try:
                done = subprocess.run(
                    command,
                    input="".join(f"{line}\n" for line in lines).encode(),
                    stdout=stdout,
                    stderr=stderr,
                    timeout=self._timeout_s,
                    check=False,
                )
            except OSError as error:
                raise RdpError(f"{name} cannot be run: {error.strerror}") from error
            except subprocess.TimeoutExpired:
                raise RdpError(f"{name} took longer than {self._timeout_s:g} s") from None
            printed, said = _written(stdout), _written(stderr)
        for secret in lines[1:]:
            said = said.replace(secret, "(hidden)")
        if done.returncode != 0:
            raise RdpError(
                f"{name} ended with status {done.returncode}, expected 0: {said[-300:] or 'it said nothing'}"
            )
        if said:
            log.info("%s: %s", name, said[-300:])
        return printed

    def _port_of(self, printed: str) -> int:
        if not printed:
            return self._port
        if printed.isascii() and printed.isdigit() and len(printed) <= 5 and 1 <= int(printed) <= 65535:
            return int(printed)
        raise RdpError(f"{self._open_command[0]} printed {len(printed)} characters, expected a port or nothing")


def _written(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(64 * 1024).decode("utf-8", errors="replace").strip()


def rdp_login_details(*, port: int, domain: str, security: str) -> dict[str, Any]:
    """What the server needs beside user and password; empty settings are left out, so that it takes its defaults."""
    details: dict[str, Any] = {"port": port}
    if domain:
        details["domain"] = domain
    if security:
        details["security"] = security
    return details
