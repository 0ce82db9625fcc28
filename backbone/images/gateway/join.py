#!/usr/bin/env python3
"""Has a gateway's task join the VPN: the program of the container beside guacd. Python 3.9 alone, openvpn and openssl.

A key is made here, in memory, and never leaves. Its certificate request is served on port 4823 to the worker, who
knows from ECS that this address is this attempt's, and pushes the certificate in an OpenVPN profile. One profile is
taken, and no other for as long as this program lives; the port stays taken, too, so that nobody who gets into guacd
beside it (they share the network) can answer in its place. Then openvpn runs, again whenever it ends, until SIGTERM.

  GET /request   {"request": PEM, "certificate": its SHA-256 or "", "inside": whether the VPN's address is there}
  POST /profile  {"profile": text without a key, "address": the address in the VPN} -> 201, 409 if there is one, 400

  join.py            joins, for ever
  join.py --health   0 when the VPN's device is up with its address, else 1: for the container's health check
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import fcntl
import hashlib
import http.server
import ipaddress
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

PORT = 4823
_FOLDER = "/run/portafilter"
_DEVICE = "tun0"
_BODY_LIMIT = 32 * 1024
# So many may talk to us at once, each for so long: nobody else than the worker has a reason to.
_AT_ONCE, _EACH_S = 8, 10.0
_BACK_OFF_S = (0.2, 1.0, 2.0, 5.0)
_CALM_S = 60.0
_GRACE_S = 3.0
_IN_MEMORY = ("tmpfs", "ramfs")

# What a profile may say. Nothing that runs a program, reads or writes a file, or sets a route.
_NAMES = (
    "client dev dev-type proto remote nobind resolv-retry remote-random connect-retry connect-retry-max "
    "connect-timeout server-poll-timeout hand-window remote-cert-tls verify-x509-name tls-version-min data-ciphers "
    "auth tun-mtu mssfix persist-key persist-tun pull-filter explicit-exit-notify"
)
_DIRECTIVES = frozenset(_NAMES.split())
_BLOCKS = ("ca", "cert", "tls-crypt-v2")
# Without these it would trust any server, or do what a server tells it.
_NEEDED = ("remote-cert-tls server", "verify-x509-name portafilter-vpn name", 'pull-filter ignore ""')
_PLAIN = re.compile(r"[\n\x20-\x7e]*")
_LONGEST_LINE = 200
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----\n")


class JoinError(Exception):
    """It cannot go on; the text says what was found and what was expected, and never holds a key."""


# --- the profile ------------------------------------------------------------------------------------------------------


def check_profile(profile: str) -> str:
    """The SHA-256 of the certificate in it. Raises JoinError unless every line is one that a gateway's may have."""
    if not isinstance(profile, str) or len(profile) > _BODY_LIMIT or not _PLAIN.fullmatch(profile):
        raise JoinError("found no plain text as the profile, expected OpenVPN's")
    blocks: dict[str, str] = {}
    lines = []
    block = ""
    for number, line in enumerate(profile.split("\n"), start=1):
        if len(line) > _LONGEST_LINE:
            raise JoinError(f"line {number} of the profile: found {len(line)} characters, expected {_LONGEST_LINE}")
        if block:
            if line == f"</{block}>":
                block = ""
            elif "<" in line:
                raise JoinError(f"line {number} of the profile: found '<' within <{block}>, expected its end")
            else:
                blocks[block] += line + "\n"
            continue
        opening = re.fullmatch(r"<([a-z0-9-]{1,20})>", line)
        if opening and opening[1] in _BLOCKS and opening[1] not in blocks:
            block = opening[1]
            blocks[block] = ""
        elif line:
            name = line.split(" ", 1)[0]
            if name not in _DIRECTIVES:
                raise JoinError(f"line {number} of the profile: found {name[:40]!r}, expected no such directive")
            lines.append(line)
    if block or sorted(blocks) != sorted(_BLOCKS):
        raise JoinError(f"found the blocks {sorted(blocks)} in the profile, expected {sorted(_BLOCKS)}")
    for needed in _NEEDED:
        if needed not in lines:
            raise JoinError(f"the profile lacks {needed!r}")
    certificate = _PEM.fullmatch(blocks["cert"])
    try:
        return hashlib.sha256(base64.b64decode(certificate[1].replace("\n", ""))).hexdigest() if certificate else ""
    except binascii.Error as error:
        raise JoinError("found a certificate in the profile whose content is no base64") from error


