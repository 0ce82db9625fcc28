"""Makes this machine known: a code from the portal becomes a VPN identity, a token and the agent's settings.

The code counts once. So that a lost answer costs nothing, the key and the request for its certificate are on disk
before the request is sent, and it is sent again as it is, also by a later run, until an answer is there: to the server,
the same code with the same request is the same enrolment. (Another request with a used code freezes the machine.)

Files are replaced whole, the settings last; a run that was cut off is done again with the same code. The machine's key
is in its profile alone, and never leaves this machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import logging
import shutil
import ssl
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.api import ANSWER_LIMIT, ApiError, Backoff, json_object, keep_trying, refusal
from agent.config import check_address, check_token, check_url
from agent.files import erase, private_folder, read_json, write_json, write_text
from agent.key_request import belong_together, make_key, make_request
from agent.locks import try_lock
from agent.profile import certificate_of, with_key
from agent.settings_file import changed

log = logging.getLogger("agent.enrol")

GIVE_UP_AFTER_S = 120.0
_TIMEOUT_S = 20.0
_ALPHABET = frozenset("0123456789ABCDEFGHJKMNPQRSTVWXYZ")  # Crockford's base32: no I, L, O, U
_CODE_LENGTH = 20
_HERE = Path(__file__).resolve().parent


class EnrolError(Exception):
    """The machine could not be enrolled; the text says what was found, expected, and what to do, and no secret."""


@dataclass(frozen=True)
class Answer:
    """What the server made of the code."""

    serial: str
    profile: str = field(repr=False)
    api_url: str
    token: str = field(repr=False)
    vpn_address: str


@dataclass(frozen=True)
class Enrolment:
    """Where and with what to enrol; `code` is normalised by `read_code`."""

    origin: str
    code: str = field(repr=False)
    config_path: Path
    openssl: str = "openssl"
    ca_file: Path | None = None

    def run(self) -> Answer:
        """Enrols this machine and writes its files.

        Raises EnrolError, ApiError, OpensslError, ProfileError, OSError: then the old files are all as they were, but
        for a disk that fails between two of the new ones; the same command again makes them whole.
        """
        folder = self.config_path.resolve().parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        pending = private_folder(folder / "enrolling")
        with _only_one(pending):
            key, body = self._key_and_body(pending)
            log.info("enrol: asking %s", self.origin)
            document = keep_trying(
                lambda: self._post(body),
                stop=threading.Event(),
                what="enrol",
                give_up_after_s=GIVE_UP_AFTER_S,
                backoff=Backoff(first_s=1.0, largest_s=15.0),
            )
            answer = _answer(document)
            profile = with_key(answer.profile, key)
            if not belong_together(self.openssl, key=key, certificate=certificate_of(profile)):
                raise EnrolError("the certificate in the answer is not for this machine's key: ask for a new code")
            self._write(folder, answer, profile)
            for name in ("request.json", "agent.key"):
                erase(pending / name)
        shutil.rmtree(pending, ignore_errors=True)
        log.info("enrol: this machine is %s, %s in the VPN", answer.serial, answer.vpn_address)
        return answer

    def _key_and_body(self, pending: Path) -> tuple[str, bytes]:
        """The key, and what is sent: the same bytes at every try with this code, also in a later run."""
        key_file, request_file = pending / "agent.key", pending / "request.json"
        code_hash = hashlib.sha256(self.code.encode("ascii")).hexdigest()
        request = read_json(request_file)
        if request is None or request.get("code_sha256") != code_hash or not key_file.exists():
            erase(request_file)
            write_text(key_file, make_key(self.openssl))
            request = {"code_sha256": code_hash, "csr": make_request(self.openssl, key_file)}
            write_json(request_file, request)
            log.info("enrol: made this machine's key")
        else:
            log.info("enrol: going on with the key of an earlier try")
        body = json.dumps({"code": _grouped(self.code), "csr": request["csr"]}).encode("ascii")
        return key_file.read_text(encoding="ascii"), body

    def _post(self, body: bytes) -> dict[str, Any]:
        parts = urlsplit(self.origin)
        connection: http.client.HTTPConnection
        if parts.scheme == "https":
            tls = ssl.create_default_context(cafile=self.ca_file)
            connection = http.client.HTTPSConnection(parts.netloc, timeout=_TIMEOUT_S, context=tls)
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_S)
        # Firewalls before a portal refuse who does not say what it is.
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "portafilter-agent"}
        with contextlib.closing(connection):
            try:
                connection.request("POST", f"{parts.path}/enrol/", body=body, headers=headers)
                response = connection.getresponse()
                text = response.read(ANSWER_LIMIT + 1)
            except ssl.SSLCertVerificationError as error:
                words = f"{self.origin}: its certificate is not valid: {error.verify_message}"
                raise ApiError(words, retryable=False) from error
            except (OSError, http.client.HTTPException) as error:
                reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                raise ApiError(f"no answer from {self.origin}: {reason}", retryable=True) from error
        if response.status not in (200, 201):
            raise refusal(self.origin, response, text)
        document = json_object(text)
        if document is None:
            # A captive portal or half an answer: the next try may reach the real server.
            raise ApiError(f"{self.origin} answered without JSON, expected an object", retryable=True)
        return document

    def _write(self, folder: Path, answer: Answer, profile: str) -> None:
        old = self.config_path.read_text(encoding="utf-8-sig") if self.config_path.exists() else _new_settings(folder)
        settings = changed(
            old,
            {
                ("api", "url"): answer.api_url,
                ("api", "token_file"): "token",
                ("api", "token"): None,
                # The tunnel brings the address; one from before would be another.
                ("api", "source_address"): None,
                ("vpn", "profile"): "profile.ovpn",
            },
        )
        write_text(folder / "profile.ovpn", profile)
        write_text(folder / "token", answer.token + "\n")
        write_text(self.config_path, settings)


def read_where(text: str, *, allow_http: bool = False) -> tuple[str, str]:
    """The portal's address, and the code if the text is a whole one as the QR picture holds it. Raises EnrolError."""
    address, _, code = text.strip().partition("#")
    address = address.rstrip("/")
    if address.endswith("/enrol"):
        address = address[: -len("/enrol")]
    try:
        origin = check_url(address)
    except ValueError:
        raise EnrolError("found no address of a portal, expected one such as https://portal.example.com") from None
    if urlsplit(origin).scheme != "https" and not allow_http and not _is_loopback(urlsplit(origin).hostname or ""):
        raise EnrolError(
            f"found {origin}, expected https://…: the code and this machine's token must not cross the line in clear. "
            "For a trial: --allow-http"
        )
    return origin, code


