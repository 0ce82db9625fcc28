"""Reads the templates: which parameters each has, which outputs, and what is in it. Nothing of AWS is asked.

Needs no Django: the deploy tool runs where nothing of Portafilter's is set up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from backbone import stacks

# What CloudFormation takes in one call (CreateChangeSet, TemplateBody); more would need a bucket first.
SIZE_LIMIT = 51_200


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML with CloudFormation's short forms: `!Ref X` is {"Ref": "X"}, `!GetAtt A.B` {"Fn::GetAtt": ["A", "B"]}."""


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = value.split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)


@dataclass(frozen=True, slots=True)
class Template:
    """One template: its text as it is sent, and what is in it, short forms written out."""

    stack: str
    text: str
    content: dict[str, Any]

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        return dict(self.content.get("Parameters") or {})

    @property
    def outputs(self) -> dict[str, Any]:
        return dict(self.content.get("Outputs") or {})

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        return dict(self.content["Resources"])


@cache
def read(stack: str) -> Template:
    """The template of a stack; raises OSError."""
    text = stacks.path_of(stack).read_text(encoding="utf-8")
    return Template(stack, text, _Loader(text).get_single_data())


def broken_rules(template: Template, values: Mapping[str, str]) -> list[str]:
    """What the template's Rules say is wrong with these values, as CloudFormation would once it is that stack's turn.

    A rule about a value that is not known yet is passed over.
    """
    found = []
    for rule in (template.content.get("Rules") or {}).values():
        try:
            if _holds(rule.get("RuleCondition", {"Fn::Equals": ["", ""]}), values):
                found += [one["AssertDescription"] for one in rule["Assertions"] if not _holds(one["Assert"], values)]
        except KeyError:
            continue
    return found


def _holds(condition: Mapping[str, Any], values: Mapping[str, str]) -> bool:
    ((function, said),) = condition.items()
    if function == "Fn::Equals":
        one, other = (values[side["Ref"]] if isinstance(side, dict) else str(side) for side in said)
        return one == other
    if function == "Fn::Not":
        return not _holds(said[0], values)
    if function in {"Fn::And", "Fn::Or"}:
        return (all if function == "Fn::And" else any)(_holds(one, values) for one in said)
    raise KeyError(function)


def problem_of(name: str, declared: dict[str, Any], value: str) -> str:
    """What is wrong with a parameter's value, in a sentence; empty if nothing. A list is looked at item by item."""
    kind = str(declared["Type"])
    is_list = kind.startswith("List<") or kind == "CommaDelimitedList"
    for item in value.split(",") if is_list else [value]:
        pattern, allowed = declared.get("AllowedPattern"), declared.get("AllowedValues")
        if allowed and item not in [str(one) for one in allowed]:
            return f"{name}: found {item!r}, expected one of {', '.join(str(one) for one in allowed)}."
        if pattern and not re.fullmatch(pattern, item):
            return f"{name}: found {item!r}, expected {declared.get('Description') or pattern}"
        if kind == "Number":
            if not re.fullmatch(r"-?[0-9]+", item):
                return f"{name}: found {item!r}, expected a whole number."
            least, most = declared.get("MinValue"), declared.get("MaxValue")
            if (least is not None and int(item) < least) or (most is not None and int(item) > most):
                return f"{name}: found {item}, expected {least} to {most}."
    return ""
