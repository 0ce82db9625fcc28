"""The texts that OpenVPN reads: a machine's profile, the server's configuration, a machine's line at the server.

OpenVPN takes a newline in a value for another option, and some options run programs. So every field is checked for
what it may consist of before any text is made (T20); what is refused is refused by the field's name.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from machines.vpn import networks, pki

_PATH = re.compile(r"/[\w.,@+=~ /-]*")
_ARMOUR = re.compile(r"-----BEGIN ([A-Za-z0-9 -]{1,60})-----\n([A-Za-z0-9+/=\n]{1,9000})\n-----END \1-----\n")
# A Unix socket's path has this many bytes in the kernel, its end included.
_SOCKET_PATH_LIMIT = 108
_PROTOCOLS = {"udp": ("udp4", "udp4"), "tcp": ("tcp4-server", "tcp4-client")}

# Both sides must agree on these.
_COMMON = """\
tls-version-min 1.2
data-ciphers AES-256-GCM:CHACHA20-POLY1305
auth SHA256
tun-mtu 1400
mssfix 1300
persist-key
"""
# The server may tell a machine its address and how to keep the line, and nothing else: no route, no DNS, no program.
_PULLED = ("topology ", "ifconfig ", "ping", "peer-id ", "cipher ", "protocol-flags ", "tun-mtu ", "key-derivation ")


class ProfileError(ValueError):
    """A field of a configuration is not what it may be; the text names the field, what was found and expected."""


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """What a machine needs to know to join."""

    remote: str
    port: int
    protocol: str
    authority: str
    certificate: str
    tls_crypt_key: str = field(repr=False)
    # None: the machine made its key itself and has it.
    key: str | None = field(default=None, repr=False)
    # At which the server is also reached over TCP, where UDP does not pass. None: it is not.
    tcp_port: int | None = None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What the server needs to know; the files are in `folder`, by the names below."""

    folder: Path
    network: ipaddress.IPv4Network
    device: str
    port: int
    protocol: str
    max_clients: int = 4096


# The files in the server's folder; all are its owner's alone.
SERVER_FILE = "server.conf"
TCP_SERVER_FILE = "server-tcp.conf"
AUTHORITY_FILE = "ca.crt"
CERTIFICATE_FILE = "server.crt"
KEY_FILE = "server.key"
TLS_CRYPT_FILE = "tls-crypt-v2.key"
CRL_FILE = "crl.pem"
CLIENTS_FOLDER = "ccd"
MANAGEMENT_SOCKET = "management.sock"
TCP_MANAGEMENT_SOCKET = "management-tcp.sock"
# The certificates that the first and the second OpenVPN run with. OpenVPN reads its own when it starts and never again,
# so whoever starts it copies CERTIFICATE_FILE to this name just before (openvpn.sh does).
LOADED_FILE = "loaded.crt"
TCP_LOADED_FILE = "loaded-tcp.crt"
# The same of its configuration.
LOADED_CONFIGURATIONS = {SERVER_FILE: "loaded.conf", TCP_SERVER_FILE: "loaded-tcp.conf"}


def loaded_certificate(folder: Path, *, over_tcp: bool = False) -> Path:
    """Where the certificate is that OpenVPN runs with; that which it starts with where nobody wrote the first down."""
    loaded = folder / (TCP_LOADED_FILE if over_tcp else LOADED_FILE)
    # Not Path.exists, which raises where the folder is not ours to look into, as for all but OpenVPN's own user.
    return loaded if os.path.exists(loaded) else folder / CERTIFICATE_FILE


def client_profile(profile: ClientProfile) -> str:
    """The text of a machine's .ovpn file; raises ProfileError.

    Without a key in the profile OpenVPN must be told of it otherwise (`--key FILE`).
    """
    _check_host("remote", profile.remote)
    _check_number("port", profile.port, maximum=65535)
    _, protocol = _check_protocol("protocol", profile.protocol)
    blocks = {
        "ca": _checked_block("authority", profile.authority, "CERTIFICATE"),
        "cert": _checked_block("certificate", profile.certificate, "CERTIFICATE"),
    }
    if profile.key is not None:
        blocks["key"] = _checked_block("key", profile.key, "PRIVATE KEY")
    blocks["tls-crypt-v2"] = _checked_block("tls_crypt_key", profile.tls_crypt_key, "OpenVPN tls-crypt-v2 client key")
    filters = "".join(f'pull-filter accept "{beginning}"\n' for beginning in _PULLED)
    inline = "".join(f"<{name}>\n{text}</{name}>\n" for name, text in blocks.items())
    exit_notice = "explicit-exit-notify 1\n" if profile.protocol == "udp" else ""
    remotes = f"remote {profile.remote} {profile.port}\n"
    if profile.tcp_port is not None:
        # OpenVPN goes round by itself. With TCP among them it refuses an exit notice: the server over UDP pushes it.
        _check_number("tcp_port", profile.tcp_port, maximum=65535)
        _, tcp = _PROTOCOLS["tcp"]
        ways = ((profile.port, protocol), (profile.tcp_port, tcp))
        remotes = "".join(f"remote {profile.remote} {port} {kind}\n" for port, kind in ways)
        filters = f'pull-filter accept "explicit-exit-notify "\n{filters}'
        exit_notice = ""
    return (
        "client\ndev tun\ndev-type tun\n"
        f"proto {protocol}\n{remotes}nobind\n"
        "resolv-retry infinite\nconnect-retry 2 30\nconnect-timeout 6\n"
        # Who has joined when nobody was there to let it in (a server's restart) asks again after this, not 60 s.
        "hand-window 20\n"
        f"remote-cert-tls server\nverify-x509-name {pki.SERVER_NAME} name\n"
        f'{_COMMON}{filters}pull-filter ignore ""\n{exit_notice}{inline}'
    )


