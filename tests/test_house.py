"""What makes the two commands of a newcomer work everywhere: pinned, hashed lists that name no place of ours."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTS = ["requirements", "requirements-dev", "requirements-node"]


def _pins(text: str) -> dict[str, str]:
    """The packages that a list pins, by their normalised names; what else a line says (extras, markers) is left out."""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", text, flags=re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


@pytest.mark.parametrize("name", LISTS)
def test_list_is_compiled_from_its_source(name: str) -> None:
    wanted = _pins((ROOT / f"{name}.in").read_text())
    compiled = _pins((ROOT / f"{name}.txt").read_text())
    assert wanted
    assert {package: compiled.get(package) for package in wanted} == wanted


@pytest.mark.parametrize("name", LISTS)
def test_every_package_of_a_list_has_hashes(name: str) -> None:
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", (ROOT / f"{name}.txt").read_text())[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", [*(f"{name}.txt" for name in LISTS), "package-lock.json", ".npmrc"])
def test_list_names_no_index_and_no_folder(name: str) -> None:
    assert re.findall(r"(?i)https?://\S+|file:\S+|--\S*index\S*|--find-links\S*", (ROOT / name).read_text()) == []


def test_tests_and_product_agree_on_what_they_share() -> None:
    product = _pins((ROOT / "requirements.txt").read_text())
    tests = _pins((ROOT / "requirements-dev.txt").read_text())
    shared = product.keys() & tests.keys()
    assert shared
    assert {package: tests[package] for package in shared} == {package: product[package] for package in shared}


def test_lock_of_the_front_end_has_exact_versions_and_hashes() -> None:
    package = json.loads((ROOT / "package.json").read_text())
    lock = json.loads((ROOT / "package-lock.json").read_text())
    wanted = {**package["dependencies"], **package["devDependencies"]}
    assert {name: version for name, version in wanted.items() if not re.fullmatch(r"\d+\.\d+\.\d+", version)} == {}
    locked = {path: entry for path, entry in lock["packages"].items() if path}
    assert {name: locked[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert [path for path, entry in locked.items() if not entry.get("integrity")] == []


def test_setup_tells_how_it_is_used_when_it_does_not_understand() -> None:
    done = subprocess.run([ROOT / "setup", "everything"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "./setup run " in done.stderr
    assert "./setup test " in done.stderr


def test_make_help_lists_every_target_that_a_person_may_call() -> None:
    done = subprocess.run(
        ["make", "-C", ROOT, "--no-print-directory", "help"], capture_output=True, text=True, check=True
    )
    listed = set(re.findall(r"^  make (\S+)", done.stdout, flags=re.MULTILINE))
    assert {"run", "test", "lint", "test-unit", "test-postgres", "test-e2e", "clean"} <= listed
