"""The authorisation agent with a real OpenVPN: who gets in, who is cut off, and what survives a crash."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from django.db import OperationalError
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines import identities, passages
from machines.authorisation import hands, rows
from machines.models import Machine, SecurityEvent
from machines.passages import Passage
from machines.vpn_models import VpnAuthority, VpnConnection
from tests.machines.authorisation import bed as beds
from tests.machines.authorisation.bed import JOINED, Bed, joined, open_rows, profile, said, text, until
from tests.machines.cast import new_machine

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(bool(beds.missing()), reason=f"a real OpenVPN in namespaces {beds.missing()}"),
]


@pytest.fixture
def bed(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Bed]:
    """Over UDP, if a test does not choose."""
    with beds.serving(settings, VPN_PROTOCOL=getattr(request, "param", "udp")) as bed:
        yield bed


def loaded_until() -> datetime | None:
    return VpnAuthority.objects.get().loaded_until


def end_of_server_certificate(bed: Bed) -> datetime:
    """Of that which OpenVPN will start with."""
    return x509.load_pem_x509_certificate((bed.vpn_dir / "server.crt").read_bytes()).not_valid_after_utc


def refused(client: subprocess.Popen[bytes], log: Path, *, timeout_s: float = 60) -> None:
    client.wait(timeout_s)
    assert said(log, "AUTH_FAILED"), text(log)
    assert not said(log, JOINED)


def test_registered_machine_joins_at_its_address_and_is_seen(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    identity, text_of_profile = profile(a1)
    _, log = bed.connect("a", text_of_profile)
    joined(log)
    assert a1.vpn_address in beds.ip("-n", bed.place("a"), "-4", "addr")
    until(lambda: open_rows(a1) == 1, what="row of the connection")
    row = VpnConnection.objects.get()
    assert (row.identity, row.remote_address) == (identity, bed.address_of("a"))
    until(lambda: VpnConnection.objects.get().bytes_received > 0, what="traffic")
    identity.refresh_from_db()
    assert identity.proven_at


def test_revoked_machine_is_refused_by_openvpn_itself(bed: Bed, agent: None) -> None:
    identity, text_of_profile = profile(new_machine())
    identities.revoke(identity, reason="lost")
    serial = int(identity.serial, 16)
    crl = bed.vpn_dir / "crl.pem"
    until(lambda: x509.load_pem_x509_crl(crl.read_bytes()).get_revoked_certificate_by_serial_number(serial))
    _, log = bed.connect("a", text_of_profile)
    until(lambda: said(bed.openvpn_log, "certificate revoked"), what=lambda: text(bed.openvpn_log))
    assert not said(log, JOINED)


def test_frozen_machine_is_refused_by_name_and_admitted_when_unfrozen(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    _, text_of_profile = profile(a1)
    identities.freeze(a1, "code used twice")
    refused(*bed.connect("a", text_of_profile))
    until(lambda: SecurityEvent.objects.filter(kind="vpn_refused", machine=a1).exists(), what="security event")
    Machine.objects.filter(pk=a1.pk).update(frozen_at=None)
    until(lambda: said(bed.vpn_dir / "allow-list.json", f"m-{a1.pk}"))
    _, log = bed.connect("a", text_of_profile)
    joined(log)


def test_machine_registered_this_moment_is_not_turned_away(bed: Bed, agent: None) -> None:
    _, log = bed.connect("a", profile(new_machine())[1])
    joined(log)


def test_revoked_machine_is_out_within_5_s_and_stays_out(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    identity, text_of_profile = profile(a1)
    client, log = bed.connect("a", text_of_profile)
    joined(log)
    identities.revoke(identity, reason="stolen")
    assert client.wait(5) == 0
    until(lambda: not open_rows(a1), what="its connection has ended")
    _, log = bed.connect("a", text_of_profile)
    until(lambda: said(bed.openvpn_log, "certificate revoked"), what=lambda: text(bed.openvpn_log))
    assert not said(log, JOINED)


@pytest.mark.parametrize("bed", ["udp", "tcp"], indirect=True)
def test_revoked_machine_that_does_not_obey_is_dropped_all_the_same(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    _, text_of_profile = profile(a1)
    client, log = bed.connect("a", text_of_profile)
    joined(log)
    until(lambda: open_rows(a1))
    client.send_signal(signal.SIGSTOP)  # it hears no HALT
    identities.freeze(a1, "stolen")
    until(lambda: not open_rows(a1), what="it was dropped")


def test_wish_that_a_tunnel_ends_ends_the_client_for_good(bed: Bed, agent: None) -> None:
    a1, a2 = new_machine("A1"), new_machine("A2")
    client, log = bed.connect("a", profile(a1)[1])
    other, other_log = bed.connect("b", profile(a2)[1])
    joined(log)
    joined(other_log)
    until(lambda: open_rows(a1) and open_rows(a2))
    wish = identities.end_tunnel_wish(a1, "The rescue is over.")
    assert client.wait(30) == 0
    until(lambda: type(wish).objects.get(pk=wish.pk).done_at, what="the wish is fulfilled")
    assert not open_rows(a1)
    assert open_rows(a2) and other.poll() is None
    # It may come again for the next rescue.
    identity = identities.renew(a1)
    _, log = bed.connect("a", identities.hand_over(identity))
    joined(log)


def test_wish_for_a_machine_that_is_not_connected_is_fulfilled_at_once(bed: Bed, agent: None) -> None:
    wish = identities.end_tunnel_wish(new_machine(), "The rescue is over.")
    until(lambda: type(wish).objects.get(pk=wish.pk).done_at)


def test_same_identity_from_a_second_place_is_refused_with_an_alarm(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    _, text_of_profile = profile(a1)
    client, log = bed.connect("a", text_of_profile)
    joined(log)
    until(lambda: open_rows(a1))
    refused(*bed.connect("b", text_of_profile))
    until(lambda: SecurityEvent.objects.filter(kind="vpn_duplicate", machine=a1).exists(), what="security event")
    event = SecurityEvent.objects.get(kind="vpn_duplicate")
    assert event.address == bed.address_of("b")
    assert event.detail["first"].startswith(f"{bed.address_of('a')}:")
    assert client.poll() is None and open_rows(a1) == 1
    assert text(log).count(JOINED) == 1


def test_renewed_identity_takes_over_and_the_old_one_is_revoked(bed: Bed, agent: None) -> None:
    a1 = new_machine()
    old, text_of_old = profile(a1)
    _, log = bed.connect("a", text_of_old)
    joined(log)
    until(lambda: open_rows(a1))
    new, text_of_new = profile(a1)
    _, log = bed.connect("a", text_of_new)
    joined(log)
    until(lambda: VpnConnection.objects.filter(identity=new, ended_at=None).exists())
    old.refresh_from_db()
    assert old.revoke_reason == "superseded"
    assert open_rows(a1) == 1


def test_agent_that_is_killed_takes_its_tunnels_over_and_admits_again(bed: Bed) -> None:
    a1, a2 = new_machine("A1"), new_machine("A2")
    _, text_of_profile = profile(a2)
    agent, _ = bed.start_agent()
    client, log = bed.connect("a", profile(a1)[1])
    joined(log)
    until(lambda: open_rows(a1))
    row = VpnConnection.objects.get()
    agent.kill()
    agent.wait()
    _, waiting = bed.connect("b", text_of_profile)
    until(lambda: said(waiting, "Peer Connection Initiated"))
    with pytest.raises(AssertionError):
        joined(waiting, timeout_s=1)  # nobody answers
    bed.start_agent()
    until(lambda: said(waiting, "server-pushed-connection-reset"), what="it was told to ask again")
    joined(waiting)
    row.refresh_from_db()
    assert row.ended_at is None and client.poll() is None
    assert text(log).count(JOINED) == 1


def test_machine_revoked_while_the_agent_was_dead_is_out_when_it_is_back(bed: Bed) -> None:
    a1 = new_machine()
    agent, _ = bed.start_agent()
    client, log = bed.connect("a", profile(a1)[1])
    joined(log)
    until(lambda: open_rows(a1))
    agent.kill()
    agent.wait()
    identities.freeze(a1, "stolen")
    bed.start_agent()
    client.wait(30)
    until(lambda: not open_rows(a1))


def test_tunnel_that_nobody_wrote_down_comes_in_anew(bed: Bed) -> None:
    a1 = new_machine()
    agent, _ = bed.start_agent()
    client, log = bed.connect("a", profile(a1)[1])
    joined(log)
    until(lambda: open_rows(a1))
    agent.kill()
    agent.wait()
    VpnConnection.objects.update(ended_at=timezone.now())
    bed.start_agent()
    until(lambda: open_rows(a1), what="it is back, by admission")
    assert client.poll() is None


def test_openvpn_that_is_killed_comes_back_with_its_machines(
    bed: Bed, agent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with the certificate that was renewed meanwhile; until then all are told of the one that it had."""
    a1 = new_machine()
    client, log = bed.connect("a", profile(a1)[1])
    joined(log)
    until(lambda: open_rows(a1))
    first = VpnConnection.objects.get()
    until(lambda: loaded_until() == end_of_server_certificate(bed))
    old = loaded_until()
    with monkeypatch.context() as late:
        late.setattr(identities, "SERVER_RENEWED_BEFORE", identities.CERTIFICATE_LIFE + timedelta(days=1))
        bed.server_files().write_server()
    answered_at = VpnAuthority.objects.get().answering_at
    until(lambda: VpnAuthority.objects.get().answering_at != answered_at)
    assert loaded_until() == old != end_of_server_certificate(bed)
    bed.openvpn.kill()
    bed.openvpn.wait()
    bed.start_openvpn()
    until(lambda: loaded_until() == end_of_server_certificate(bed))
    # The machine has heard nothing for 20 s then.
    until(lambda: VpnConnection.objects.filter(ended_at=None).exclude(pk=first.pk).exists(), timeout_s=80)
    assert client.poll() is None
    assert open_rows(a1) == 1


