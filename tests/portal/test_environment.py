"""Settings are read by type, and a wrong one stops the start with what was found and what was expected."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from portal.environment import Environment, SettingError, read_env_file


def test_values_are_read_by_type() -> None:
    env = Environment({"A": "yes", "B": "17", "C": "x, y,", "D": "[::1]:8000", "E": "two", "EMPTY": ""})

    assert env.flag("A", False) is True
    assert env.number("B", 1) == 17
    assert env.items("C") == ["x", "y"]
    assert env.address("D", "") == ("::1", 8000)
    assert env.choice("E", ("one", "two"), "one") == "two"
    assert env.text("EMPTY", "default") == "default"


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda env: env.flag("WORD", False), "WORD: found 'maybe', expected one of true"),
        (lambda env: env.number("WORD", 1), "WORD: found 'maybe', expected a whole number"),
        (lambda env: env.number("SMALL", 1, minimum=1), "SMALL: found 0, expected 1 or more"),
        (lambda env: env.choice("WORD", ("a", "b"), "a"), "WORD: found 'maybe', expected one of a, b"),
        (lambda env: env.address("WORD", ""), "WORD: found 'maybe', expected host:port"),
        (lambda env: env.text("MISSING"), "MISSING is not set"),
        (lambda env: env.secret("MISSING"), "MISSING is not set"),
    ],
)
def test_wrong_value_is_named_with_what_was_expected(read: object, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(Environment({"WORD": "maybe", "SMALL": "0"}))  # type: ignore[operator]
    assert message in str(caught.value)


def test_secret_may_lie_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")

    assert Environment({"KEY_FILE": str(tmp_path / "key")}).secret("KEY") == "s3cret"
    with pytest.raises(SettingError, match="KEY_FILE: cannot read"):
        Environment({"KEY_FILE": str(tmp_path / "none")}).secret("KEY")


def test_line_of_another_shape_in_the_environment_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("# fine\nA=1\nnonsense\n")

    with pytest.raises(SettingError, match="line 3: expected NAME=VALUE"):
        read_env_file(file)


def test_server_does_not_start_with_a_wrong_setting(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings", "WORKER_THREADS": "many"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode != 0
    assert "WORKER_THREADS: found 'many', expected a whole number" in result.stderr


def test_secrets_are_made_once_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "new" / "portafilter.env"

    call_command("make_secrets", file=file)
    first = read_env_file(file)
    call_command("make_secrets", file=file)

    assert read_env_file(file) == first
    assert set(first) == {"SECRET_KEY", "CREDENTIAL_KEYS"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_missing_secret_is_added_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "portafilter.env"
    file.write_text("SECRET_KEY=mine\nPUBLIC_BIND=127.0.0.1:9000\n")

    call_command("make_secrets", file=file)

    values = read_env_file(file)
    assert (values["SECRET_KEY"], values["PUBLIC_BIND"]) == ("mine", "127.0.0.1:9000")
    assert values["CREDENTIAL_KEYS"]


def test_broken_environment_file_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "portafilter.env"
    file.write_text("nonsense\n")

    with pytest.raises(CommandError, match="expected NAME=VALUE"):
        call_command("make_secrets", file=file)
    assert file.read_text() == "nonsense\n"
