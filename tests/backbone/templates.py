"""Reads the templates of backbone/cloudformation as plain values, with CloudFormation's functions as {"Fn::…": …}."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from cfnlint.decode import cfn_yaml

from tests.backbone.containerfiles import FOLDER

TEMPLATES = FOLDER / "backbone" / "cloudformation"


@cache
def template(stack: str) -> dict[str, Any]:
    """A template as it is; not to be changed."""
    read: dict[str, Any] = json.loads(json.dumps(cfn_yaml.load(str(TEMPLATES / f"{stack}.yaml")), default=str))
    return read


def of_type(stack: str, kind: str) -> dict[str, dict[str, Any]]:
    """The properties of a template's resources of a type, by their names there."""
    found = template(stack)["Resources"].items()
    return {name: one.get("Properties", {}) for name, one in found if one["Type"] == f"AWS::{kind}"}


def containers(stack: str) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each container of a template's tasks: the task's name, its properties, the container."""
    for name, task in of_type(stack, "ECS::TaskDefinition").items():
        for container in task["ContainerDefinitions"]:
            yield name, task, container


def environment(container: dict[str, Any], stack: str, **parameters: str) -> dict[str, str]:
    """What a container's process has in its environment, conditions met; secrets are their names."""
    given = {name: str(one.get("Default", "")) for name, one in template(stack)["Parameters"].items()} | parameters
    values = {one["Name"]: _text(one["Value"], given) for one in container.get("Environment", [])}
    return values | {one["Name"]: one["Name"] for one in container.get("Secrets", [])}


def _text(value: Any, parameters: dict[str, str]) -> str:
    if isinstance(value, dict):
        ((function, argument),) = value.items()
        if function == "Ref":
            return parameters[argument]
        if function == "Fn::Sub" and isinstance(argument, str):
            return re.sub(r"\$\{(\w+)\}", lambda found: parameters[found[1]], argument)
        if function == "Fn::If":
            return _text(argument[1], parameters)
        raise AssertionError(f"found {function}, expected Ref or Fn::Sub")
    return str(value)
