"""Writes the agent's settings file, and changes single keys of one that is there: hand-made lines stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECTION = re.compile(r"\[([^\]]+)\]")


def changed(text: str, values: Mapping[tuple[str, str], str | None]) -> str:
    """The text with these `(section, key)` set, or taken out where the value is None; everything else untouched."""
    lines = text.splitlines()
    for (section, key), value in values.items():
        lines = _set(lines, section, key, value)
    return "\n".join(lines) + "\n"


def _set(lines: list[str], section: str, key: str, value: str | None) -> list[str]:
    done: list[str] = []
    inside = is_set = dropping = False
    for line in lines:
        heading = _SECTION.match(line)
        # A line that is indented goes on with the key above it.
        if dropping and line[:1].isspace() and line.strip():
            continue
        dropping = False
        if heading:
            if inside and not is_set and value is not None:
                _insert(done, _line(key, value))
                is_set = True
            inside = heading[1] == section
        elif inside and re.match(rf"{re.escape(key)}\s*[=:]", line, re.IGNORECASE):
            dropping = True
            if value is None or is_set:
                continue
            line, is_set = _line(key, value), True
        done.append(line)
    if value is not None and not is_set:
        if not inside:
            done += [*([""] if done and done[-1].strip() else []), f"[{section}]"]
        _insert(done, _line(key, value))
    return done


def _insert(lines: list[str], line: str) -> None:
    """At the end of a section, before the blank lines that part it from the next."""
    at = len(lines)
    while at and not lines[at - 1].strip():
        at -= 1
    lines.insert(at, line)


def _line(key: str, value: str) -> str:
    """A value that begins with a line's end has its lines below the key."""
    return f"{key} = {value}".replace(" = \n", " =\n", 1)
