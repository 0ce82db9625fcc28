"""guacd hosts that one runs oneself: nothing is started or stopped, a session gets one of those that answer.

GATEWAY_FIXED_HOSTS lists them as host:port. The attempt id decides which host is asked first, so sessions spread
evenly, and the same attempt finds the same host again. guacd ends a connection's process with its last user:
when the keeper leaves, nothing of a session is left there.
"""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass

from django.conf import settings

from sessions.gateways import probe
from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus, Handle

_PROBE_TIMEOUT_S = 2.0
_START_TIMEOUT_S = 10.0
# All sessions of a host share one look at it, for so long.
_FRESH_S = 2.0


@dataclass(frozen=True, slots=True)
class _Look:
    """What a host was like when it was last asked, by the monotonic clock."""

    at: float
    error: OSError | probe.NotGuacd | None


class FixedGateways:
    """guacd at the hosts of GATEWAY_FIXED_HOSTS."""

    can_be_warm = False  # nothing is started, so there is nothing to wait for

    def __init__(self) -> None:
        self._hosts = [_host_port(text) for text in settings.GATEWAY_FIXED_HOSTS]
        if not self._hosts:
            raise GatewayError(
                "GATEWAY=fixed needs GATEWAY_FIXED_HOSTS: found none, expected host:port.", permanent=True
            )
        self._looks: dict[tuple[str, int], _Look] = {}
        self._asking = {place: threading.Lock() for place in self._hosts}

    def start(self, request: GatewayRequest) -> GatewayStatus:
        deadline = time.monotonic() + _START_TIMEOUT_S
        failures: list[str] = []
        for host, port in self._by_preference(request.attempt_id):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            try:
                probe.answers(host, port, timeout_s=min(_PROBE_TIMEOUT_S, left))
            except (OSError, probe.NotGuacd) as error:
                failures.append(f"{host}:{port}: {error}")
                continue
            return GatewayStatus("ready", host, port, {"host": host, "port": port})
        raise GatewayError(f"None of {len(self._hosts)} guacd hosts answers. {'; '.join(failures)[:300]}")

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        if not handle:
            return GatewayStatus("stopped", detail="No guacd host was chosen yet.")
        host, port = str(handle["host"]), int(handle["port"])
        ready = GatewayStatus("ready", host, port, dict(handle))
        error = self._look(host, port).error
        if isinstance(error, ConnectionRefusedError):
            return GatewayStatus("stopped", detail=f"Nothing listens at {host}:{port}.")
        if error is not None:
            raise GatewayError(f"guacd at {host}:{port} does not answer: {error}.") from error
        return ready

    def stop(self, attempt_id: str, handle: Handle) -> None:
        """Nothing is ours to stop: the keeper's leaving ended guacd's process for the session."""

    def running(self) -> list[str]:
        return []

    def _look(self, host: str, port: int) -> _Look:
        """What a host is like, asked at most every few seconds and by one thread at a time.

        While a thread waits for a host that hangs, the others go by what was last known of it.
        """
        # A session may still be at a host that is no longer in the settings.
        lock = self._asking.setdefault((host, port), threading.Lock())
        known = self._looks.get((host, port))
        if known is not None and self._is_fresh(known):
            return known
        if not lock.acquire(blocking=known is None):
            assert known is not None
            return known
        try:
            known = self._looks.get((host, port))
            if known is None or not self._is_fresh(known):
                known = self._looks[host, port] = _look_at(host, port)
        finally:
            lock.release()
        return known

    def _is_fresh(self, look: _Look) -> bool:
        now = time.monotonic()
        if look.error is None:
            return now - look.at < _FRESH_S
        # Hosts that hang are asked one after the other: the first must not be due again when the last has been asked.
        looks = list(self._looks.values())
        hanging = sum(one.error is not None and now - one.at < _FRESH_S * len(looks) for one in looks)
        return now - look.at < _FRESH_S * max(1, hanging)

    def _by_preference(self, attempt_id: str) -> list[tuple[str, int]]:
        """Rendezvous hashing: a host that comes or goes moves only the sessions that are its own."""

        def weight(host: tuple[str, int]) -> bytes:
            return hashlib.sha256(f"{attempt_id} {host[0]}:{host[1]}".encode()).digest()

        return sorted(self._hosts, key=weight)


def _look_at(host: str, port: int) -> _Look:
    try:
        probe.answers(host, port, timeout_s=_PROBE_TIMEOUT_S)
    except (OSError, probe.NotGuacd) as error:
        return _Look(time.monotonic(), error)
    return _Look(time.monotonic(), None)


def _host_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise GatewayError(f"GATEWAY_FIXED_HOSTS: found {text!r}, expected host:port.", permanent=True)
    return host.strip("[]"), int(port)