# --- the device -------------------------------------------------------------------------------------------------------


def address_of(device: str) -> str:
    """The IPv4 address of a network interface that is up; empty when there is none."""
    request = struct.pack("256s", device.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            flags = struct.unpack_from("H", fcntl.ioctl(asking, 0x8913, request), 16)[0]  # SIOCGIFFLAGS
            answer = fcntl.ioctl(asking, 0x8915, request)  # SIOCGIFADDR
        except OSError:
            return ""
    is_up_and_running = flags & 0x41 == 0x41
    return socket.inet_ntoa(answer[20:24]) if is_up_and_running else ""


def is_inside(folder: str, device: str) -> bool:
    """Whether the device is up with the address that the worker has promised."""
    try:
        with open(os.path.join(folder, "address"), encoding="ascii") as file:
            promised = file.read().strip()
    except OSError:
        return False
    return bool(promised) and address_of(device) == promised


# --- the gateway ------------------------------------------------------------------------------------------------------


class Gateway:
    """The key with its request, and the one profile that is ever taken."""

    def __init__(self, folder: str, device: str) -> None:
        self.folder, self.device = folder, device
        self.certificate = self.address = ""
        self.taken = threading.Event()
        self._lock = threading.Lock()
        _make_folder(folder)
        self.request = self._make_request()

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def _make_request(self) -> str:
        key, request = self.path("key.pem"), self.path("request.pem")
        command = [
            *("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"),
            *("-subj", "/CN=gateway", "-keyout", key, "-out", request),
        ]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
        )
        if done.returncode != 0:
            raise JoinError(f"openssl made no key (code {done.returncode}): {done.stderr.strip()[-300:]}")
        os.chmod(key, 0o600)
        with open(request, encoding="ascii") as file:
            return file.read()

    def take(self, document: object) -> bool:
        """Keeps the profile; False when there is one. Raises JoinError for what is none."""
        if not isinstance(document, dict):
            raise JoinError("found no object, expected profile and address")
        certificate = check_profile(document.get("profile", ""))
        if not certificate:
            raise JoinError("the profile lacks its certificate in PEM")
        try:
            address = str(ipaddress.IPv4Address(document.get("address", "")))
        except ValueError as error:
            raise JoinError("found no IPv4 address in the VPN") from error
        with self._lock:
            if self.taken.is_set():
                return False
            self._write("profile.ovpn", document["profile"])
            self._write("address", address + "\n")
            self.certificate, self.address = certificate, address
            self.taken.set()
        return True

    def _write(self, name: str, text: str) -> None:
        descriptor = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(text)

    def state(self) -> dict[str, object]:
        return {
            "request": self.request,
            "certificate": self.certificate,
            "inside": self.taken.is_set() and is_inside(self.folder, self.device),
        }

    def command(self) -> list[str]:
        # After the profile, so that these hold whatever it says.
        return [
            *("openvpn", "--config", self.path("profile.ovpn"), "--key", self.path("key.pem"), "--dev", self.device),
            *("--persist-tun", "--connect-retry", "1", "4", "--script-security", "0", "--suppress-timestamps"),
        ]


def _make_folder(folder: str) -> None:
    """Ours alone, and in memory: a key that was written to a disk outlives its gateway. Raises JoinError."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    os.chmod(folder, 0o700)
    kind = _file_system(os.path.realpath(folder))
    if kind not in _IN_MEMORY:
        raise JoinError(f"{folder} is on {kind or 'an unknown file system'}, expected one in memory (tmpfs)")


def _file_system(path: str) -> str:
    found = ("", "")
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            _, mount, kind = line.split(" ")[:3]
            if (path + "/").startswith(mount.rstrip("/") + "/") and len(mount) >= len(found[0]):
                found = mount, kind
    return found[1]


# --- its door ---------------------------------------------------------------------------------------------------------


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Door
    timeout = 5  # for each wait; the door ends the whole at its own time
    server_version, sys_version = "gateway", ""

    def setup(self) -> None:
        self._end = threading.Timer(_EACH_S, _hang_up, [self.request])
        self._end.daemon = True
        self._end.start()
        super().setup()

    def finish(self) -> None:
        self._end.cancel()
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        if self.path != "/request":
            self._answer(404, {"error": "Found another path, expected /request."})
        else:
            self._answer(200, self.server.gateway.state())

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/profile" or not length.isdigit() or int(length) > _BODY_LIMIT:
            self._answer(400, {"error": f"Expected a body of {_BODY_LIMIT} bytes at most at /profile."})
            return
        try:
            is_first = self.server.gateway.take(json.loads(self.rfile.read(int(length))))
        except ValueError:
            self._answer(400, {"error": "Found no JSON, expected profile and address."})
        except JoinError as error:
            self._answer(400, {"error": f"This profile is not taken: {error}."})
        else:
            said: dict[str, object] = (
                {"taken": True} if is_first else {"error": "This gateway has a profile, and takes no other."}
            )
            self._answer(201 if is_first else 409, said)

    def _answer(self, status: int, document: Mapping[str, object]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Only what matters is said, by those who know."""


