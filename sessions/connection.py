"""What a session's desktop is connected with: the machine's address, its one-off login, and how, from the profile.

Only an address that the VPN driver knows as a machine's is ever dialled, whatever a row says (T12).
"""

from __future__ import annotations

from dataclasses import dataclass

from django.db.models import Q

from machines.encryption import DecryptionError
from machines.models import Machine
from machines.vpn.base import AddressError, get_driver
from sessions.guacamole import ArgumentRefused, Display, Handshake
from sessions.models import ConnectionProfile, RdpCredential, SupportSession

# The name by which the machine's RDP server knows us; Windows shows 15 characters of it.
CLIENT_NAME = "Portafilter"
_SECRET = frozenset({"username", "password", "domain"})


class NotConnectable(Exception):
    """This session's desktop cannot be dialled as its rows are now; the text says why and holds no secret."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One RDP connection to be made. Its handshake holds the login, until it has been sent; nothing else does."""

    hostname: str
    port: int
    parameters: dict[str, str]  # for the record: what the handshake says, the login left out
    handshake: Handshake


def profile_for(machine: Machine) -> ConnectionProfile:
    """The most exact profile for a machine (fleet and model, fleet, model, neither), or the defaults, unsaved."""
    fitting = ConnectionProfile.objects.filter(
        Q(fleet=machine.fleet_id) | Q(fleet=None), Q(machine_model=machine.model_id) | Q(machine_model=None)
    )
    best = max(fitting, key=lambda one: (one.fleet_id is not None, one.machine_model_id is not None), default=None)
    return best or ConnectionProfile(name="Defaults")


def joiner_arguments(machine: Machine) -> dict[str, str]:
    """What those who join the desktop say in their own handshake: guacd checks the clipboard for each user."""
    return _clipboard(profile_for(machine))


def connection_for(session: SupportSession) -> Connection | None:
    """What the keeper dials, the login decrypted; None when the session has none any more, as after its end.

    Raises NotConnectable.
    """
    machine = session.machine
    try:
        get_driver().check_address(machine.vpn_address)
        login = RdpCredential.objects.filter(session=session).first()
    except AddressError as error:
        raise NotConnectable(f"The machine's address is not dialled. {error}") from error
    except DecryptionError as error:
        raise NotConnectable(f"The machine's login cannot be read. {error}") from error
    if login is None:
        return None
    profile = profile_for(machine)
    # What somebody set for these machines counts more than what a machine says of itself.
    security = login.security if profile.security == ConnectionProfile.Security.ANY else profile.security
    arguments = {
        "hostname": machine.vpn_address,
        "port": str(login.port),
        "username": login.username,
        "password": login.password,
        "domain": login.domain,
        "security": security,
        "ignore-cert": _boolean(profile.ignore_certificate),
        "client-name": CLIENT_NAME,
        "server-layout": profile.server_layout,
        "color-depth": str(profile.color_depth),
        "enable-wallpaper": _boolean(profile.enable_wallpaper),
        "enable-font-smoothing": _boolean(profile.enable_font_smoothing),
        "disable-gfx": _boolean(profile.disable_gfx),
        **_clipboard(profile),
    }
    display = Display(profile.width, profile.height, profile.dpi)
    try:
        handshake = Handshake.open_rdp(arguments, display=display, name=CLIENT_NAME)
    except ArgumentRefused as error:
        raise NotConnectable(f"The connection profile or the login cannot be used: {error}.") from error
    shown = {name: value for name, value in arguments.items() if value and name not in _SECRET}
    return Connection(machine.vpn_address, login.port, shown, handshake)


def _clipboard(profile: ConnectionProfile) -> dict[str, str]:
    return {"disable-copy": _boolean(not profile.allow_copy), "disable-paste": _boolean(not profile.allow_paste)}


def _boolean(value: bool) -> str:
    return "true" if value else "false"