def test_database_away_the_file_decides_and_rows_follow_later(bed: Bed) -> None:
    a1, a2 = new_machine("A1"), new_machine("A2")
    _, text_of_a1 = profile(a1)
    agent, _ = bed.start_agent()
    agent.terminate()
    assert agent.wait(30) == 0
    text_of_a2 = profile(a2)[1]  # after the file was written
    away, bed.environment["DATABASE_URL"] = bed.environment["DATABASE_URL"], "sqlite:////nonexistent/away.sqlite3"
    agent, agent_log = bed.start_agent()
    assert said(agent_log, "The database is away")
    _, log = bed.connect("a", text_of_a1)
    joined(log)
    refused(*bed.connect("b", text_of_a2))
    assert not open_rows(a1)
    agent.kill()
    agent.wait()
    bed.environment["DATABASE_URL"] = away
    bed.start_agent()
    until(lambda: open_rows(a1), what="it is written down")


def test_database_away_for_a_while_keeps_nobody_out_and_loses_no_row(
    bed: Bed, agent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a1, a2 = new_machine("A1"), new_machine("A2")
    profiles = [profile(one)[1] for one in (a1, a2)]
    client, log = bed.connect("a", profiles[0])
    joined(log)
    until(lambda: open_rows(a1))
    first = VpnConnection.objects.get()
    until(lambda: said(bed.vpn_dir / "allow-list.json", f"m-{a2.pk}"), what="the other one is known")

    def away(*_: object) -> None:
        raise OperationalError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(hands, "read_wishes", away)
        patch.setattr(rows.Record, "write", away)
        _, log = bed.connect("b", profiles[1])
        joined(log)
        client.terminate()
        client.wait(30)
        _, log = bed.connect("a", profiles[0])
        joined(log)
        assert not open_rows(a2)
    until(lambda: open_rows(a1) and open_rows(a2), what="what happened meanwhile is written down")
    until(lambda: VpnConnection.objects.get(pk=first.pk).ended_at, what="the first one has ended")
    until(lambda: open_rows(a1) and VpnConnection.objects.count() == 3, what="its second one")


def test_database_away_at_openvpns_start_leaves_the_files_as_they_are(bed: Bed) -> None:
    bed.environment["DATABASE_URL"] = "sqlite:////nonexistent/away.sqlite3"
    writer, log = bed.authorise("--write-only")
    assert writer.wait(60) == 0, text(log)
    assert said(log, "stays as it is")
    (bed.vpn_dir / "crl.pem").unlink()
    writer, log = bed.authorise("--write-only")
    assert writer.wait(60) == 1
    assert said(log, "lacks crl.pem")


def test_isolation_stays_when_the_agent_ends_and_goes_when_told(bed: Bed) -> None:
    agent, log = bed.start_agent()
    assert "portafilter_pf" in bed.nft()
    agent.terminate()
    assert agent.wait(30) == 0, text(log)
    assert "portafilter_pf" in bed.nft()
    removal, log = bed.authorise("--remove-isolation")
    assert removal.wait(60) == 0, text(log)
    assert "portafilter" not in bed.nft()


def test_second_agent_is_told_that_there_is_one(bed: Bed) -> None:
    bed.start_agent()
    second, log = bed.authorise()
    assert second.wait(60) == 1
    assert said(log, "Another authorisation agent is at work")


def test_machines_reach_the_private_api_but_not_each_other(bed: Bed, agent: None) -> None:
    a1, a2 = new_machine("A1"), new_machine("A2")
    for place, one in (("a", a1), ("b", a2)):
        _, log = bed.connect(place, profile(one)[1])
        joined(log)
    beds.ip("netns", "exec", bed.server, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    bed.listen(bed.place("b"), a2.vpn_address, 3389)
    bed.listen(bed.server, beds.SERVER_INSIDE, beds.API_PORT)
    bed.listen(bed.server, "0.0.0.0", 5432)
    assert bed.reaches(bed.place("a"), beds.SERVER_INSIDE, beds.API_PORT)
    assert not bed.reaches(bed.place("a"), a2.vpn_address, 3389)
    assert not bed.reaches(bed.place("a"), beds.SERVER_INSIDE, 5432)


def test_gateway_reaches_its_machine_while_its_passage_is_wanted(
    bed: Bed, agent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a1 = new_machine()
    wanted: set[Passage] = set()
    monkeypatch.setattr(passages, "_sources", [lambda: wanted])
    _, log = bed.connect("a", profile(a1)[1])
    joined(log)
    bed.listen(bed.place("a"), a1.vpn_address, 3389)
    assert not bed.reaches(bed.server, a1.vpn_address, 3389, user=61003)
    wanted.add(Passage("uid:61003", a1.vpn_address, 3389))
    _, log = bed.hold(bed.server, a1.vpn_address, 3389, user=61003)
    until(lambda: said(log, "connected"), what=lambda: text(log))
    assert not bed.reaches(bed.server, a1.vpn_address, 3389, user=61004)
    wanted.clear()
    until(lambda: said(log, "cut"), timeout_s=20, what=lambda: text(log)[-200:])
