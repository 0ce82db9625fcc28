"""What OpenVPN reads, in VPN_DIR: its configuration, certificates and keys, machines' addresses, revocations."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from machines import identities, vpn_health
from machines.authorisation import allow_list
from machines.authorisation.allow_list import AllowList
from machines.authorisation.rows import Wishes
from machines.authorisation.ways import Way
from machines.vpn import files, networks, profile

ALLOW_LIST_FILE = "allow-list.json"
# It is good for 30 days; one that was not renewed for that long locks everybody out.
_CRL_AGE = timedelta(hours=12)
_NEEDED = (
    profile.SERVER_FILE, profile.AUTHORITY_FILE, profile.CERTIFICATE_FILE, profile.KEY_FILE, profile.TLS_CRYPT_FILE,
    profile.CRL_FILE, profile.CLIENTS_FOLDER,
)  # fmt: skip


@dataclass(slots=True)
class ServerFiles:
    """The folder, and what of it was last written."""

    folder: Path
    network: ipaddress.IPv4Network
    _written: AllowList | None = None
    _revocations: tuple[int, datetime | None] | None = None
    _crl_at: datetime | None = None

    @property
    def allow_list_path(self) -> Path:
        return self.folder / ALLOW_LIST_FILE

    @property
    def socket_path(self) -> Path:
        return self.folder / profile.MANAGEMENT_SOCKET

    @property
    def tcp_socket_path(self) -> Path | None:
        """That of the second OpenVPN, if there is to be one."""
        return self.folder / profile.TCP_MANAGEMENT_SOCKET if settings.VPN_TCP_PORT else None

    def lacking(self) -> list[str]:
        """Those files that are not there and without which OpenVPN does not start."""
        return [name for name in _NEEDED if not (self.folder / name).exists()]

    def loaded_until(self, way: Way) -> datetime | None:
        """When the certificate ends that this OpenVPN runs with; None when that cannot be read."""
        return vpn_health.loaded_until(self.folder, over_tcp=way is Way.TCP)

    def write_server(self) -> bool:
        """The configuration, certificates and keys; whether any changed, which counts when OpenVPN starts again."""
        authority = identities.ensure_authority()
        config = profile.ServerConfig(
            folder=self.folder, network=self.network, device=settings.VPN_DEVICE, port=settings.VPN_PORT,
            protocol=settings.VPN_PROTOCOL,
        )  # fmt: skip
        contents = {
            profile.SERVER_FILE: profile.server_config(config, has_twin=settings.VPN_TCP_PORT is not None),
            profile.AUTHORITY_FILE: authority.certificate,
            profile.CERTIFICATE_FILE: authority.server_certificate,
            profile.KEY_FILE: authority.server_key,
            profile.TLS_CRYPT_FILE: authority.tls_crypt_key,
        }
        files.ensure_folder(self.folder)
        if settings.VPN_TCP_PORT is None:
            loaded = profile.LOADED_CONFIGURATIONS[profile.TCP_SERVER_FILE]
            for name in (profile.TCP_SERVER_FILE, profile.TCP_LOADED_FILE, loaded):
                (self.folder / name).unlink(missing_ok=True)
        else:
            second = replace(
                config, device=networks.tcp_device(config.device), port=settings.VPN_TCP_PORT, protocol="tcp"
            )
            contents[profile.TCP_SERVER_FILE] = profile.server_config(second, has_twin=True)
        return any([files.replace(self.folder / name, text.encode()) for name, text in contents.items()])

    def write_wishes(self, wishes: Wishes, *, now: datetime | None = None) -> None:
        """Revocations, addresses and the allow list, as far as they changed; the revocations first."""
        now = now or timezone.now()
        if self._revocations != wishes.revocations or self._crl_at is None or now - self._crl_at > _CRL_AGE:
            files.replace(self.folder / profile.CRL_FILE, identities.crl_pem(now=now))
            self._revocations, self._crl_at = wishes.revocations, now
        if self._written != wishes.allow_list:
            lines = {
                name: profile.client_line(allowed.address, self.network).encode()
                for name, allowed in wishes.allow_list.machines.items()
            }
            files.replace_all(self.folder / profile.CLIENTS_FOLDER, lines)
            allow_list.write(self.allow_list_path, wishes.allow_list)
            self._written = wishes.allow_list
