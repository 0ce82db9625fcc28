"""A portal in this process that enrols machines by the contract; certificates and profiles are the project's own."""

from __future__ import annotations

import datetime
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from machines.vpn import pki
from machines.vpn.profile import ClientProfile, client_profile

CODE = "7H2KQ-0ZX4M-PPN9V-31TDW"
_DAY = datetime.timedelta(days=1)


@dataclass
class ScriptedPortal:
    """One code, `trouble` used up first: status N, drop (before acting), lose (after acting), say TEXT."""

    calls: list[bytes] = field(default_factory=list)
    names: set[str] = field(default_factory=set)  # as what they said who calls
    trouble: deque[tuple[str, Any]] = field(default_factory=deque)
    changes: dict[str, Any] = field(default_factory=dict)  # fields of the answer that are to be others
    used_for: str = ""
    is_frozen: bool = False

    def __post_init__(self) -> None:
        self._now = datetime.datetime.now(datetime.UTC)
        self._authority = pki.make_authority(now=self._now, life=_DAY)
        self._tls_crypt_key = pki.new_tls_crypt_server_key()
        portal = self

        class Handler(_Handler):
            scripted = portal

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> ScriptedPortal:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def enrol(self, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """The contract: the same request again is answered again, another one freezes the machine."""
        if body["code"] != CODE:
            return 403, {"detail": "This code is not valid. Make a new one in the portal."}
        public = pki.key_of_request(body["csr"])
        if self.used_for not in ("", body["csr"]):
            self.is_frozen = True
            return 403, {"detail": "This code was used already. The machine is frozen."}
        self.used_for = body["csr"]
        return 201, {
            "serial": "IT-0042",
            "profile": self.profile(public),
            "api": {"url": "http://10.77.0.1:8001", "token": "abc.t0ken-s3cret"},
            "vpn_address": "10.77.1.1",
            **self.changes,
        }

    def profile(self, public: ec.EllipticCurvePublicKey) -> str:
        """What the server would send to the holder of this key."""
        certificate = pki.issue(self._authority, public, name="m-1", now=self._now, life=_DAY)
        return client_profile(
            ClientProfile(
                remote="vpn.example.com",
                port=1194,
                protocol="udp",
                authority=pki.certificate_pem(self._authority.certificate),
                certificate=pki.certificate_pem(certificate),
                tls_crypt_key=pki.new_tls_crypt_client_key(self._tls_crypt_key, b"m-1"),
            )
        )


class _Handler(BaseHTTPRequestHandler):
    scripted: ScriptedPortal

    def do_POST(self) -> None:
        portal = self.scripted
        body = self.rfile.read(int(self.headers["Content-Length"]))
        portal.calls.append(body)
        portal.names.add(self.headers.get("User-Agent", ""))
        kind: str
        value: Any
        kind, value = portal.trouble.popleft() if portal.trouble else ("", None)
        if kind == "drop" or self.path != "/enrol/":
            self.connection.close()
        elif kind == "status":
            self._answer(value, json.dumps({"detail": "scripted trouble"}))
        elif kind == "say":
            self._answer(200, value)
        else:
            status, document = portal.enrol(json.loads(body))
            if kind == "lose":
                self.connection.close()
            else:
                self._answer(status, json.dumps(document))

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