def read_code(text: str) -> str:
    """The 20 characters of a code, however they were typed. Raises EnrolError, which does not quote it."""
    code = text.upper().replace("-", "").replace(" ", "").strip()
    code = code.replace("I", "1").replace("L", "1").replace("O", "0")  # as Crockford reads them
    if len(code) != _CODE_LENGTH or not set(code) <= _ALPHABET:
        raise EnrolError(
            f"found {len(code)} letters and digits that are no code, expected {_CODE_LENGTH} as the portal shows them: "
            "XXXXX-XXXXX-XXXXX-XXXXX"
        )
    return code


def _grouped(code: str) -> str:
    return "-".join(code[at : at + 5] for at in range(0, _CODE_LENGTH, 5))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _answer(document: dict[str, Any]) -> Answer:
    """The server's answer, checked. Raises EnrolError that names the field and not its value."""
    api = document.get("api")
    api = api if isinstance(api, dict) else {}
    found = {
        "serial": document.get("serial"),
        "profile": document.get("profile"),
        "vpn_address": document.get("vpn_address"),
        "api.url": api.get("url"),
        "api.token": api.get("token"),
    }
    texts: dict[str, str] = {}
    checks = {"api.url": check_url, "api.token": check_token, "vpn_address": check_address}
    for name, value in found.items():
        if not isinstance(value, str) or not value or (name != "profile" and not value.isprintable()):
            raise EnrolError(f"the answer's {name} is not what was expected: one line of text")
        try:
            texts[name] = checks[name](value) if name in checks else value
        except ValueError as error:
            raise EnrolError(f"the answer's {name} is not what was expected: {error}") from None
    return Answer(
        serial=texts["serial"],
        profile=texts["profile"],
        api_url=texts["api.url"],
        token=texts["api.token"],
        vpn_address=texts["vpn_address"],
    )


def _new_settings(folder: Path) -> str:
    """The example, with the hooks of this very folder."""
    if sys.platform == "win32":
        shell = ("powershell.exe", "-NoProfile", "-NonInteractive", "-File")
        commands = [(*shell, str(_HERE / "hooks" / "windows" / f"{name}-Rdp.ps1")) for name in ("Open", "Close")]
    else:
        commands = [(str(_HERE / "hooks" / "linux" / f"{name}-rdp"),) for name in ("open", "close")]
    values: dict[tuple[str, str], str | None] = {
        ("rdp", f"{name}_command"): "".join(f"\n    {argument}" for argument in command)
        for name, command in zip(("open", "close"), commands)  # noqa: B905 - strict= came with Python 3.10
    }
    if sys.platform != "win32" and folder.parts[:2] == ("/", "etc"):
        values["machine", "state_dir"] = "/var/lib/portafilter-agent"  # what changes does not belong in /etc
    return changed((_HERE / "agent.ini.example").read_text(encoding="utf-8"), values)


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    with open(folder / "lock", "a+b") as lock:
        if not try_lock(lock):
            raise EnrolError("this machine is being enrolled by another command just now: wait for that one")
        yield
