"""Many machines from a CSV file, and back: all of a file or nothing of it, each wrong cell by its line and column.

Our own reader and no library: the rows go through the same services as one machine from a phone, so what is left of an
import is this. Spreadsheets run cells that look like formulas: none comes in, and none goes out as one.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.db import transaction

from machines import registration, services
from machines.addresses import allocate_addresses
from machines.errors import FleetError, RegistrationRefused
from machines.models import Fleet, Machine, MachineModel, Site, User, serial_validator
from machines.profile_passes import request_profile
from machines.selectors import fleets_of

COLUMNS = ("serial", "model", "site", "fleet", "name")
SIZE_LIMIT = 256 * 1024
# One transaction for all of them: more would keep others waiting.
ROWS_LIMIT = 1000
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SERIAL = "1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"
_NAME = "up to 80 letters, digits, blanks and , . ' ( ) & # : + / ° _ -, a letter or digit first"


@dataclass(frozen=True, slots=True)
class CellError:
    """What is wrong in a line (the header is line 1); `column` is empty where it is the whole line."""

    line: int
    column: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = f"Line {self.line}, {self.column}" if self.column else f"Line {self.line}"
        return f"{where}: found {self.found}, expected {self.expected}."


class CsvRefused(FleetError):
    """Nothing of the file was taken; `errors` says why, line by line."""

    code = "csv_refused"

    def __init__(self, errors: list[CellError]) -> None:
        super().__init__(" ".join(str(error) for error in errors[:3]))
        self.errors = errors


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    serial: str
    name: str
    site: Site
    model: MachineModel


def import_machines(data: bytes, *, user: User, with_profiles: bool = False) -> list[Machine]:
    """Registers every machine of the file, in the fleets where the person manages; or none. Raises CsvRefused.

    `with_profiles`: a profile is made for each and goes to telemetry, as soon as the worker comes to it.
    """
    rows = _checked(list(_lines(data)), user)
    machines: dict[int, Machine] = {}
    by_fleet: dict[int, list[_Row]] = defaultdict(list)
    for row in rows:
        by_fleet[row.site.fleet_id].append(row)
    errors: list[CellError] = []
    with transaction.atomic():
        for of_fleet in by_fleet.values():
            try:
                addresses = allocate_addresses(of_fleet[0].site.fleet, len(of_fleet))
            except FleetError as error:
                raise CsvRefused(
                    [CellError(of_fleet[0].line, "fleet", _shown(str(error), 200), "more room")]
                ) from error
            for row, address in zip(of_fleet, addresses, strict=True):
                try:
                    machines[row.line] = registration.add(
                        site=row.site, model=row.model, serial=row.serial, name=row.name, user=user, vpn_address=address
                    )
                except RegistrationRefused as error:
                    for column, words in error.errors.items():
                        errors.append(CellError(row.line, column, _shown(row.serial), " ".join(words).rstrip(".")))
        if errors:
            raise CsvRefused(errors)  # and the transaction takes all of it back
        for machine in machines.values() if with_profiles else ():
            request_profile(machine, user=user)
        services.record_security_event("machines_imported", user=user, detail={"count": len(machines)})
    return [machines[line] for line in sorted(machines)]


def export_machines(machines: Iterable[Machine]) -> str:
    """The machines as a file of the same columns; what would be a formula in a spreadsheet is a text there."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for machine in machines:
        cells = (machine.serial, machine.model.name, machine.site.name, machine.fleet.name, machine.name)
        writer.writerow([escaped(cell) for cell in cells])
    return out.getvalue()


def escaped(cell: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet would run."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _lines(data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column. Raises CsvRefused for what is no such file."""
    if len(data) > SIZE_LIMIT:
        raise _refused(1, "", f"a file of {len(data)} bytes", f"{SIZE_LIMIT} bytes at most")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refused(data[: error.start].count(b"\n") + 1, "", "a byte that is not UTF-8", "UTF-8") from None
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if ";" in first else ",", strict=True)
    count = 0
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        if sorted(header) != sorted(COLUMNS):
            raise _refused(1, "", _shown(", ".join(header), 80), "the columns " + ", ".join(COLUMNS))
        line = reader.line_num + 1
        for cells in reader:
            if any(cell.strip() for cell in cells):
                count += 1
                if count > ROWS_LIMIT:
                    raise _refused(line, "", f"more than {ROWS_LIMIT} machines", f"{ROWS_LIMIT} a file at most")
                if len(cells) != len(header):
                    raise _refused(line, "", f"{len(cells)} cells", f"{len(header)}, as in the first line")
                yield line, {name: cell.strip(" ") for name, cell in zip(header, cells, strict=True)}
            line = reader.line_num + 1
    except csv.Error as error:
        raise _refused(reader.line_num, "", f"no CSV ({error})", "cells with commas between them") from None
    if not count:
        raise _refused(2, "", "no machine", "one a line")


def _checked(lines: list[tuple[int, dict[str, str]]], user: User) -> list[_Row]:
    fleets = Fleet.objects.all() if user.is_superuser else fleets_of(user)
    by_name = {fleet.name: fleet for fleet in fleets}
    sites = {
        (site.fleet_id, site.name): site
        for site in Site.objects.filter(fleet__in=list(by_name.values())).select_related("fleet")
    }
    models = {model.name: model for model in MachineModel.objects.all()}
    known = set(Machine.objects.filter(fleet__in=list(by_name.values())).values_list("fleet_id", "serial"))
    seen: dict[tuple[int, str], int] = {}
    errors: list[CellError] = []
    rows: list[_Row] = []
    for line, cells in lines:
        before = len(errors)

        def wrong(column: str, expected: str, *, line: int = line, cells: dict[str, str] = cells) -> None:
            errors.append(CellError(line, column, _shown(cells[column]), expected))

        fleet = by_name.get(cells["fleet"])
        if fleet is None:
            wrong("fleet", "one of your fleets" + _some(by_name))
        model = models.get(cells["model"])
        if model is None:
            wrong("model", "a model that is known" + _some(models))
        site = sites.get((fleet.pk, cells["site"])) if fleet else None
        if fleet and site is None:
            wrong("site", f"a site of {fleet.name}" + _some(name for of, name in sites if of == fleet.pk))
        if not _passes(serial_validator, cells["serial"]):
            wrong("serial", _SERIAL)
        elif fleet:
            key = (fleet.pk, cells["serial"])
            if key in known:
                wrong("serial", f"one that {fleet.name} does not have yet")
            elif key in seen:
                wrong("serial", f"another than in line {seen[key]}")
            seen.setdefault(key, line)
        if cells["name"] and not _passes(registration.name_validator, cells["name"]):
            wrong("name", _NAME)
        if site and model and len(errors) == before:
            rows.append(_Row(line, cells["serial"], cells["name"], site, model))
    if errors:
        raise CsvRefused(errors)
    return rows


def _passes(validator: object, value: str) -> bool:
    try:
        validator(value)  # type: ignore[operator]
    except ValidationError:
        return False
    return True


def _some(names: Iterable[str]) -> str:
    few = sorted(names)[:5]
    return f" ({', '.join(few)}…)" if few else ""


def _shown(value: str, longest: int = 40) -> str:
    if not value:
        return "nothing"
    return repr(value) if len(value) <= longest else f"{value[:longest]!r}… ({len(value)} characters)"


def _refused(line: int, column: str, found: str, expected: str) -> CsvRefused:
    return CsvRefused([CellError(line, column, found, expected)])
