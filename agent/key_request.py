"""This machine's own key and the request for its certificate, made by the openssl program: the key never leaves.

Python's standard library makes no keys. `openssl` comes with Debian, and with OpenVPN for Windows.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

_TIMEOUT_S = 30.0
_PLACES = ("/usr/bin", r"C:\Program Files\OpenVPN\bin")
# A file of its own: the system's may ask questions, or be missing as on Windows. The server names the machine itself.
_REQUEST_SETTINGS = "[req]\nprompt = no\ndistinguished_name = name\n[name]\nCN = machine\n"


class OpensslError(Exception):
    """The openssl program is missing or did not do its work; the text never holds a key."""


def make_key(openssl: str) -> str:
    """A new P-256 key as PEM. Raises OpensslError."""
    arguments = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    key = _run(openssl, [*arguments, "-pkeyopt", "ec_param_enc:named_curve"])
    return _checked(key, "PRIVATE KEY")


def make_request(openssl: str, key_file: Path) -> str:
    """The request for a certificate for the key in that file, as PEM. Raises OpensslError."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "request.cnf"
        settings.write_text(_REQUEST_SETTINGS, encoding="ascii")
        request = _run(openssl, ["req", "-new", "-sha256", "-config", str(settings), "-key", str(key_file)])
    return _checked(request, "CERTIFICATE REQUEST")


def belong_together(openssl: str, *, key: str, certificate: str) -> bool:
    """Whether the certificate is for this key. Raises OpensslError."""
    public = _run(openssl, ["pkey", "-pubout"], key)
    return public.split() == _run(openssl, ["x509", "-noout", "-pubkey"], certificate).split()


def _run(openssl: str, arguments: list[str], given: str = "") -> str:
    program = shutil.which(openssl) or next(
        (where for place in _PLACES if (where := shutil.which(openssl, path=place))), None
    )
    if program is None:
        raise OpensslError(f"found no program {openssl!r}, expected openssl 1.1.1 or newer (--openssl names another)")
    try:
        done = subprocess.run(
            [program, *arguments], input=given.encode("ascii"), capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = getattr(error, "strerror", None) or f"it took longer than {_TIMEOUT_S:g} s"
        raise OpensslError(f"{program} {arguments[0]}: {reason}") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        raise OpensslError(f"{program} {arguments[0]} ended with status {done.returncode}: {said[-1] if said else '-'}")
    return done.stdout.decode("ascii", errors="replace").replace("\r\n", "\n")


def _checked(text: str, label: str) -> str:
    if not text.startswith(f"-----BEGIN {label}-----\n") or not text.endswith(f"-----END {label}-----\n"):
        raise OpensslError(f"openssl printed something else than one PEM block {label!r}")
    return text
