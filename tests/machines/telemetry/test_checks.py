"""A telemetry that is not there stops the start with a sentence, instead of being stood in for ever."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.core.checks import run_checks
from pytest_django.fixtures import Settings

from machines.telemetry.aliases import ALIASES
from machines.telemetry.builtin import BuiltinTelemetry
from machines.telemetry.checks import TAG

EXPECTED = "; expected builtin, http, iot_core, or the dotted path of a driver class."


class OwnTelemetry(BuiltinTelemetry):
    """A driver of somebody's own, by its path."""


class HalfTelemetry:
    def who_is_responsible(self) -> None:
        """The only thing it can do."""


@pytest.mark.parametrize("name", [*ALIASES, *ALIASES.values(), f"{__name__}.OwnTelemetry"])
def test_driver_that_is_there_passes(settings: Settings, name: str) -> None:
    settings.TELEMETRY = name
    assert run_checks(tags=[TAG]) == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nothing.Here", "found 'nothing.Here', which cannot be imported (No module named 'nothing')"),
        ("buildin", "found 'buildin', which cannot be imported"),
        ("", "found '', which cannot be imported"),
        ("machines.telemetry.http.NoTelemetry", "does not define a"),
        (f"{__name__}.EXPECTED", "which is no class"),
        (f"{__name__}.HalfTelemetry", "which has no last_word and no deliver_profile"),
    ],
)
def test_driver_that_is_not_there_is_named_beside_what_was_expected(settings: Settings, name: str, found: str) -> None:
    settings.TELEMETRY = name
    (error,) = run_checks(tags=[TAG])
    assert error.is_serious()
    assert error.msg.startswith("TELEMETRY: found ") and found in error.msg and error.msg.endswith(EXPECTED)


@pytest.mark.parametrize("command", ["serve", "work"])
def test_neither_portal_nor_worker_starts_without_its_driver(command: str) -> None:
    environment = {**os.environ, "TELEMETRY": "nothing.Here", "DJANGO_SETTINGS_MODULE": "portal.settings"}
    arguments = [sys.executable, "manage.py", command]
    found = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert "TELEMETRY: found 'nothing.Here'" in found.stderr and "Traceback" not in found.stderr
