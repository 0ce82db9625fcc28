"""What the demo makes and keeps at the second run, its secrets, and what it refuses before it makes anything."""

from __future__ import annotations

import io
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command
from django.test import Client

from machines.errors import TokenRefused
from machines.models import Fleet, Machine, MachineModel, OpeningHours, Operator, Shift, Site, User, WorkingHours
from machines.selectors import fleets_of, machines_for
from machines.services import authenticate_machine
from machines.telemetry.builtin import BuiltinTelemetry
from portal.demo.errors import DemoError
from portal.demo.plan import EVERYWHERE, FLEETS
from portal.demo.seeding import seed_fleet, seed_machine
from tests.portal.demo_process import LOGINS, MILANO, logins_in
from tests.ports import free_ports


@pytest.fixture
def folder(tmp_path: Path, settings: Any) -> Path:
    """The demo's folder in a state folder of its own."""
    settings.STATE_DIR = tmp_path
    return tmp_path / "demo"


def seed() -> dict[str, str]:
    """Runs the seeding; answers with what is said beside each user name."""
    said = io.StringIO()
    call_command("demo", seed_only=True, stdout=said)
    return logins_in(said.getvalue())


def token_of(folder: Path, serial: str) -> str:
    return (folder / "machines" / serial / "token").read_text().strip()


@pytest.mark.django_db
class TestSeeding:
    def test_makes_two_fleets_whose_rows_are_all_valid(self, folder: Path) -> None:
        seed()
        assert Fleet.objects.count() == 2
        assert len({site.country for site in Site.objects.all()}) >= 6
        profiles = apps.get_model("support", "ConnectionProfile")
        for model in (Fleet, Site, MachineModel, Machine, Operator, Shift, OpeningHours, WorkingHours, profiles):
            assert model.objects.exists()
            for row in model.objects.all():
                row.full_clean()

    def test_leaves_the_history_empty(self, folder: Path) -> None:
        seed()
        assert not apps.get_model("support", "SupportSession").objects.exists()

    def test_second_run_changes_nothing_and_says_the_same_logins(self, folder: Path) -> None:
        rota = (Shift, OpeningHours, WorkingHours)
        tables = (Fleet, Site, MachineModel, Machine, Operator, User, apps.get_model("machines", "MachineToken"), *rota)
        first = seed()
        rows = {table: list(table.objects.order_by("pk").values()) for table in tables}
        assert seed() == first
        assert {table: list(table.objects.order_by("pk").values()) for table in tables} == rows

    def test_keeps_what_people_have_changed(self, folder: Path) -> None:
        seed()
        Machine.objects.filter(serial=MILANO.serial).update(name="Beside the kiosk")
        Operator.objects.get(user__username="bob").fleets.clear()
        seed()
        assert Machine.objects.get(serial=MILANO.serial).name == "Beside the kiosk"
        assert not fleets_of(User.objects.get(username="bob"))

    def test_brings_back_what_was_deleted(self, folder: Path) -> None:
        seed()
        apps.get_model("support", "ConnectionProfile").objects.all().delete()
        User.objects.get(username="bob").delete()
        bob = seed()["bob"]
        assert Client().login(username="bob", password=bob)
        assert apps.get_model("support", "ConnectionProfile").objects.count() == 2
        assert Shift.objects.filter(operator__user__username="bob").count() == 4

    def test_at_every_hour_of_the_week_somebody_is_asked_first_and_somebody_next(self, folder: Path) -> None:
        seed()
        fleet = Fleet.objects.get(slug=EVERYWHERE.slug)
        first: dict[str, set[str]] = {}
        for machine in Machine.objects.filter(fleet=fleet).select_related("site", "model", "fleet"):
            for hour in range(0, 7 * 24, 4):
                now = datetime(2026, 11, 23, tzinfo=UTC) + timedelta(hours=hour)
                asked = BuiltinTelemetry().who_is_responsible(machine, now=now).candidates
                assert len(asked) >= 2, (machine.serial, now)
                first.setdefault(machine.site.city, set()).add(asked[0].username)
        bobs, doras = ("Milano", "Lisbon", "Warsaw"), ("Toronto", "São Paulo")
        expected = {**{city: {"bob"} for city in bobs}, **{city: {"dora"} for city in doras}}
        assert first == {**expected, "Tokyo": {"emi", "dora"}}

    def test_demo_from_before_there_was_a_rota_gets_one(self, folder: Path) -> None:
        seed()
        rows = {table: list(table.objects.order_by("pk").values()) for table in (Fleet, Site)}
        for table in (Shift, OpeningHours, WorkingHours):
            table.objects.all().delete()
        Fleet.objects.update(
            ask_next_after_s=None, ask_supervisors_after_s=None, ask_last_resort_after_s=None, last_resort_email=""
        )
        Site.objects.update(languages=[])
        Operator.objects.update(languages=[])
        seed()
        assert {table: list(table.objects.order_by("pk").values()) for table in (Fleet, Site)} == rows
        assert (Shift.objects.count(), OpeningHours.objects.count(), WorkingHours.objects.count()) == (10, 7, 7)

    def test_rota_that_people_have_changed_stays(self, folder: Path) -> None:
        seed()
        Shift.objects.filter(site__city="Milano").update(rank=4)
        Fleet.objects.update(last_resort_email="", ask_next_after_s=None)
        seed()
        assert list(Shift.objects.filter(site__city="Milano").values_list("rank", flat=True)) == [4]
        assert not Fleet.objects.exclude(last_resort_email="", ask_next_after_s=None).exists()

    def test_machine_takes_the_next_address_when_another_has_the_planned_one(self, folder: Path) -> None:
        other = Fleet.objects.create(name="Other", slug="other")
        first = seed_machine(other, MILANO)
        second = seed_machine(Fleet.objects.create(name="Third", slug="third"), MILANO)
        assert (first.vpn_address, second.vpn_address) == ("127.64.1.1", "127.64.1.2")

    def test_says_what_to_do_where_machines_are_not_on_this_computer(self, settings: Any) -> None:
        settings.VPN_NETWORK = ipaddress.ip_network("10.8.0.0/16")
        with pytest.raises(DemoError, match=r"expected an address in the machines' network 10\.8\.0\.0/16.*defaults"):
            seed_fleet(EVERYWHERE)
        assert not Machine.objects.exists()

    def test_tenants_see_their_own_machines_only(self, folder: Path) -> None:
        seed()
        seen = {name: {machine.serial for machine in machines_for(User.objects.get(username=name))} for name in LOGINS}
        assert (
            seen["alice"]
            == seen["bob"]
            == seen["dora"]
            == seen["emi"]
            == {machine.serial for machine in FLEETS[0].machines}
        )
        assert seen["charlie"] == {machine.serial for machine in FLEETS[1].machines}