class _Door(http.server.ThreadingHTTPServer):
    daemon_threads = True
    # No SO_REUSEPORT: while we live, nobody else can listen here.
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, host: str, port: int, gateway: Gateway) -> None:
        self.gateway = gateway
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__((host, port), _Handler)

    def verify_request(self, request: object, client_address: object) -> bool:
        """Who comes through the tunnel has nothing to say here."""
        assert isinstance(request, socket.socket)
        return not self.gateway.address or request.getsockname()[0] != self.gateway.address

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A line that broke is nothing to speak of, and a fault of ours ends no more than one request."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            _say(f"A request failed: {type(error).__name__}")


def _hang_up(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


# --- openvpn, for as long as we live ----------------------------------------------------------------------------------


class Ending:
    """SIGTERM and SIGINT as something to wait for. An Event's lock may be this thread's own when a handler runs."""

    def __init__(self) -> None:
        self._told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(tell)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def is_told(self, *, within_s: float = 0) -> bool:
        """Whether it came by now, or comes within that time."""
        return bool(select.select([self._told], [], [], within_s)[0])


def run(gateway: Gateway, ending: Ending) -> None:
    """Keeps openvpn running until told to end, then ends it."""
    failures = 0
    while not ending.is_told():
        began = time.monotonic()
        with subprocess.Popen(gateway.command(), stdin=subprocess.DEVNULL) as openvpn:
            while openvpn.poll() is None and not ending.is_told(within_s=0.1):
                pass
            if openvpn.poll() is None:
                _end(openvpn)
        if ending.is_told():
            return
        failures = 0 if time.monotonic() - began > _CALM_S else failures
        pause_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
        _say(f"openvpn ended with code {openvpn.returncode}; again in {pause_s:g} s")
        failures += 1
        ending.is_told(within_s=pause_s)


def _end(openvpn: subprocess.Popen[bytes]) -> None:
    openvpn.terminate()
    try:
        openvpn.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        openvpn.kill()


def _say(words: str) -> None:
    print(f"join: {words}", flush=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description="Has a gateway join the VPN.")
    arguments.add_argument("--health", action="store_true", help="only say whether it is in the VPN, by the code")
    arguments.add_argument("--folder", default=_FOLDER, help=f"for key and profile, in memory ({_FOLDER})")
    arguments.add_argument("--device", default=_DEVICE, help=f"the VPN's device here ({_DEVICE})")
    arguments.add_argument("--port", type=int, default=PORT, help=f"where the worker asks ({PORT})")
    arguments.add_argument("--wait-s", type=float, default=600, help="ends when nobody has come for so long (600)")
    given = arguments.parse_args()
    if given.health:
        return 0 if is_inside(given.folder, given.device) else 1
    ending = Ending()
    os.umask(0o077)
    try:
        gateway = Gateway(given.folder, given.device)
        door = _Door("0.0.0.0", given.port, gateway)  # nosec B104: the task's own network, within its security group
    except (JoinError, OSError, subprocess.SubprocessError) as error:
        _say(str(error))
        return 1
    threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    _say(f"waiting for a profile on port {door.server_port}")
    deadline = time.monotonic() + given.wait_s
    while not gateway.taken.is_set() and not ending.is_told(within_s=0.05):
        if time.monotonic() > deadline:
            _say(f"nobody brought a profile within {given.wait_s:g} s")
            return 1
    if gateway.taken.is_set():
        _say(f"joining as {gateway.address}, certificate {gateway.certificate}")
        run(gateway, ending)
    _say("told to end")
    return 0


if __name__ == "__main__":
    sys.exit(main())
