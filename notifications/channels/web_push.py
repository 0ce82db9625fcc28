"""Web Push: encrypted for one browser (RFC 8291), signed for its push service (RFC 8292), posted there (RFC 8030).

The encryption is pywebpush's, the request is ours: 5 s at most, no redirects, only to the installation's push services,
only to public addresses. Signing costs more than encrypting, so a signature is used for half of its time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256

import aiohttp
from aiohttp.abc import AbstractResolver
from django.conf import settings
from py_vapid import Vapid02
from pywebpush import WebPusher, WebPushException
from yarl import URL

from notifications import wording
from notifications.channels.base import DeliveryError, Parcel
from notifications.channels.public_resolver import InwardAddress, PublicResolver
from notifications.push_rules import Endpoint, EndpointRefused, check_endpoint, parse_services

VERSION = 1
# Push services take 4,096 bytes with the encryption's own (RFC 8030, section 7.2); some take less.
MAX_PAYLOAD_BYTES = 3000
TIMEOUT_S = 5.0
# Push services keep no message longer than four weeks.
_MAX_TTL_S = 28 * 86_400
_VAPID_LASTS_S, _VAPID_USED_S = 12 * 3600, 6 * 3600
_MAX_RETRY_AFTER_S = 3600.0
_NAMES_KEPT_S = 60

_REFUSALS = {
    400: "It found something wrong with the message or the subscription",
    401: "It did not accept this installation's VAPID key",
    403: "The subscription belongs to another VAPID key, or was ended",
    413: "The message was too large for it",
}


class WebPush:
    """The `web_push` channel; one HTTP client in the loop of its first send."""

    def __init__(self, *, resolver: AbstractResolver | None = None, clock: Callable[[], float] = time.time) -> None:
        self._resolver, self._clock = resolver, clock
        self._client: aiohttp.ClientSession | None = None
        self._signatures: dict[str, tuple[float, str]] = {}
        self._key = Vapid02.from_raw(settings.VAPID_PRIVATE_KEY.encode())
        # py_vapid knows only some forms of `sub`; the settings have looked at ours.
        self._key.conf["no-strict"] = True

    async def send(self, parcel: Parcel) -> None:
        """Posts it; returns when the push service has taken it. Raises DeliveryError."""
        try:
            endpoint = check_endpoint(parcel.endpoint, settings.PUSH_SERVICES)
        except EndpointRefused as error:
            raise DeliveryError(str(error), permanent=True) from error
        status, retry_after = await self._post(endpoint, _encrypt(parcel), self._headers(endpoint, parcel))
        if not 200 <= status < 300:
            raise _refusal(endpoint.host, status, retry_after, now=self._clock())

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _headers(self, endpoint: Endpoint, parcel: Parcel) -> dict[str, str]:
        left_s = int(parcel.expires_at.timestamp() - self._clock())
        return {
            "Authorization": self._signature(endpoint.origin),
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
            "TTL": str(max(1, min(left_s, _MAX_TTL_S))),
            "Urgency": parcel.urgency,
            "Topic": topic_of(parcel.tag or str(parcel.id)),
        }

    def _signature(self, origin: str) -> str:
        now = self._clock()
        kept = self._signatures.get(origin)
        if kept is None or not now < kept[0] <= now + _VAPID_USED_S:
            claims = {"aud": origin, "exp": int(now) + _VAPID_LASTS_S, "sub": settings.VAPID_SUBJECT}
            if len(self._signatures) >= 1000:
                self._signatures.clear()
            kept = (now + _VAPID_USED_S, self._key.sign(claims)["Authorization"])
            self._signatures[origin] = kept
        return kept[1]

    async def _post(self, endpoint: Endpoint, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        """The answer's status and Retry-After."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await self._open().post(
                    URL(endpoint.url, encoded=True), data=body, headers=headers, allow_redirects=False
                )
                try:
                    # A short answer is read, so that the next push goes over the same connection.
                    await answer.content.read(4096)
                    return answer.status, answer.headers.get("Retry-After", "")
                finally:
                    answer.release()
        except TimeoutError as error:
            raise DeliveryError(f"{endpoint.host} did not answer within {TIMEOUT_S:.0f} s.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if _is_inward(error):
                raise DeliveryError(
                    f"{endpoint.host} leads to an address that is not public.", permanent=True
                ) from error
            raise DeliveryError(f"{endpoint.host} could not be reached ({type(error).__name__}).") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._client is None:
            services = parse_services(tuple(settings.PUSH_SERVICES))
            resolver = PublicResolver(
                inside={service.host for service in services if service.may_be_inside}, inner=self._resolver
            )
            connector = aiohttp.TCPConnector(
                resolver=resolver, limit=0, limit_per_host=0, ttl_dns_cache=_NAMES_KEPT_S, keepalive_timeout=60
            )
            self._client = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                trust_env=False,
                auto_decompress=False,
                headers={"User-Agent": "Portafilter"},
            )
        return self._client


