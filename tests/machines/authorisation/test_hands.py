"""What goes wrong with one machine or with a file keeps nobody from being admitted or revoked."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest
from django.db import InternalError
from pytest_django.fixtures import Settings

from machines import identities
from machines.authorisation import rows
from machines.authorisation.hands import Hands
from machines.authorisation.outcomes import TunnelEnded
from machines.authorisation.server_files import ServerFiles
from machines.models import Machine, VpnAddress
from machines.vpn import files
from tests.machines.cast import new_machine

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("vpn")]


@pytest.fixture
def hands(vpn: Settings, tmp_path: Path) -> Hands:
    vpn.VPN_DIR = tmp_path
    return Hands(ServerFiles(tmp_path, vpn.VPN_NETWORK), lambda passages: None)


def one_round(hands: Hands) -> None:
    stop = threading.Event()
    stop.set()
    hands.run(stop)


def admitted(hands: Hands) -> set[str]:
    assert hands.fresh is not None
    return set(hands.fresh.wishes.allow_list.machines)


@pytest.mark.parametrize("address", ["127.64.1.0", "10.99.1.1", "10.77.0.9", "fd00::1"])
def test_machine_with_an_address_of_no_machine_keeps_no_other_out(
    hands: Hands, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    good, stray = new_machine("A1"), new_machine("A2")
    for machine in (good, stray):
        identities.issue_identity(machine)
    # As it is after a change from VPN=loopback, or to another VPN_NETWORK.
    VpnAddress.objects.create(address=address, machine=stray)
    Machine.objects.filter(pk=stray.pk).update(vpn_address=address)
    hands.start()
    one_round(hands)
    assert admitted(hands) == {f"m-{good.pk}"}
    assert [record.message for record in caplog.records if "expected one of machines in" in record.message] == [
        f"m-{stray.pk} is not admitted: found the address {address}, expected one of machines in 10.77.0.0/20. "
        "Change it in the admin."
    ]
    identities.revoke_all(good, reason="stolen")
    one_round(hands)
    assert admitted(hands) == set()


def test_revoked_machine_goes_also_when_no_file_can_be_written(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = new_machine("A1")
    identities.issue_identity(machine)
    hands.start()
    assert admitted(hands) == {f"m-{machine.pk}"}

    def full(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "replace", full)
    identities.revoke_all(machine, reason="stolen")
    one_round(hands)
    assert admitted(hands) == set()


def test_fulfilled_wish_is_written_when_the_database_takes_rows_again(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = identities.end_tunnel_wish(new_machine("A1"), "rescue closed")
    hands.start()
    hands.put(TunnelEnded(wish.pk, f"m-{wish.machine_id}"))

    def only_read(*_: object) -> None:
        raise InternalError("cannot execute UPDATE in a read-only transaction")

    with monkeypatch.context() as patch:
        patch.setattr(rows.Record, "write", only_read)
        one_round(hands)
    one_round(hands)
    wish.refresh_from_db()
    assert wish.done_at is not None
