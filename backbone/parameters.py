"""What each stack is told: by the parameters' file, looked at before AWS is asked for anything, and by earlier stacks.

The file is TOML. The table [all] is for every stack that has such a parameter, one with a stack's name for that one:

    [all]
    PortalHostName = "portal.example.com"
    [app]
    WebMin = 3
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backbone import stacks, templates

ALL = "all"
# Follow from others, unless they are given.
DERIVED = {"PortalOrigin": "https://{PortalHostName}"}
# The deploy tool looks them up at AWS, unless they are given.
LOOKED_UP = {"CloudFrontNetworks"}


class ParameterError(Exception):
    """The parameters' file cannot be used; one sentence a line, each naming what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """What was given, by stack; `all` is for each that has such a parameter."""

    installation: str
    given: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def given_for(self, stack: str) -> dict[str, str]:
        """Those of one stack that stand in the file, follow from it, or are the installation's name."""
        declared = templates.read(stack).parameters
        everywhere = dict(self.given.get(ALL, {}))
        for name, pattern in DERIVED.items():
            if name not in everywhere:
                try:
                    everywhere[name] = pattern.format_map(everywhere)
                except KeyError:
                    continue
        everywhere["Name"] = self.installation
        found = {name: value for name, value in everywhere.items() if name in declared}
        return found | dict(self.given.get(stack, {}))

    def values(self, step: stacks.Step, outputs: Mapping[str, str]) -> dict[str, str]:
        """What a step's stack is told, but for what its template's defaults say; `outputs` are those before it."""
        declared = templates.read(step.stack).parameters
        found = {name: value for name, value in outputs.items() if name in declared and name not in step.withheld}
        given = {name: value for name, value in self.given_for(step.stack).items() if name not in step.withheld}
        return found | given


def read(path: Path | None, installation: str) -> Parameters:
    """The parameters' file, or none; raises ParameterError for one that is no TOML or has values of other kinds."""
    given: dict[str, dict[str, str]] = {}
    if path is not None:
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ParameterError(f"{path}: cannot be read ({error.strerror}).") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ParameterError(f"{path}: found no TOML ({error}).") from error
        for table, values in tables.items():
            if not isinstance(values, dict):
                raise ParameterError(f"{path}: found {table} outside a table, expected it in [all] or in a stack's.")
            given[table] = {name: _text(path, f"[{table}] {name}", value) for name, value in values.items()}
    return Parameters(installation, given)


def check(parameters: Parameters, steps: Iterable[stacks.Step] = stacks.STEPS) -> None:
    """Raises ParameterError with all that is wrong: unknown names, values that do not fit, what nothing fills."""
    wrong = []
    for table, values in parameters.given.items():
        if table != ALL and table not in stacks.STACKS:
            wrong.append(f"[{table}]: there is no such stack, expected all or one of {', '.join(stacks.STACKS)}.")
            continue
        known = [templates.read(stack).parameters for stack in (stacks.STACKS if table == ALL else [table])]
        wrong += [f"[{table}] {name}: no template has it." for name in values if not any(name in one for one in known)]
    for stack, unfilled in _unfilled(parameters, steps).items():
        wrong += [f"{name}: not given, and {stack} needs it: {words}" for name, words in unfilled.items()]
    for stack in {step.stack: None for step in steps}:
        declared = templates.read(stack).parameters
        for name, value in parameters.given_for(stack).items():
            if name in declared:
                problem = templates.problem_of(name, declared[name], value)
                wrong += [problem] if problem else []
        defaults = {name: str(one["Default"]) for name, one in declared.items() if "Default" in one}
        wrong += templates.broken_rules(templates.read(stack), defaults | parameters.given_for(stack))
    if wrong:
        raise ParameterError("\n".join(dict.fromkeys(wrong)))


def _unfilled(parameters: Parameters, steps: Iterable[stacks.Step]) -> dict[str, dict[str, str]]:
    """By stack: what must be given and is not, with what the template says of it."""
    wanted = {step.stack for step in steps}
    found: dict[str, dict[str, str]] = {}
    outputs: set[str] = set()
    for step in stacks.STEPS:
        template = templates.read(step.stack)
        filled = outputs | set(parameters.given_for(step.stack)) | LOOKED_UP
        missing = {
            name: str(declared.get("Description") or declared["Type"])
            for name, declared in template.parameters.items()
            if "Default" not in declared and name not in filled
        }
        if step.stack in wanted and missing:
            found.setdefault(step.stack, {}).update(missing)
        outputs |= set(template.outputs)
    return found


def _text(path: Path, name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | str):
        return str(value)
    if isinstance(value, list):
        return ",".join(_text(path, name, item) for item in value)
    raise ParameterError(f"{path}, {name}: found {value!r}, expected a text, a whole number, true, false or a list.")