def server_config(config: ServerConfig, *, has_twin: bool = False) -> str:
    """The text of server.conf; raises ProfileError. With a twin it is one of two: the first over UDP, or that over TCP.

    Addresses come from the authorisation agent on the management socket, and from the machine's file in `ccd`. No
    ccd-exclusive: it would turn a machine away that was registered this moment, before the agent is asked, and nobody
    is let in without the agent anyway. There is no client-to-client: what passes is for the firewall alone.
    """
    _check_network("network", config.network)
    if not isinstance(config.device, str) or not re.fullmatch(networks.DEVICE, config.device):
        raise _refusal("device", config.device, "an interface's name of 15 letters, digits, - or _ at most")
    _check_number("port", config.port, maximum=65535)
    protocol, _ = _check_protocol("protocol", config.protocol)
    _check_number("max_clients", config.max_clients, maximum=100_000)
    is_second = has_twin and config.protocol == "tcp"
    # Of two devices with the server's address one leads to the network; over the other the agent leads each machine.
    netmask = "255.255.255.255" if is_second else config.network.netmask
    socket_name = TCP_MANAGEMENT_SOCKET if is_second else MANAGEMENT_SOCKET
    folder = _checked_folder("folder", config.folder, socket_name)
    per_protocol = (
        # So many first packets in 10 s before OpenVPN takes them for a flood: a whole region's power coming back.
        "explicit-exit-notify 1\nconnect-freq-initial 1000 10\n" if config.protocol == "udp" else "tcp-nodelay\n"
    )
    if has_twin and config.protocol == "udp":
        per_protocol += 'push "explicit-exit-notify 1"\n'
    return (
        "mode server\ntls-server\n"
        f"proto {protocol}\nport {config.port}\ndev {config.device}\ndev-type tun\n"
        'topology subnet\npush "topology subnet"\n'
        f"ifconfig {networks.server_address(config.network)} {netmask}\n"
        f'client-config-dir "{folder}/{CLIENTS_FOLDER}"\nmax-clients {config.max_clients}\n'
        f'ca "{folder}/{AUTHORITY_FILE}"\ncert "{folder}/{CERTIFICATE_FILE}"\nkey "{folder}/{KEY_FILE}"\ndh none\n'
        f'tls-crypt-v2 "{folder}/{TLS_CRYPT_FILE}"\ncrl-verify "{folder}/{CRL_FILE}"\n'
        "remote-cert-tls client\nverify-client-cert require\n"
        f'management "{folder}/{socket_name}" unix\nmanagement-client-auth\nauth-user-pass-optional\n'
        # Each side is heard every 5 s; after 15 s (30 s at the server, which waits twice as long) the line is gone. So
        # a server that was killed has its machines back after some 20 s, and their desktops within 30 s.
        f"keepalive 5 15\nreneg-sec 3600\npersist-tun\nscript-security 0\nverb 3\n{_COMMON}{per_protocol}"
    )


def client_line(address: str, network: ipaddress.IPv4Network) -> str:
    """The one line of a machine's file at the server: its fixed address. Raises ProfileError."""
    _check_network("network", network)
    try:
        parsed = ipaddress.IPv4Address(address)
    except ValueError:
        parsed = None
    if parsed is None or parsed not in network or not networks.is_machines(int(parsed), network):
        raise _refusal("address", address, f"a machine's address in {network}")
    return f"ifconfig-push {parsed} {network.netmask}\n"


def _check_host(name: str, value: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(networks.HOST, value):
        raise _refusal(name, value, "a host name or an IPv4 address")


def _check_number(name: str, value: int, *, maximum: int) -> None:
    if type(value) is not int or not 1 <= value <= maximum:
        raise _refusal(name, value, f"a number from 1 to {maximum}")


def _check_protocol(name: str, value: str) -> tuple[str, str]:
    found = _PROTOCOLS.get(value) if isinstance(value, str) else None
    if found is None:
        raise _refusal(name, value, "udp or tcp")
    return found


def _check_network(name: str, value: ipaddress.IPv4Network) -> None:
    if not isinstance(value, ipaddress.IPv4Network):
        raise _refusal(name, value, "an IPv4 network")


def _checked_folder(name: str, value: Path, socket_name: str) -> str:
    text = str(value)
    if not _PATH.fullmatch(text) or "\n" in text or ".." in value.parts:
        raise _refusal(name, text, "an absolute path of letters, digits, blanks and .,@+=~_- without ..")
    if len(f"{text}/{socket_name}".encode()) >= _SOCKET_PATH_LIMIT:
        raise _refusal(name, text, f"a shorter path: with /{socket_name} {_SOCKET_PATH_LIMIT - 1} bytes at most")
    return text.rstrip("/")


def _checked_block(name: str, value: str, label: str) -> str:
    found = _ARMOUR.fullmatch(value) if isinstance(value, str) and len(value) < 10_000 else None
    if found is None or found[1] != label:
        # What was found is not shown: it may be a key.
        raise ProfileError(f"{name}: found something else than expected: one PEM block “{label}”.")
    try:
        base64.b64decode(found[2].replace("\n", ""), validate=True)
    except binascii.Error:
        raise ProfileError(f"{name}: found a PEM block “{label}” whose content is no base64.") from None
    return value


def _refusal(name: str, value: object, expected: str) -> ProfileError:
    text = repr(value)
    shown = text if len(text) <= 80 else f"{text[:77]}…"
    return ProfileError(f"{name}: found {shown}, expected {expected}.")
