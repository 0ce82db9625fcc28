"""What the documents say about the code is compared with the code, where a program can do it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from sessions.states import TRANSITIONS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "agent" / "README.md"])


def _settings_of_code() -> dict[str, object]:
    """Each name that portal/settings.py reads from the environment, with its default if that is a plain value."""
    found: dict[str, object] = {}
    for node in ast.walk(ast.parse((ROOT / "portal" / "settings.py").read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="env")), args=[ast.Constant(value=name), *rest]):
                plain = [argument.value for argument in rest if isinstance(argument, ast.Constant)]
                found[str(name)] = plain[-1] if plain else None
    return found


def _settings_of_document() -> dict[str, str]:
    rows = re.findall(r"(?m)^\| `([A-Z_]+)` \| (.+?) \| .+ \|$", (ROOT / "docs" / "settings.md").read_text("utf-8"))
    assert len({name for name, _ in rows}) == len(rows)
    return dict(rows)


def test_every_setting_is_documented_and_nothing_else_is() -> None:
    code = _settings_of_code()
    assert len(code) > 20
    assert sorted(_settings_of_document()) == sorted(code)


def test_documented_defaults_are_those_of_the_code() -> None:
    documented = _settings_of_document()
    numbers_and_texts = {
        name: "true" if value is True else "false" if value is False else str(value)
        for name, value in _settings_of_code().items()
        if value not in (None, "")
    }
    assert numbers_and_texts
    assert {name: documented[name] for name in numbers_and_texts} == {
        name: f"`{value}`" for name, value in numbers_and_texts.items()
    }


def test_architecture_shows_the_moves_that_there_are() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| `([a-z]+)` \| (.+?) \| .+ \|$", text)
    shown = {state: set(re.findall(r"`([a-z]+)`", to)) for state, to in rows}
    assert shown == {str(state): {str(to) for to in moves} for state, moves in TRANSITIONS.items()}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|mailto:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_of_files_in_documents_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:portal|machines|sessions|notifications|agent|static|tests|docs)/[\w./-]*)`", text))
    assert sorted(name for name in named if not (ROOT / name).exists() and not name.startswith("static/dist")) == []
