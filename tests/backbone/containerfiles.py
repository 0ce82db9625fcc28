"""Reads Containerfiles as far as the rules about them need."""

from __future__ import annotations

import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2]
IMAGES = FOLDER / "backbone" / "images"


@dataclass(frozen=True)
class Instruction:
    """One instruction, its lines joined; `words` are those after its name and options."""

    name: str
    text: str
    comments: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        if self.text.startswith("["):
            given: list[str] = json.loads(self.text)
            return given
        return self.text.split()


@dataclass(frozen=True)
class Stage:
    """What follows one FROM."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[Instruction]:
        return [one for one in self.instructions if one.name == name]

    def last(self, name: str) -> Instruction:
        return self.all(name)[-1]


def read(image: str) -> list[Stage]:
    """The stages of an image's Containerfile."""
    stages: list[Stage] = []
    for one in _instructions((IMAGES / image / "Containerfile").read_text()):
        if one.name == "FROM":
            base, *rest = one.words
            stages.append(Stage(base, rest[1] if rest else "", ()))
        elif stages:
            last = stages.pop()
            stages.append(Stage(last.base, last.name, (*last.instructions, one)))
    return stages


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    comments: list[str] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.startswith("#"):
            comments.append(line.lstrip("# "))
        elif line.strip():
            name, rest = line.split(None, 1)
            options = {}
            while option := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
                options[option[1]] = option[2]
                rest = rest[option.end() :]
            found.append(Instruction(name, " ".join(rest.split()), tuple(comments), options))
            comments = []
        else:
            comments = []
    return found


class Context:
    """What .containerignore lets an image be built from."""

    def __init__(self) -> None:
        lines = (FOLDER / ".containerignore").read_text().splitlines()
        self.rules = [line for line in lines if line and not line.startswith("#")]

    def has(self, path: str) -> bool:
        """Whether a file of the project goes to whoever builds: the last rule to fit it or a folder above decides."""
        is_there = True
        for rule in self.rules:
            pattern = rule.lstrip("!")
            above = [path, *(str(one) for one in Path(path).parents if str(one) != ".")]
            if any(_fits(pattern, one) for one in above):
                is_there = rule.startswith("!")
        return is_there


def _fits(pattern: str, path: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch.fnmatchcase(path.rsplit("/", 1)[-1], pattern[3:])
    return len(pattern.split("/")) == len(path.split("/")) and fnmatch.fnmatchcase(path, pattern)
