"""Is what runs in this container well? Ends with 0 if so, else with 1 and a sentence.

    healthy.py serving http://…/healthz         a face answers `?alive`, `degraded`, `down` or not: a start cures none
                                                of that. It is asked how it is, too, so that it says so in its log
    healthy.py http://…                         it answers 200
    healthy.py answering http://…               anything is answered: a start would not cure what is said to be wrong
    healthy.py machines                         the machines' face does so at the server's address in VPN_NETWORK; while
                                                OpenVPN is away there is no such address, and nothing to be unwell
    healthy.py alive                            a worker or keeper holds its sign of life in STATE_DIR/processes

Standard library only: it runs every few seconds and must cost nothing.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

# Both together within what health checks are given, 6 s.
_TIMEOUT_S = 4.0
_ASIDE_S = 1.0


def check(what: str, url: str = "") -> str:
    """What is wrong, in a sentence; empty when all is well."""
    if what == "serving" and url.startswith("http://"):
        wrong = _answers(f"{url}?alive")
        # What is wrong then is for an alarm: it counts what the face logs without a database (stack watch).
        _answers(url, timeout_s=_ASIDE_S)
        return wrong
    if what == "answering" and url.startswith("http://"):
        return _answers(url, whatever=True)
    if url:
        return f"Found {what!r} with {url!r}, expected 'serving' or 'answering' with an http:// address."
    if what == "alive":
        return _holds_its_sign_of_life(Path(os.environ.get("STATE_DIR", "/var/lib/portafilter")) / "processes")
    if what == "machines":
        return _machines_face(os.environ.get("VPN_NETWORK", ""))
    if what.startswith("http://"):
        return _answers(what)
    return f"Found {what!r}, expected 'alive', 'machines' or an http:// address."


def _machines_face(network: str) -> str:
    try:
        address = ipaddress.IPv4Network(network)[1]  # machines.vpn.networks.server_address
    except (ValueError, IndexError):
        return f"VPN_NETWORK: found {network!r}, expected an IPv4 network."
    with socket.socket() as trial:
        try:
            trial.bind((str(address), 0))
        except OSError as error:
            return "" if error.errno == errno.EADDRNOTAVAIL else f"{address} cannot be used: {error.strerror}."
    return _answers(f"http://{address}:8001/healthz?alive")


def _answers(url: str, *, whatever: bool = False, timeout_s: float = _TIMEOUT_S) -> str:
    # Django answers under the portal's own name alone.
    host = urlsplit(os.environ.get("PUBLIC_ORIGINS", "").split(",")[0].strip()).netloc
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout_s) as answer:
            return "" if answer.status == 200 else f"{url} answered {answer.status}, expected 200."
    except urllib.error.HTTPError as error:
        return "" if whatever else f"{url} answered {error.code}, expected 200."
    except (OSError, ValueError) as error:
        return f"{url} did not answer as expected: {error}."


def _holds_its_sign_of_life(folder: Path) -> str:
    """The lock on its file is held by a living process alone (sessions/signs_of_life.py)."""
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        return f"{folder} cannot be read: {error.strerror}."
    for path in paths:
        try:
            with path.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return ""
        except OSError:
            continue
    return f"No process holds its sign of life in {folder}."


if __name__ == "__main__":
    wrong = check(*sys.argv[1:3]) if len(sys.argv) in {2, 3} else check("")
    if wrong:
        print(wrong, file=sys.stderr)
    sys.exit(1 if wrong else 0)
