"""A push service of one's own: real HTTP, VAPID verified (RFC 8292), messages really decrypted (RFC 8291).

    with PushService() as service:
        phone = service.browser()                       # what a browser subscribes with: endpoint, p256dh, auth
        old = service.browser(always=Answer(410))       # answers, and stalls, as told
        ...
        service.wait_for(1)
        assert phone.pushes[0].payload["title"] == "Help at Stazione Centrale"

PUSH_SERVICES must name `service.origin`. What a real push service would refuse, it refuses: `problems` says why.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any

import http_ece
from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.waiting import LONG_S

_MAX_BODY_BYTES = 4096
_MAX_VAPID_S = 24 * 3600


@dataclass(frozen=True)
class Answer:
    """What it says to one push; first it stalls, as long as it is told."""

    status: int = 201
    headers: dict[str, str] = field(default_factory=dict)
    stall_s: float = 0.0


@dataclass(frozen=True)
class Push:
    """One message as it came, and when (time.monotonic and time.time)."""

    browser: Browser
    headers: dict[str, str]
    body: bytes = field(repr=False)
    at: float
    wall_at: float
    status: int

    @cached_property
    def payload(self) -> dict[str, Any]:
        """What the service worker would read."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @cached_property
    def text(self) -> bytes:
        return self.browser.decrypt(self.body)

    @property
    def topic(self) -> str:
        return self.headers["topic"]


class Browser:
    """One subscription with its keys; it alone can read what is sent to it."""

    def __init__(self, endpoint: str, answers: Sequence[Answer], always: Answer) -> None:
        self.endpoint = endpoint
        self._private = ec.generate_private_key(ec.SECP256R1())
        self._secret = secrets.token_bytes(16)
        public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.p256dh, self.auth = encode(public), encode(self._secret)
        self.answers, self.always = list(answers), always
        self.pushes: list[Push] = []

    @property
    def subscription(self) -> dict[str, str]:
        """As arguments of notifications.subscriptions.subscribe."""
        return {"endpoint": self.endpoint, "p256dh": self.p256dh, "auth": self.auth}

    def decrypt(self, body: bytes) -> bytes:
        """Raises http_ece.ECEException for what was not encrypted for this browser."""
        text: bytes = http_ece.decrypt(body, private_key=self._private, auth_secret=self._secret, version="aes128gcm")
        return text

    def next_answer(self) -> Answer:
        return self.answers.pop(0) if self.answers else self.always


class PushService:
    """The service, in a thread with a loop of its own; `decrypts_at_once=False` leaves that to who reads `payload`."""

    def __init__(self, *, port: int = 0, vapid_public_key: str = "", decrypts_at_once: bool = True) -> None:
        self._port, self._key, self._decrypts = port, vapid_public_key, decrypts_at_once
        self._browsers: dict[str, Browser] = {}
        self._verified: set[str] = set()
        self._arrived = threading.Condition()
        self._may_answer = threading.Event()
        self._may_answer.set()
        self.pushes: list[Push] = []
        self.problems: list[str] = []
        self.connections = 0

    def __enter__(self) -> PushService:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="push service", daemon=True)
        self._thread.start()
        assert ready.wait(LONG_S), "the push service did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Is no longer there; stopping twice is fine."""
        self._may_answer.set()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LONG_S)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def browser(self, *answers: Answer, always: Answer | None = None) -> Browser:
        """A new subscription: it gets these answers first, then `always` (201) for ever."""
        token = secrets.token_urlsafe(24)
        browser = Browser(f"{self.origin}/push/{token}", answers, always or Answer())
        self._browsers[token] = browser
        return browser

    def hold(self) -> None:
        """Takes what comes, and says nothing until `let_go`."""
        self._may_answer.clear()

    def let_go(self) -> None:
        self._may_answer.set()

    def end_stalls(self) -> None:
        """Nothing stalls any more, also what does already."""
        self._loop.call_soon_threadsafe(self._stalls_end.set)

    def wait_for(self, count: int, *, timeout_s: float = LONG_S) -> list[Push]:
        """The pushes, as soon as there are so many; AssertionError when they are not there in time."""
        with self._arrived:
            there = self._arrived.wait_for(lambda: len(self.pushes) >= count, timeout_s)
            assert there, f"{len(self.pushes)} of {count} pushes within {timeout_s} s; {self.problems[:3]}"
            return self.pushes[:]

    def _run(self, ready: threading.Event) -> None:
        asyncio.run(self._serve(ready))

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop, self._stalls_end = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        application = web.Application(client_max_size=64 * 1024)
        application.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port)
        await site.start()
        assert runner.addresses
        self.port = int(runner.addresses[0][1])
        ready.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        at, wall_at = time.monotonic(), time.time()
        token = request.path.removeprefix("/push/")
        browser = self._browsers.get(token)
        if browser is None or request.method != "POST":
            return self._refuse(404, f"{request.method} {request.path}: no such subscription")
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = await request.read()
        try:
            self._check(headers, body)
            if self._decrypts:
                browser.decrypt(body)
        except (ValueError, KeyError, http_ece.ECEException) as error:
            return self._refuse(401 if "VAPID" in str(error) else 400, f"{error!r}")
        answer = browser.next_answer()
        push = Push(browser=browser, headers=headers, body=body, at=at, wall_at=wall_at, status=answer.status)
        browser.pushes.append(push)
        with self._arrived:
            self.pushes.append(push)
            self._arrived.notify_all()
        if answer.stall_s:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stalls_end.wait(), answer.stall_s)
        while not self._may_answer.is_set():
            await asyncio.sleep(0.01)
        return web.Response(status=answer.status, headers=answer.headers)

    def _refuse(self, status: int, why: str) -> web.Response:
        self.problems.append(why)
        return web.Response(status=status, text=why)

    def _check(self, headers: dict[str, str], body: bytes) -> None:
        """Raises ValueError for what a push service would not take."""
        if headers["content-encoding"] != "aes128gcm" or len(body) > _MAX_BODY_BYTES:
            raise ValueError(f"found {headers['content-encoding']} and {len(body)} bytes")
        if not 0 <= int(headers["ttl"]) <= 28 * 86_400:
            raise ValueError(f"found TTL {headers['ttl']}")
        if headers.get("urgency") not in (None, "very-low", "low", "normal", "high"):
            raise ValueError(f"found Urgency {headers['urgency']}")
        topic = headers.get("topic", "")
        if len(topic) > 32 or not set(topic) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"):
            raise ValueError(f"found Topic {topic!r}")
        self._check_vapid(headers["authorization"])

    def _check_vapid(self, authorization: str) -> None:
        if authorization in self._verified:
            return
        scheme, _, rest = authorization.partition(" ")
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        signed, _, signature = parts["t"].rpartition(".")
        header, claims = (json.loads(decode(part)) for part in signed.split("."))
        if scheme != "vapid" or header.get("alg") != "ES256" or claims["aud"] != self.origin:
            raise ValueError(f"VAPID: found {scheme}, {header}, aud {claims['aud']}")
        if not 0 < claims["exp"] - time.time() <= _MAX_VAPID_S or not claims["sub"].startswith(("mailto:", "https://")):
            raise ValueError(f"VAPID: found {claims}")
        if self._key and parts["k"] != self._key:
            raise ValueError("VAPID: found another key than the one subscribed with")
        raw = decode(signature)
        both = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), decode(parts["k"]))
        try:
            public.verify(both, signed.encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise ValueError("VAPID: the signature is not that of its key") from None
        self._verified.add(authorization)


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