def topic_of(tag: str) -> str:
    """The tag as a Topic: 32 characters of base64url at most (RFC 8030, section 5.4). What waits at the push service
    is replaced by the next with the same Topic, as the notification on the screen is by its tag."""
    return base64.urlsafe_b64encode(sha256(tag.encode()).digest()[:24]).decode()


def payload_of(parcel: Parcel) -> bytes:
    """What the service worker reads, in at most MAX_PAYLOAD_BYTES: words are left out where there are too many."""
    room = MAX_PAYLOAD_BYTES - len(_json(parcel, title="", body=""))
    title = _fit(parcel.title, room // 2)
    body = _fit(parcel.body, room - _written(title))
    return _json(parcel, title=title, body=body)


def _fit(text: str, room: int) -> str:
    """The text, shortened until it is written in JSON in so many bytes."""
    max_bytes = room
    fitting = wording.shorten(text, max_chars=len(text) or 1, max_bytes=max_bytes)
    while fitting and (excess := _written(fitting) - room) > 0:
        max_bytes = min(max_bytes, len(fitting.encode())) - excess
        fitting = wording.shorten(text, max_chars=len(text), max_bytes=max_bytes)
    return fitting


def _written(text: str) -> int:
    """Bytes of a text in JSON, without its quotes."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _json(parcel: Parcel, *, title: str, body: str) -> bytes:
    return json.dumps(
        {
            "v": VERSION,
            "kind": parcel.kind,
            "title": title,
            "body": body,
            "url": parcel.url,
            "tag": parcel.tag,
            "subject": parcel.subject,
            "actions": list(parcel.actions),
            "silent": parcel.is_silent,
            "at": parcel.created_at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def _encrypt(parcel: Parcel) -> bytes:
    keys = {"p256dh": parcel.p256dh, "auth": parcel.auth}
    try:
        pusher = WebPusher({"endpoint": parcel.endpoint, "keys": keys})
        body: bytes = pusher.encode(payload_of(parcel), "aes128gcm")["body"]
    except (WebPushException, ValueError, TypeError, IndexError) as error:
        raise DeliveryError("The browser's keys are not keys of Web Push.", permanent=True) from error
    return body


def _refusal(host: str, status: int, retry_after: str, *, now: float) -> DeliveryError:
    if status in (404, 410):
        return DeliveryError(f"{host} answered {status}: the browser no longer takes messages.", is_gone=True)
    if status == 429 or status >= 500:
        return DeliveryError(f"{host} answered {status}.", retry_after_s=_seconds(retry_after, now=now))
    if 300 <= status < 400:
        return DeliveryError(f"{host} answered {status}: redirects are not followed.", permanent=True)
    why = _REFUSALS.get(status, "It refused the message")
    return DeliveryError(f"{host} answered {status}. {why}.", permanent=True)


def _seconds(retry_after: str, *, now: float) -> float | None:
    """Retry-After's seconds or date (RFC 9110, section 10.2.3), an hour at most; None when it says nothing."""
    text = retry_after.strip()[:64]
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - datetime.fromtimestamp(now, UTC)).total_seconds(), 0.0), _MAX_RETRY_AFTER_S)


def _is_inward(error: BaseException | None) -> bool:
    """aiohttp wraps what a resolver raises."""
    while error is not None:
        if isinstance(error, InwardAddress):
            return True
        error = error.__cause__ or error.__context__
    return False
