"""Imports go downwards only: portal → sessions → notifications → machines, and portal → backbone → machines.

An app opens only its doors to others.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From below to above: each may import those before it.
APPS = ["machines", "notifications", "sessions", "backbone", "portal"]
# What an app offers to the apps above it; `api` to the API above it alone.
DOORS = {
    *("services", "selectors", "models", "errors", "attachments", "live", "admin", "append_only", "words", "bell"),
    *("availability", "aws", "encryption", "gateway_identities", "hosts", "identities", "passages", "profile_passes"),
    *("outbox", "sender", "subscriptions", "wording"),
}
STANDARD = set(sys.stdlib_module_names) | {"__future__"}


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "migrations" not in path.parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that a module imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module or "") if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def offences(folder: str, is_allowed: object) -> list[str]:
    assert callable(is_allowed)
    found = sources(folder)
    assert found, f"nothing to look at in {folder}"
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in found
        for line, name in imports(path)
        if not is_allowed(path, name)
    ]


@pytest.mark.parametrize("app", APPS)
def test_no_app_imports_one_above_it(app: str) -> None:
    above = set(APPS[APPS.index(app) + 1 :])
    assert offences(app, lambda path, name: name.partition(".")[0] not in above) == []


def test_sessions_and_backbone_stand_side_by_side() -> None:
    """Rescues do not need AWS, and what shows AWS needs no rescues."""
    beside = {"sessions", "notifications"}
    assert offences("backbone", lambda path, name: name.partition(".")[0] not in beside) == []
    assert offences("sessions", lambda path, name: name.partition(".")[0] != "backbone") == []


@pytest.mark.parametrize("app", ["notifications", "sessions", "backbone"])
def test_apps_meet_only_at_their_doors(app: str) -> None:
    below = set(APPS[: APPS.index(app)])

    def is_allowed(path: Path, name: str) -> bool:
        first, _, rest = name.partition(".")
        parts = rest.split(".")
        if first not in below or parts[0] in DOORS:
            return True
        if parts[0] == "api":
            return "api" in path.parts
        return parts[:2] in (["vpn", "base"], ["telemetry", "base"], ["telemetry", "asking"])

    assert offences(app, is_allowed) == []


def test_no_app_imports_tests_or_the_agent() -> None:
    def is_allowed(path: Path, name: str) -> bool:
        if "demo" in path.with_suffix("").parts:  # it writes the settings of the machines that it simulates
            return not name.startswith("tests.")
        return name.partition(".")[0] not in {"tests", "agent"}

    assert [offence for app in APPS for offence in offences(app, is_allowed)] == []


def test_agent_needs_nothing_but_the_standard_library() -> None:
    assert offences("agent", lambda path, name: name.partition(".")[0] in STANDARD | {"agent"}) == []


def test_guacamole_package_stands_alone() -> None:
    def is_allowed(path: Path, name: str) -> bool:
        return name.partition(".")[0] in STANDARD or name.startswith("sessions.guacamole")

    assert offences("sessions/guacamole", is_allowed) == []


def test_only_the_services_write_a_sessions_state() -> None:
    """`.save()` on a session or an update of its state elsewhere would pass the guarded UPDATE by."""
    writers = []
    for path in sources("sessions") + sources("portal") + sources("notifications"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update"):
                continue
            target = ast.unparse(node.func.value)
            if "SupportSession.objects" in target and any(keyword.arg == "state" for keyword in node.keywords):
                writers.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert all(writer.startswith("sessions/services.py:") for writer in writers), writers
