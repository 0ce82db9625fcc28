"""Who a caller of the machines' face is: its bearer token and its own VPN address, both (T13)."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request

from machines import services
from machines.errors import TokenRefused
from machines.models import Machine


@dataclass(frozen=True, slots=True)
class MachineCaller:
    """A machine as Django REST framework's `request.user`."""

    machine: Machine
    is_authenticated: bool = True


class MachineAuthentication(BaseAuthentication):
    """`Authorization: Bearer <prefix>.<secret>` from the machine's own address; anything else is refused."""

    def authenticate(self, request: Request) -> tuple[MachineCaller, None]:
        """Raises TokenRefused (401) or AddressRefused (403, with a row in the security record)."""
        scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if not scheme:
            raise TokenRefused("No machine token was sent. Expected `Authorization: Bearer <prefix>.<secret>`.")
        if scheme.lower() != "bearer":
            raise TokenRefused("Found another kind of `Authorization`, expected `Bearer <prefix>.<secret>`.")
        machine = services.authenticate_machine(token.strip(), peer_address=peer_address(request.META))
        return MachineCaller(machine), None

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="portafilter"'


def peer_address(meta: dict[str, Any]) -> str:
    """The address of the socket's other end; headers and bodies have no say in it."""
    address = str(meta.get("REMOTE_ADDR") or "")
    try:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    except ValueError:
        return address
    return str(mapped or address)  # a socket for both families sees IPv4 callers as ::ffff:a.b.c.d


class MachineScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the schema tells of it."""

    target_class = "machines.api.authentication.MachineAuthentication"
    name = "machineToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "The machine's token, `prefix.secret`; it counts only from the machine's own VPN address.",
        }
