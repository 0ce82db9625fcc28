"""What ends soon in the VPN is said in sentences, long before it bites."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from django.urls import reverse
from pytest_django.fixtures import Settings

from machines import identities
from machines.authorisation import rows
from machines.authorisation.ways import Way
from machines.models import Machine, User, VpnAuthority, VpnIdentity
from machines.vpn import pki
from tests.machines.cast import new_machine
from tests.sessions.clients import client_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _folder(vpn: Settings, tmp_path: Path) -> None:
    vpn.VPN_DIR = tmp_path


def handed_over(serial: str, *, now: datetime = NOW) -> VpnIdentity:
    machine = Machine.objects.filter(serial=serial).first() or new_machine(serial)
    identity = identities.issue_identity(machine, now=now)
    identities.hand_over(identity, now=now)
    return identity


def test_missing_authority_is_said_where_there_is_an_openvpn(vpn: Settings) -> None:
    assert identities.health(NOW) == [
        "There is no VPN authority yet: no machine can join. Make it: manage.py make_vpn_authority"
    ]
    vpn.VPN = "loopback"
    assert identities.health(NOW) == []


def test_all_is_well_with_a_young_authority_and_a_fresh_list() -> None:
    handed_over("A1")
    identities.crl_pem(now=NOW)
    assert identities.health(NOW) == identities.health(NOW + 14 * DAY) == []


def test_list_of_revocations_that_nobody_writes_is_said_before_it_ends() -> None:
    identities.crl_pem(now=NOW)
    assert "ends on 2026-12-23; from then on no machine is admitted" in identities.health(NOW + 16 * DAY)[0]
    assert "ended on 2026-12-23: no machine is admitted any more" in identities.health(NOW + 30 * DAY)[0]
    identities.crl_pem(now=NOW + 30 * DAY)
    assert identities.health(NOW + 30 * DAY) == []


def test_old_list_in_the_servers_folder_is_noticed_whatever_the_rows_say(vpn: Settings) -> None:
    authority = pki.make_authority(now=NOW, life=100 * DAY)
    (vpn.VPN_DIR / "crl.pem").write_text(pki.make_crl(authority, [], number=1, now=NOW, life=3 * DAY))
    identities.crl_pem(now=NOW)
    assert "ends on 2026-11-26" in identities.health(NOW)[0]
    (vpn.VPN_DIR / "crl.pem").write_text("half a fi")
    assert identities.health(NOW) == []


@pytest.mark.parametrize(("left", "days"), [(89, 90), (29, 30), (6, 7)])
def test_certificate_that_ends_soon_is_said(left: int, days: int) -> None:
    identity = handed_over("A1")
    (sentence,) = identities.health(identity.expires_at - left * DAY)[-1:]
    assert sentence == f"The VPN certificate of A1 ends within {days} days. Renew it."


def test_machine_with_a_newer_identity_is_not_named() -> None:
    handed_over("A1")
    renewed = handed_over("A1", now=NOW + 800 * DAY)
    said = " ".join(identities.health(NOW + 820 * DAY))
    assert "A1" not in said
    identities.revoke(renewed, reason="lost")
    assert "A1 ends within 7 days" in " ".join(identities.health(NOW + 820 * DAY))


def test_machines_that_are_out_already_come_first_and_few_are_named() -> None:
    for number in range(7):
        identity = handed_over(f"A{number}")
    said = identities.health(identity.expires_at)
    assert "A0, A1, A2, A3, A4 and 2 more are shut out: the VPN certificate has expired. Enrol anew." in said
    Machine.objects.update(is_active=False)
    assert "A0" not in " ".join(identities.health(identity.expires_at))


def test_server_and_authority_are_watched_too() -> None:
    identities.ensure_authority(now=NOW)
    # The renewal is due 120 days before the end; nobody has called for it for a month.
    assert identities.health(NOW + 720 * DAY) == []
    assert "VPN server's certificate ends on 2029-02-25" in identities.health(NOW + 740 * DAY)[0]
    identities.ensure_authority(now=NOW + 740 * DAY)
    assert identities.health(NOW + 740 * DAY) == []
    assert "The VPN authority ends on 2046-11-18" in " ".join(identities.health(NOW + 18 * 365 * DAY))


def test_renewed_certificate_that_openvpn_does_not_have_yet_is_said(vpn: Settings) -> None:
    """The authorisation agent renews it in the rows while it runs, and writes it out when it starts."""
    (vpn.VPN_DIR / "server.crt").write_text(identities.ensure_authority(now=NOW).server_certificate)
    identities.crl_pem(now=NOW + 740 * DAY)
    assert "VPN server's certificate ends on 2029-02-25" in identities.health(NOW + 740 * DAY)[0]
    (vpn.VPN_DIR / "server.crt").write_text(identities.ensure_authority(now=NOW + 740 * DAY).server_certificate)
    assert identities.health(NOW + 740 * DAY) == []


def test_renewed_certificate_that_a_running_openvpn_has_not_read_is_said(vpn: Settings) -> None:
    """Rows and files are renewed with the agent's start, and OpenVPN has what it read when it started itself."""
    old = identities.ensure_authority(now=NOW).server_certificate
    renewed = identities.ensure_authority(now=NOW + 710 * DAY).server_certificate
    (vpn.VPN_DIR / "server.crt").write_text(renewed)
    (vpn.VPN_DIR / "loaded.crt").write_text(old)
    (vpn.VPN_DIR / "loaded-tcp.crt").write_text(old)
    identities.crl_pem(now=NOW + 710 * DAY)
    assert identities.health(NOW + 710 * DAY) == []
    identities.crl_pem(now=NOW + 740 * DAY)
    (soon,) = identities.server_health(NOW + 740 * DAY)
    assert soon == (
        "The OpenVPN with server.conf still runs with its old certificate, which ends on 2029-02-25: from then on no "
        "machine joins it. A renewed one is there; start that OpenVPN again, at best while no rescue is open."
    )
    identities.crl_pem(now=NOW + 826 * DAY)
    (ended,) = identities.server_health(NOW + 826 * DAY)
    assert (
        "server.conf still runs with its old certificate, which ended on 2029-02-25: no machine joins it any more"
        in ended
    )
    vpn.VPN_TCP_PORT = 443
    assert (
        "server-tcp.conf still runs with its old certificate, which ended"
        in identities.server_health(NOW + 826 * DAY)[-1]
    )
    for name in ("loaded.crt", "loaded-tcp.crt"):
        (vpn.VPN_DIR / name).write_text(renewed)
    assert identities.server_health(NOW + 826 * DAY) == []


