"""What OpenVPN reads: nothing gets into it that was not checked, and what is refused is refused by its name (T20)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import profile as agent_profile
from machines.vpn import pki
from machines.vpn.profile import (
    ClientProfile,
    ProfileError,
    ServerConfig,
    client_line,
    client_profile,
    server_config,
)

NOW = datetime(2026, 11, 23, tzinfo=UTC)
NETWORK = ipaddress.IPv4Network("10.77.0.0/20")
_AUTHORITY = pki.make_authority(now=NOW, life=timedelta(days=30))
_KEY = pki.new_key()
_PEM = pki.certificate_pem(pki.issue(_AUTHORITY, _KEY.public_key(), name="m-17", now=NOW, life=timedelta(days=1)))
PROFILE = ClientProfile(
    remote="vpn.example.com",
    port=1194,
    protocol="udp",
    authority=pki.certificate_pem(_AUTHORITY.certificate),
    certificate=_PEM,
    tls_crypt_key=pki.new_tls_crypt_client_key(pki.new_tls_crypt_server_key(), b"m-17"),
    key=pki.key_pem(_KEY),
)
SERVER = ServerConfig(folder=Path("/srv/portafilter/vpn"), network=NETWORK, device="tun-pf", port=1194, protocol="udp")

HOSTILE: list[Any] = [
    "vpn.example.com\nup /bin/sh",
    "a\rb",
    'a"b',
    "a'b",
    "a b;c",
    "../../etc/passwd",
    "/etc/../etc",
    "{{7*7}}",
    "${IFS}",
    "$(id)",
    "x" * 10_240,
    "\x00",
    "",
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\nup /bin/sh\n",
    "-----BEGIN CERTIFICATE-----\n</ca>\nup /bin/sh\n<ca>\n-----END CERTIFICATE-----\n",
    None.__class__,
    -1,
    70_000,
    True,
]


@pytest.mark.parametrize("field", [*ClientProfile.__slots__])
@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_hostile_field_of_a_profile_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ProfileError, match=rf"\A{field}: found .*expected|\A{field}: found a PEM block") as caught:
        client_profile(replace(PROFILE, **{field: value}))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("field", [*ServerConfig.__slots__])
@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_hostile_field_of_the_servers_configuration_is_refused_by_name(field: str, value: Any) -> None:
    if field == "max_clients" and value == 70_000:
        return
    if field == "folder":
        value = Path(f"/srv/{value}") if isinstance(value, str) and value not in ("", "a'b") else Path("relative")
    with pytest.raises(ProfileError, match=rf"\A{field}: found "):
        server_config(replace(SERVER, **{field: value}))


@pytest.mark.parametrize("value", [*HOSTILE[:13], "10.77.0.1", "10.77.0.255", "10.77.15.255", "10.78.1.1", "::1", "1"])
def test_address_that_no_machine_can_have_makes_no_line(value: str) -> None:
    with pytest.raises(ProfileError, match=r"\Aaddress: found .* expected a machine's address in 10.77.0.0/20"):
        client_line(value, NETWORK)


def test_line_of_a_machine_gives_its_address() -> None:
    assert client_line("10.77.1.1", NETWORK) == "ifconfig-push 10.77.1.1 255.255.240.0\n"


@given(st.text(max_size=40))
def test_whatever_a_remote_is_it_never_makes_another_option(text: str) -> None:
    try:
        made = client_profile(replace(PROFILE, remote=text))
    except ProfileError:
        return
    assert re.fullmatch(r"[A-Za-z0-9.-]+", text)
    assert made.count("\n") == client_profile(PROFILE).count("\n")


def test_profile_without_a_key_has_no_place_for_one() -> None:
    with_key, without = client_profile(PROFILE), client_profile(replace(PROFILE, key=None))

    assert "<key>\n-----BEGIN PRIVATE KEY-----" in with_key
    assert "PRIVATE KEY" not in without and "<key>" not in without
    assert without == re.sub(r"(?s)<key>.*</key>\n", "", with_key)


def test_error_about_a_key_does_not_show_it() -> None:
    key = pki.key_pem(_KEY).replace("-----BEGIN", "----BEGIN")
    with pytest.raises(ProfileError) as caught:
        client_profile(replace(PROFILE, key=key))
    assert key.splitlines()[1] not in str(caught.value) and "PRIVATE" not in repr(PROFILE)


@pytest.mark.parametrize(
    ("protocol", "server", "client"), [("udp", "udp4", "udp4"), ("tcp", "tcp4-server", "tcp4-client")]
)
def test_both_sides_speak_the_same_protocol(protocol: str, server: str, client: str) -> None:
    of_server, of_client = (
        server_config(replace(SERVER, protocol=protocol)),
        client_profile(replace(PROFILE, protocol=protocol)),
    )

    assert f"\nproto {server}\n" in of_server and f"\nproto {client}\n" in of_client
    # OpenVPN ends at once when it finds this with TCP.
    assert ("explicit-exit-notify" in of_server, "explicit-exit-notify" in of_client) == (protocol == "udp",) * 2
    assert "client-to-client" not in of_server and "management-client-auth" in of_server


def test_profile_with_two_ways_names_both_and_only_udp_says_goodbye() -> None:
    text = client_profile(replace(PROFILE, tcp_port=443))
    first, second = server_config(SERVER, has_twin=True), server_config(replace(SERVER, protocol="tcp"), has_twin=True)

    assert "\nremote vpn.example.com 1194 udp4\nremote vpn.example.com 443 tcp4-client\n" in text
    # OpenVPN ends at once when it finds one of its own beside a TCP remote; one that is pushed it takes.
    assert "\nexplicit-exit-notify" not in text and 'pull-filter accept "explicit-exit-notify "' in text
    assert ('push "explicit-exit-notify 1"' in first, 'push "explicit-exit-notify 1"' in second) == (True, False)
    assert "/management.sock" in first and "/management-tcp.sock" in second
    # Machines' own agents read every line before OpenVPN does.
    agent_profile.check(client_profile(replace(PROFILE, tcp_port=443, key=None)))
    # Without a second way all is as it was.
    assert server_config(SERVER).replace("\n", " ").count("push") == 1


def test_machine_takes_no_route_and_no_program_from_the_server() -> None:
    text = client_profile(PROFILE)
    accepted = re.findall(r'pull-filter accept "([^"]+)"', text)

    assert text.index('pull-filter ignore ""') > text.rindex("pull-filter accept")
    pushed = ["route 0.0.0.0", "redirect-gateway", "dhcp-option DNS 1.2.3.4", "script-security 2", "up x", "setenv a b"]
    assert [word for word in pushed if any(word.startswith(beginning) for beginning in accepted)] == []
