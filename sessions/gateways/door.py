"""Has a gateway join the VPN: fetches the request for the key that was born there, and brings its certificate back.

At the other end is backbone/images/gateway/join.py. It takes one profile in its life. What it answers is read with
care all the same: a gateway may have been taken over by the machine that it serves (T5). What such a one cannot get:
another gateway's identity, as the driver says at which address which attempt is; nor a second one, as an attempt is for
one key (docs/decisions/0009-a-gateways-key-is-born-with-it.md).
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.utils import timezone

from machines import gateway_identities
from machines.errors import FleetError, NoAddressLeft
from sessions.gateways.base import GatewayError

PORT = 4823
_LIMIT = 32 * 1024
_POLL_S = 0.1
# OpenVPN is away for less while it is made anew, and gateways of open rescues come back then.
_LOST_AFTER = timedelta(minutes=5)
# It is in the worker's own network. Before its program is there what is sent to it may be lost, and others wait.
_CONNECT_S = 0.5
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}|")


@dataclass(frozen=True, slots=True)
class _Gateway:
    """What it says of itself: its request, the certificate that it has been given, whether it is in the VPN."""

    request: str
    certificate: str
    is_inside: bool


def join(host: str, port: int, attempt_id: str, *, timeout_s: float) -> str:
    """The gateway's address in the VPN, once it is there; call it again until it answers, as often as one likes.

    It takes `timeout_s` at most. Raises GatewayError: permanent when the attempt is to be given up (its identity is
    withdrawn then), not permanent while the gateway is not listening or not in the VPN yet.
    """
    deadline = time.monotonic() + timeout_s
    gateway = _ask(host, port, deadline)
    try:
        profile = gateway_identities.admit(attempt_id, gateway.request)
    except NoAddressLeft as error:
        raise GatewayError(str(error)) from error
    except FleetError as error:
        raise GatewayError(str(error), permanent=True) from error
    while not gateway.is_inside or gateway.certificate != profile.fingerprint:
        if not gateway.certificate:
            _give(host, port, deadline, {"profile": profile.text, "address": profile.address})
        elif gateway.certificate != profile.fingerprint:
            words = f"It has a certificate that is not ours (SHA-256 {gateway.certificate})."
            gateway_identities.refuse(attempt_id, words, address=host)
            raise GatewayError(f"Gateway {attempt_id} at {host} was given up. {words}", permanent=True)
        if time.monotonic() + _POLL_S > deadline:
            raise GatewayError(f"The gateway at {host} is not in the VPN yet.")
        time.sleep(_POLL_S)
        gateway = _ask(host, port, deadline)
    return profile.address


def leave(attempt_id: str) -> None:
    """The attempt is over: its identity is revoked, and the authorisation agent cuts it off. Twice is fine."""
    gateway_identities.withdraw(attempt_id)


def is_lost(attempt_id: str) -> bool:
    """Whether a gateway that had joined has been out of the VPN for so long that it will not come back.

    It looks for the server where that was when it joined, so a server at another address never hears of it again.
    """
    return gateway_identities.has_been_away_since(attempt_id, timezone.now() - _LOST_AFTER)


def _ask(host: str, port: int, deadline: float) -> _Gateway:
    status, said = _exchange(host, port, deadline, "GET /request")
    try:
        document = json.loads(said)
        gateway = _Gateway(document["request"], document["certificate"], document["inside"])
    except (ValueError, KeyError, TypeError):
        gateway = None
    if (
        status != 200
        or gateway is None
        or not isinstance(gateway.request, str)
        or not isinstance(gateway.certificate, str)
        or not _FINGERPRINT.fullmatch(gateway.certificate)
        or not isinstance(gateway.is_inside, bool)
    ):
        raise GatewayError(f"Found status {status} at {host}:{port}, expected a gateway's certificate request.")
    return gateway


def _give(host: str, port: int, deadline: float, profile: Mapping[str, Any]) -> None:
    status, said = _exchange(host, port, deadline, "POST /profile", json.dumps(profile).encode())
    # 409: it has one since; the next look shows whose.
    if status not in (201, 409):
        words = "".join(one if one.isprintable() else "?" for one in said[:200].decode("utf-8", "replace"))
        raise GatewayError(f"The gateway at {host} does not take its VPN profile (status {status}): {words}")


def _exchange(host: str, port: int, deadline: float, request: str, body: bytes = b"") -> tuple[int, bytes]:
    """One HTTP request, so small that no library is needed; the time is for all of it. Raises GatewayError."""
    head = f"{request} HTTP/1.0\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    answer = b""
    try:
        connect_s = min(_CONNECT_S, max(0.001, deadline - time.monotonic()))
        with socket.create_connection((host, port), timeout=connect_s) as line:
            line.settimeout(max(0.001, deadline - time.monotonic()))
            line.sendall(head.encode() + b"\r\n" + body)
            while len(answer) <= _LIMIT:
                line.settimeout(max(0.001, deadline - time.monotonic()))
                data = line.recv(16 * 1024)
                if not data:
                    break
                answer += data
    except OSError as error:
        raise GatewayError(f"The gateway at {host}:{port} does not answer: {error}.") from error
    found = _STATUS.match(answer)
    _, end, said = answer.partition(b"\r\n\r\n")
    if found is None or not end or len(answer) > _LIMIT:
        raise GatewayError(f"Found {answer[:20]!r} at {host}:{port}, expected HTTP and at most {_LIMIT} bytes.")
    return int(found[1]), said