@pytest.mark.django_db
class TestSecrets:
    def test_machine_is_known_by_the_token_in_its_folder(self, folder: Path) -> None:
        seed()
        machine = authenticate_machine(token_of(folder, MILANO.serial), peer_address=MILANO.address)
        assert machine.serial == MILANO.serial

    def test_lost_token_is_issued_anew_and_the_lost_one_ends(self, folder: Path) -> None:
        seed()
        lost = token_of(folder, MILANO.serial)
        (folder / "machines" / MILANO.serial / "token").unlink()
        seed()
        authenticate_machine(token_of(folder, MILANO.serial), peer_address=MILANO.address)
        with pytest.raises(TokenRefused):
            authenticate_machine(lost, peer_address=MILANO.address)

    def test_token_of_another_database_is_replaced(self, folder: Path) -> None:
        seed()
        (folder / "machines" / MILANO.serial / "token").write_text("0123456789abcdef.of-another-database-altogether\n")
        seed()
        authenticate_machine(token_of(folder, MILANO.serial), peer_address=MILANO.address)

    def test_only_the_owner_reads_tokens_and_passwords(self, folder: Path) -> None:
        seed()
        secrets = [folder / "logins.json", *folder.glob("machines/*/token")]
        assert len(secrets) == 1 + Machine.objects.count()
        assert {oct(path.stat().st_mode & 0o777) for path in secrets} == {"0o600"}

    def test_no_secret_is_in_a_machine_s_settings(self, folder: Path) -> None:
        seed()
        assert token_of(folder, MILANO.serial).partition(".")[2]
        for path in folder.glob("machines/*/machine.json"):
            assert token_of(folder, path.parent.name).partition(".")[2] not in path.read_text()

    @pytest.mark.parametrize("username", LOGINS)
    def test_login_that_is_said_works(self, folder: Path, username: str) -> None:
        assert Client().login(username=username, password=seed()[username])

    def test_password_that_somebody_chose_stays_and_is_not_said(self, folder: Path) -> None:
        first = seed()
        user = User.objects.get(username="alice")
        user.set_password("chosen by alice")
        user.save()
        said = io.StringIO()
        call_command("demo", seed_only=True, stdout=said)
        assert "the password that you chose" in said.getvalue()
        assert first["alice"] not in said.getvalue()
        assert Client().login(username="alice", password="chosen by alice")

    def test_lost_passwords_are_made_anew(self, folder: Path) -> None:
        first = seed()
        (folder / "logins.json").unlink()
        second = seed()
        assert first["alice"] != second["alice"]
        assert Client().login(username="alice", password=second["alice"])


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.django_db
class TestRefusals:
    @pytest.mark.parametrize("name", ["PUBLIC_BIND", "MACHINE_API_BIND", "STREET_PORT"])
    def test_port_in_use_is_named_with_the_setting_that_chooses_another(
        self, name: str, folder: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ports = dict(zip(("PUBLIC_BIND", "MACHINE_API_BIND", "STREET_PORT"), free_ports(3), strict=True))
        with listening() as port:
            ports[name] = port
            settings.PUBLIC_BIND = ("127.0.0.1", ports["PUBLIC_BIND"])
            settings.MACHINE_API_BIND = ("127.0.0.1", ports["MACHINE_API_BIND"])
            monkeypatch.setenv("STREET_PORT", str(ports["STREET_PORT"]))
            with pytest.raises(CommandError) as refusal:
                call_command("demo", stdout=io.StringIO())
        assert f"Port {port} of 127.0.0.1 cannot be used: Address already in use." in str(refusal.value)
        assert f"{name}=" in str(refusal.value)
        assert not Fleet.objects.exists()

    def test_malformed_street_port_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREET_PORT", "high street")
        with pytest.raises(CommandError, match="STREET_PORT: found 'high street', expected a whole number"):
            call_command("demo", stdout=io.StringIO())
