"""A PostgreSQL or a Redis of our own for one run of the tests; nothing of it is left afterwards.

Both listen on a Unix socket in a folder that only their user may enter, so that they clash with nothing and nobody else
reaches them. In a test: `with redis() as url:`. Around a whole run:

    python -m tests.throwaway postgres -- python -m pytest …

which sets TEST_DATABASE_URL and TEST_DATABASE_TEMPLATE for the command and ends with its exit status. Standard library
only.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

_START_WITHIN_S = 60.0
_END_WITHIN_S = 60.0
_PR_SET_PDEATHSIG = 1

_Argument = str | Path


class ThrowawayError(Exception):
    """The server could not be started; the text says which, why, and what to install."""


@contextmanager
def postgres() -> Iterator[str]:
    """A fresh PostgreSQL cluster that forgets all at the end; yields the URL of its database `portafilter`.

    PostgreSQL refuses to run as root: then it runs as the system user `postgres`, which Debian's package makes.
    """
    programs = _postgres_programs()
    user = "postgres" if os.geteuid() == 0 else None
    with _folder("portafilter-pg-", user) as folder:
        data = folder / "data"
        initdb: list[_Argument] = [programs / "initdb", "-D", data, "-U", "portafilter"]
        initdb += ["-A", "trust", "-E", "UTF8", "--locale=C", "-N"]
        status, said = _run(initdb, user)
        if status != 0:
            raise ThrowawayError(f"initdb ended with {status}: {said}")
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "max_connections": "200",
            # What would survive a power cut costs time, and nothing here shall survive.
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command: list[_Argument] = [programs / "postgres", "-D", data, *settings]
        # SIGINT is PostgreSQL's "fast": it does not wait for clients that are still there.
        with _server(command, user, folder, stop_signal=signal.SIGINT) as process:
            _until_listening(folder / ".s.PGSQL.5432", "PostgreSQL", process, folder)
            _create_database(programs, folder, process)
            yield f"postgresql://portafilter@{quote(str(folder), safe='')}/portafilter"


@contextmanager
def redis() -> Iterator[str]:
    """A fresh Redis that writes nothing to disk; yields its URL."""
    program = shutil.which("redis-server", path=_search_path())
    if program is None:
        raise ThrowawayError("redis-server was not found; on Debian: apt-get install redis-server, or ./setup test")
    with _folder("portafilter-redis-", None) as folder:
        address = folder / "redis.sock"
        command: list[_Argument] = [program, "--port", "0", "--unixsocket", address, "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        with _server(command, None, folder, stop_signal=signal.SIGTERM) as process:
            _until_listening(address, "Redis", process, folder)
            yield f"unix://{address}"


def _search_path() -> str:
    """PATH, and the folders of system programs, which an ordinary user's PATH lacks on Debian."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def _postgres_programs() -> Path:
    """The folder with initdb and postgres, of the newest version there is; Debian keeps them out of PATH."""
    debian = Path("/usr/lib/postgresql")
    versions = [path for path in debian.glob("*/bin") if (path / "initdb").exists()]
    if versions:
        return max(versions, key=lambda path: float(path.parent.name))
    found = shutil.which("initdb", path=_search_path())
    if found is None:
        raise ThrowawayError("PostgreSQL was not found; on Debian: apt-get install postgresql, or ./setup test")
    return Path(found).parent


@contextmanager
def _folder(prefix: str, user: str | None) -> Iterator[Path]:
    # /tmp and lower case: a socket's path may have about 100 characters, and the host part of a URL loses its case.
    folder = Path("/tmp") / f"{prefix}{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    try:
        if user is not None:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(command: Sequence[_Argument], user: str | None = None) -> tuple[int, str]:
    """The exit status of a program, and the end of what it said."""
    done = subprocess.run(
        command,
        check=False,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user else None,
    )
    return done.returncode, done.stdout.strip()[-2000:]


@contextmanager
def _server(
    command: Sequence[_Argument], user: str | None, folder: Path, *, stop_signal: signal.Signals
) -> Iterator[subprocess.Popen[bytes]]:
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, stop_signal)

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            # Away from the terminal's process group: Ctrl-C goes to the tests, which end before their database does.
            start_new_session=True,
            # Even if we are killed without a chance to clean up.
            preexec_fn=die_with_parent,
        )
    try:
        yield process
    finally:
        process.send_signal(stop_signal)
        try:
            process.wait(timeout=_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_listening(address: Path, name: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _START_WITHIN_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(address))
                return
            except OSError as error:
                problem = error
        if process.poll() is not None or time.monotonic() > deadline:
            log = (folder / "log").read_text(errors="replace").strip()[-2000:]
            raise ThrowawayError(f"{name} is not listening on {address} ({problem}); it said: {log}")
        time.sleep(0.02)


def _create_database(programs: Path, folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Creates the database; a starting PostgreSQL accepts connections a little before it serves them."""
    deadline = time.monotonic() + _START_WITHIN_S
    command: list[_Argument] = [programs / "createdb", "-h", str(folder), "-U", "portafilter", "portafilter"]
    while True:
        status, said = _run(command)
        if status == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise ThrowawayError(f"createdb ended with {status}: {said}")
        time.sleep(0.05)


def main(arguments: Sequence[str]) -> int:
    if len(arguments) < 3 or arguments[0] != "postgres" or arguments[1] != "--":
        print("usage: python -m tests.throwaway postgres -- COMMAND …", file=sys.stderr)
        return 2
    # SIGTERM as an exception, so that the servers end with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with postgres() as url:
            # Nobody else's, and empty: it may be made the template of the test databases (tests/migrated.py).
            chosen = {"TEST_DATABASE_URL": url, "TEST_DATABASE_TEMPLATE": "portafilter"}
            return subprocess.run(arguments[2:], env={**os.environ, **chosen}, check=False).returncode
    except ThrowawayError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
