"""Makes the VPN's authority, once; renews the server's certificate in good time."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from django.core.checks import Tags
from django.core.management.base import BaseCommand

from machines import identities


class Command(BaseCommand):
    requires_system_checks = [Tags.models]
    help = "Makes the authority that signs machines' certificates, unless there is one; renews the VPN server's."

    def handle(self, *args: Any, **options: Any) -> None:
        authority = identities.ensure_authority()
        for what, text in (("Authority", authority.certificate), ("Server", authority.server_certificate)):
            certificate = x509.load_pem_x509_certificate(text.encode())
            end = certificate.not_valid_after_utc
            self.stdout.write(f"{what} certificate {certificate.serial_number:x}, good until {end:%Y-%m-%d}")
        for sentence in identities.health():
            self.stdout.write(sentence)