def test_certificate_that_openvpn_has_read_is_known_on_other_computers_too(vpn: Settings) -> None:
    """The agent, which is on OpenVPN's, writes it down for them."""
    end = NOW + 825 * DAY
    identities.ensure_authority(now=NOW)
    identities.ensure_authority(now=NOW + 710 * DAY)
    identities.crl_pem(now=NOW + 740 * DAY)
    assert identities.server_health(NOW + 740 * DAY) == []
    rows.Record().write_answering({Way.FIRST: end, Way.TCP: end - DAY}, now=NOW + 740 * DAY)
    assert "server.conf still runs with its old certificate, which ends on 2029-02-25" in " ".join(
        identities.server_health(NOW + 740 * DAY)
    )
    vpn.VPN_TCP_PORT = 443
    assert "server-tcp.conf still runs with its old certificate, which ends on 2029-02-24" in " ".join(
        identities.server_health(NOW + 740 * DAY)
    )
    rows.Record().write_answering({Way.FIRST: end + 700 * DAY, Way.TCP: end + 700 * DAY}, now=NOW + 740 * DAY)
    assert identities.server_health(NOW + 740 * DAY) == []


def test_configuration_that_a_running_openvpn_has_not_read_is_said_and_is_not_urgent(vpn: Settings) -> None:
    identities.crl_pem(now=NOW)
    for name in ("server.conf", "loaded.conf", "server-tcp.conf"):
        (vpn.VPN_DIR / name).write_text("port 1194\n")
    assert identities.health(NOW) == []
    (vpn.VPN_DIR / "server.conf").write_text("port 1195\n")
    assert identities.health(NOW) == [
        "server.conf has changed since OpenVPN started with it. Start that OpenVPN again, at best while no rescue is "
        "open."
    ]
    assert identities.server_health(NOW) == []


def test_folder_that_is_not_ours_to_look_into_is_as_one_that_is_not_there(vpn: Settings) -> None:
    """The portal need not be the user whose folder it is; the name is one that no computer opens, for root neither."""
    identities.crl_pem(now=NOW)
    vpn.VPN_DIR = vpn.VPN_DIR / ("x" * 300)
    assert identities.health(NOW) == []


def test_admin_says_it_to_whoever_looks_at_the_authority() -> None:
    identities.ensure_authority(now=NOW)
    VpnAuthority.objects.update(crl_next_update=NOW - 365 * DAY)
    client = client_of(User.objects.create_superuser("root"))
    page = client.get(reverse("admin:machines_vpnauthority_changelist")).content.decode()
    assert "no machine is admitted any more" in page
