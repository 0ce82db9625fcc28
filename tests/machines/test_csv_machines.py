"""Machines from a CSV file: all of it or nothing, wrong cells by name, no formula in or out, within one's fleets."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from pytest_django.fixtures import Settings

from machines.csv_machines import CsvRefused, escaped, export_machines, import_machines
from machines.models import Machine, MachineModel, ProfileDelivery, SecurityEvent, Site, User
from machines.profile_passes import ProfilePasses
from machines.telemetry.builtin import BuiltinTelemetry
from tests.machines.cast import new_machine
from tests.sessions.clients import client_of
from tests.sessions.rescues import fleet, person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]

HEADER = "serial,model,site,fleet,name\n"


@pytest.fixture(autouse=True)
def _places() -> None:
    for name in ("North", "South"):
        Site.objects.create(fleet=fleet(name), name="Station", city="Milano", country="IT", time_zone="Europe/Rome")
    MachineModel.objects.create(name="Aurora 9")


def take(text: str, *, user: User | None = None, **given: Any) -> list[Machine]:
    return import_machines((HEADER + text).encode(), user=user or person("Mona"), **given)


def refusals(text: str, *, user: User | None = None) -> list[str]:
    with pytest.raises(CsvRefused) as caught:
        take(text, user=user)
    assert Machine.objects.count() == 0
    return [str(error) for error in caught.value.errors]


def test_every_line_becomes_a_machine_with_an_address_of_its_own() -> None:
    made = take("A1,Aurora 9,Station,North,Lobby\nA2,Aurora 9,Station,North,\n\n")
    assert [(one.serial, one.name, one.vpn_address) for one in made] == [
        ("A1", "Lobby", "10.77.1.0"),
        ("A2", "", "10.77.1.1"),
    ]
    kinds = list(SecurityEvent.objects.order_by("pk").values_list("kind", flat=True))
    assert kinds == ["machine_registered", "machine_registered", "machines_imported"]
    assert ProfileDelivery.objects.count() == 0


def test_profiles_are_made_by_the_same_services() -> None:
    (machine,) = take("A1,Aurora 9,Station,North,\n", with_profiles=True)
    ProfilePasses(driver=BuiltinTelemetry).run()
    assert machine.vpn_identities.count() == 1
    assert machine.kept_profiles.count() == 1


@pytest.mark.parametrize("text", ["\ufeff" + HEADER, HEADER.upper(), HEADER.replace(",", ";")])
def test_files_of_spreadsheets_are_understood(text: str) -> None:
    cells = "A1,Aurora 9,Station,North,Lobby\r\n"
    line = cells.replace(",", ";") if ";" in text else cells
    assert len(import_machines((text + line).encode(), user=person("Mona"))) == 1


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('"A\n1",Aurora 9,Station,North,', "Line 3, serial: found 'A\\n1'"),
        ("../A1,Aurora 9,Station,North,", "Line 3, serial: found '../A1'"),
        ('"""A1""",Aurora 9,Station,North,', "Line 3, serial: found '\"A1\"'"),
        ("=1+1,Aurora 9,Station,North,", "Line 3, serial: found '=1+1'"),
        (f"{'x' * 10_000},Aurora 9,Station,North,", "(10000 characters)"),
        (",Aurora 9,Station,North,", "Line 3, serial: found nothing"),
        ('A1,Aurora 9,Station,North,"Lob\nby"', "Line 3, name"),
        ("A1,Aurora 9,Station,North,../Lobby", "Line 3, name"),
        ("A1,Aurora 9,Station,North,@SUM(A1)", "Line 3, name: found '@SUM(A1)'"),
        ("A1,Aurora 9,Station,North,<script>", "Line 3, name"),
        ("A1,Borealis,Station,North,", "Line 3, model: found 'Borealis', expected a model that is known (Aurora 9…)"),
        ("A1,Aurora 9,Harbour,North,", "Line 3, site: found 'Harbour', expected a site of North"),
        ("A1,Aurora 9,Station,West,", "Line 3, fleet: found 'West', expected one of your fleets (North…)"),
        ("A0,Aurora 9,Station,North,", "Line 3, serial: found 'A0', expected another than in line 2"),
        ("A1,Aurora 9,Station", "Line 3: found 3 cells, expected 5"),
        ('A1,"Aurora 9', "no CSV"),
    ],
)
def test_hostile_or_wrong_cell_is_named_and_nothing_taken(line: str, named: str) -> None:
    (said,) = refusals(f"A0,Aurora 9,Station,North,\n{line}\n")
    assert named in said
    assert len(said) < 400


def test_all_wrong_cells_are_named_at_once() -> None:
    assert len(refusals("!,Aurora 9,Station,North,\nA1,x,y,North,\n")) == 3


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"serial,model\n", "expected the columns serial, model, site, fleet, name"),
        (b"", "expected the columns"),
        (HEADER.encode(), "found no machine"),
        (HEADER.encode() + b"A1\xff,,,,\n", "Line 2: found a byte that is not UTF-8"),
        (HEADER.encode() + b"\0,,,,\n", "Line 2"),
        (b"x" * 300_000, "a file of 300000 bytes"),
        (HEADER.encode() + b"A,b,c,d,e\n" * 1001, "more than 1000 machines"),
    ],
)
def test_file_that_is_none_is_refused_in_words(data: bytes, named: str) -> None:
    with pytest.raises(CsvRefused) as caught:
        import_machines(data, user=person("Mona"))
    assert named in str(caught.value.errors[0])


def test_serial_that_is_known_is_refused() -> None:
    new_machine("A1")
    with pytest.raises(CsvRefused, match="North does not have yet"):
        take("A1,Aurora 9,Station,North,\n")


def test_another_fleets_names_are_as_if_they_were_not() -> None:
    (said,) = refusals("A1,Aurora 9,Station,South,\n")
    assert "expected one of your fleets (North…)" in said


def test_network_that_is_too_small_takes_nothing(settings: Settings) -> None:
    north = fleet("North")
    north.vpn_network = "10.77.4.0/30"
    north.save()
    lines = "".join(f"A{number},Aurora 9,Station,North,\n" for number in range(3))
    (said,) = refusals(lines)
    assert "2 addresses left in 10.77.4.0/30" in said


def test_export_comes_back_and_holds_no_formula() -> None:
    take("A1,Aurora 9,Station,North,Lobby\n")
    text = export_machines(Machine.objects.all())
    assert text == "serial,model,site,fleet,name\r\nA1,Aurora 9,Station,North,Lobby\r\n"
    Machine.objects.update(name="=HYPERLINK(0)")
    assert "'=HYPERLINK(0)" in export_machines(Machine.objects.all())
    assert [escaped(cell) for cell in ("+1", "-1", "@a", "\tb", "A1")] == ["'+1", "'-1", "'@a", "'\tb", "A1"]


def _manager(*permissions: str) -> Client:
    user = person("Mona")
    user.is_staff = True
    user.save()
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return client_of(user)


def _upload(client: Client, text: str) -> Any:
    file = SimpleUploadedFile("fleet.csv", (HEADER + text).encode(), content_type="text/csv")
    return client.post("/admin/machines/machine/import/", {"file": file, "with_profiles": "on"})


def test_manager_imports_and_exports_in_the_admin() -> None:
    client = _manager("add_machine", "view_machine")
    assert "Import from CSV" in client.get("/admin/machines/machine/").content.decode()
    assert client.get("/admin/machines/machine/import/").status_code == 200
    assert _upload(client, "A1,Aurora 9,Station,North,Lobby\n").status_code == 302
    assert ProfileDelivery.objects.count() == 1
    chosen = {"action": "export_csv", "_selected_action": [str(Machine.objects.get().pk)]}
    exported = client.post("/admin/machines/machine/", chosen)
    assert "A1,Aurora 9,Station,North,Lobby" in exported.content.decode()


def test_errors_are_shown_as_text_line_by_line() -> None:
    response = _upload(_manager("add_machine", "view_machine"), "<b>x</b>,Aurora 9,Station,North,\n")
    assert response.status_code == 400
    shown = response.content.decode()
    assert "Nothing was imported" in shown
    assert "&lt;b&gt;x" in shown and "<b>x" not in shown


def test_import_needs_the_right_to_add_machines() -> None:
    client = _manager("view_machine")
    assert "Import from CSV" not in client.get("/admin/machines/machine/").content.decode()
    assert _upload(client, "A1,Aurora 9,Station,North,\n").status_code == 403
    assert Machine.objects.count() == 0
