"""Fetches the roots by which databases of Amazon RDS are known, while the image is built: rds_roots.py FILE.

They are in no system's store, and RDS' certificates are signed by nothing else. AWS publishes them at an address of its
own over https, which the system's store vouches for; what comes is looked at before it is believed.
"""

from __future__ import annotations

import re
import ssl
import sys
import urllib.request
from pathlib import Path

URL = "https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"
_LIMIT = 4 * 1024 * 1024
_ONE = re.compile(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----")


def check(text: str) -> str:
    """The certificates in a bundle and nothing else; raises ValueError unless all are of Amazon RDS."""
    found = _ONE.findall(text.replace("\r\n", "\n"))
    if not found:
        raise ValueError("found no certificate, expected those of Amazon RDS")
    for one in found:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=one)
        certificates = context.get_ca_certs()
        names = dict(part[0] for part in certificates[0]["subject"]) if certificates else {}  # type: ignore[misc]
        if "Amazon RDS" not in str(names.get("commonName", "")):
            raise ValueError(f"found a certificate of {names.get('commonName')!r}, expected one of Amazon RDS")
    return "\n".join(found) + "\n"


def main(target: Path) -> None:
    with urllib.request.urlopen(URL, timeout=30) as answer:  # nosec B310: a constant, over https
        text = answer.read(_LIMIT).decode("ascii")
    target.write_text(check(text), encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
