"""Telemetry that is a web app: any that speaks the REST contract in docs/telemetry.openapi.yaml.

Requests are signed by RFC 9421, so the key itself never travels. Only https, or this computer, is ever spoken to: a
profile holds the machine's private key.
"""

from __future__ import annotations

import http.client
import json
import secrets
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from django.conf import settings
from http_message_signatures import HTTPMessageSigner, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256

from machines.models import Machine
from machines.telemetry import web_rules
from machines.telemetry.answers import AnswerError, read_duty, read_json, read_last_word
from machines.telemetry.base import Duty, LastWord, MachineUnknown, Profile, TelemetryError
from machines.telemetry.bounded import ANSWER_LIMIT, Answer, Client, Request, TooLarge, TooLate

SIGNATURE_LABEL = "portafilter"
SIGNATURE_TAG = "portafilter-telemetry-v1"
SIGNED_FOR = timedelta(seconds=60)
SIGNED = ("@method", "@target-uri", "@authority")
# The signer adds content-digest itself.
SIGNED_WITH_BODY = (*SIGNED, "content-type", "content-length")

# A question goes on for a while when the rescue has stopped waiting: its answer is kept for the next one.
_QUESTION_S = 5.0
_DELIVERY_S = 10.0
_Read = TypeVar("_Read")


@dataclass
class _Message:
    """What a signer looks at."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)


class HttpTelemetry:
    """The web app at TELEMETRY_URL. One object may be used by any number of threads."""

    def __init__(self) -> None:
        try:
            self._url = web_rules.check_url(settings.TELEMETRY_URL)
            self._key_id = web_rules.check_key_id(settings.TELEMETRY_KEY_ID)
            key = web_rules.check_key(settings.TELEMETRY_KEY).encode()
        except ValueError as error:
            raise TelemetryError(f"The settings TELEMETRY_URL, _KEY_ID or _KEY: {error}") from None
        self._client = Client(self._url)
        self._signer = HTTPMessageSigner(
            signature_algorithm=HMAC_SHA256,
            key_resolver=MappingKeyResolver(public_keys={}, private_keys={self._key_id: key}),
        )

    def who_is_responsible(self, machine: Machine, *, now: datetime) -> Duty:
        at = now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        answer = self._get(machine, f"responsible?{urlencode({'at': at})}")
        return self._read(answer, lambda document: read_duty(document, source="http"))

    def last_word(self, machine: Machine) -> LastWord | None:
        answer = self._get(machine, "last-word", expected=(200, 204))
        return None if answer.status == 204 else self._read(answer, read_last_word)

    def deliver_profile(self, machine: Machine, profile: Profile) -> None:
        body = json.dumps({"profile": profile.text}).encode()
        url = self._address(machine, f"profiles/{quote(profile.identity_serial, safe='')}")
        self._send(machine, "PUT", url, body=body, timeout_s=_DELIVERY_S, expected=(200, 201, 204))

    def _get(self, machine: Machine, path: str, *, expected: tuple[int, ...] = (200,)) -> Answer:
        return self._send(machine, "GET", self._address(machine, path), timeout_s=_QUESTION_S, expected=expected)

    def _address(self, machine: Machine, path: str) -> str:
        fleet, serial = quote(machine.fleet.slug, safe=""), quote(machine.serial, safe="")
        return f"{self._url}/v1/machines/{fleet}/{serial}/{path}"

    def _send(
        self,
        machine: Machine,
        method: str,
        url: str,
        *,
        body: bytes | None = None,
        timeout_s: float,
        expected: tuple[int, ...],
    ) -> Answer:
        request = Request(method, url, lambda: self._headers(method, url, body), body)
        try:
            answer = self._client.send(request, timeout_s=timeout_s)
        except TooLate:
            raise TelemetryError(f"Telemetry did not answer within {timeout_s:g} s.") from None
        except TooLarge:
            words = f"Telemetry's answer is larger than {ANSWER_LIMIT // 1024} KiB, which is expected at most."
            raise TelemetryError(words) from None
        except ssl.SSLCertVerificationError as error:
            words = f"Telemetry's certificate is not valid for TELEMETRY_URL: {error.verify_message}."
            raise TelemetryError(words) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise TelemetryError(f"Telemetry at TELEMETRY_URL cannot be reached: {reason}.") from error
        if answer.status not in expected:
            raise _refusal(machine, answer.status, expected)
        return answer

    def _headers(self, method: str, url: str, body: bytes | None) -> Mapping[str, str]:
        headers = {"Host": urlsplit(url).netloc, "Accept": "application/json", "User-Agent": "Portafilter"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        message, now = _Message(method, url, headers), datetime.now(UTC)
        self._signer.sign(
            message,
            key_id=self._key_id,
            created=now,
            expires=now + SIGNED_FOR,
            nonce=secrets.token_urlsafe(16),
            label=SIGNATURE_LABEL,
            tag=SIGNATURE_TAG,
            covered_component_ids=SIGNED
            if body is None
            else tuple(n for n in SIGNED_WITH_BODY if n != "content-digest"),
            body=body,
        )
        return message.headers

    def _read(self, answer: Answer, reader: Callable[[Mapping[str, Any]], _Read]) -> _Read:
        kind = answer.content_type.partition(";")[0].strip().lower()
        if kind != "application/json":
            raise TelemetryError(f"Telemetry answered with {kind[:60]!a} as its type, expected application/json.")
        try:
            return reader(read_json(answer.body))
        except AnswerError as error:
            raise TelemetryError(f"Telemetry's answer is not what was agreed: {error}.") from None


def _refusal(machine: Machine, status: int, expected: tuple[int, ...]) -> TelemetryError:
    if status == 404:
        return MachineUnknown(f"Telemetry does not know {machine.serial} of {machine.fleet.name}.")
    if status in {401, 403}:
        words = "Is TELEMETRY_KEY the same there, under the name TELEMETRY_KEY_ID, and are both clocks right?"
        return TelemetryError(f"Telemetry does not take our signature (status {status}). {words}")
    if 300 <= status < 400:
        return TelemetryError(
            f"Telemetry answered with a redirect ({status}), which is not followed: TELEMETRY_URL is wrong."
        )
    wanted = " or ".join(str(one) for one in expected)
    return TelemetryError(
        f"Telemetry answered with status {status}, expected {wanted}.", permanent=status in {400, 422}
    )
