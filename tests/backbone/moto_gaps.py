"""Where moto's CloudFormation does less than AWS: closed for the tests alone, and what it cannot make is put down.

moto passes types over that it does not know, fails at some that it does, and forgets a stack's template when the stack
was made by a change set. Here each resource that it does not make is a StandIn, so that later stacks get outputs.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from moto.cloudformation import models, parsing
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import ActionResult, EmptyResult
from moto.elbv2.models import FakeLoadBalancer, elbv2_backends
from moto.secretsmanager.models import secretsmanager_backends


@dataclass
class Report:
    """Types that moto does not know, those it knows and fails at, and attributes that it lacks, as `Type.Attribute`."""

    unknown: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    attributes: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    protected: set[str] = field(default_factory=set)


class StandIn:
    """What stands for a resource that moto has not made."""

    def __init__(self, logical_id: str, kind: str) -> None:
        self.logical_resource_id = self.physical_resource_id = logical_id
        self.cf_resource_type = self.type = kind

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return True

    def get_cfn_attribute(self, name: str) -> str:
        return f"{self.logical_resource_id}.{name}"

    def delete(self, account_id: str, region: str) -> None:
        pass


def close(monkeypatch: pytest.MonkeyPatch) -> Report:
    """Closes them all; what moto could not make since then is in the report."""
    report = Report()
    _balancer_of_its_type(monkeypatch)
    _functions(monkeypatch, report)
    _change_sets_that_make_stacks(monkeypatch)
    _stand_ins(monkeypatch, report)
    _deleting(monkeypatch)
    protected = report.protected

    def protect(self: CloudFormationResponse) -> ActionResult:
        is_protected = self._get_param("EnableTerminationProtection")
        (protected.add if is_protected in {True, "true"} else protected.discard)(self._get_param("StackName"))
        return EmptyResult()

    monkeypatch.setattr(CloudFormationResponse, "update_termination_protection", protect, raising=False)
    return report


def _balancer_of_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load balancer is of its template's type; moto makes each for HTTP, and then refuses the listener for UDP."""

    def create(
        cls: type[FakeLoadBalancer], /, resource_name: str, cloudformation_json: Any, account_id: str, region_name: str,
        **_: Any,
    ) -> FakeLoadBalancer:  # fmt: skip
        given = cloudformation_json["Properties"]
        return elbv2_backends[account_id][region_name].create_load_balancer(
            given.get("Name", resource_name), given.get("SecurityGroups"), given.get("Subnets"),
            scheme=given.get("Scheme", "internet-facing"), loadbalancer_type=given.get("Type"),
        )  # fmt: skip

    monkeypatch.setattr(FakeLoadBalancer, "create_from_cloudformation_json", classmethod(create))


def _functions(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    """Fn::Cidr, NoValue within lists, zones of the stack's own region, and attributes that moto lacks."""
    real = parsing.clean_json

    def clean(resource_json: Any, resources_map: Any) -> Any:
        if isinstance(resource_json, list):
            cleaned = [parsing.clean_json(one, resources_map) for one in resource_json]
            return [one for one, was in zip(cleaned, resource_json, strict=True) if one is not None or was is None]
        if not isinstance(resource_json, dict):
            return real(resource_json, resources_map)
        if "Fn::Cidr" in resource_json:
            block, count, bits = (real(one, resources_map) for one in resource_json["Fn::Cidr"])
            subnets = ipaddress.ip_network(block).subnets(new_prefix=32 - int(bits))
            return [str(one) for one in itertools.islice(subnets, int(count))]
        if resource_json.get("Fn::GetAZs") == "":
            resource_json = {"Fn::GetAZs": resources_map["AWS::Region"]}
        if "Fn::GetAtt" in resource_json:
            name, attribute = resource_json["Fn::GetAtt"][0], ".".join(resource_json["Fn::GetAtt"][1:])
            resource = resources_map.get(name)
            try:
                found = real(resource_json, resources_map)
            except Exception:
                found = None
            if isinstance(found, str | int | list) and found != "":
                return found
            report.attributes.add(f"{getattr(resource, 'cf_resource_type', name)}.{attribute}")
            return f"{name}.{attribute}"
        return real(resource_json, resources_map)

    monkeypatch.setattr(parsing, "clean_json", clean)


def _change_sets_that_make_stacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack made by a change set knows its template: its outputs and parameters, and what the next one changes."""
    real = models.ChangeSet.apply

    def apply(self: models.ChangeSet) -> None:
        real(self)
        stack = self.stack
        stack.template, stack.template_dict, stack.parameters = self.template, self.template_dict, self.parameters
        stack.output_map = parsing.OutputMap(stack.resource_map, self.template_dict, stack.stack_id)

    monkeypatch.setattr(models.ChangeSet, "apply", apply)


def _stand_ins(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    real_create, real_update = parsing.parse_and_create_resource, parsing.parse_and_update_resource

    def create(logical_id: str, resource_json: Any, resources_map: Any, **named: Any) -> Any:
        kind = resource_json["Type"]
        if parsing.resource_class_from_type(kind) is None:
            condition = resource_json.get("Condition")
            if condition and not resources_map.lazy_condition_map[condition]:
                return None
            report.unknown.add(kind)
            # What it is made of must be there all the same.
            given = parsing.clean_json(resource_json.get("Properties", {}), resources_map)
            stand_in = StandIn(logical_id, kind)
            if kind == "AWS::SecretsManager::Secret":
                stand_in.physical_resource_id = _secret(logical_id, given, named["account_id"], named["region_name"])
            return stand_in
        try:
            made = real_create(logical_id, resource_json, resources_map, **named)
        except Exception as error:
            report.failed[kind] = f"{type(error).__name__}: {error}"
            return StandIn(logical_id, kind)
        if made is not None:
            report.made.add(kind)
        return made

    def update(logical_id: str, resource_json: Any, resources_map: Any, **named: Any) -> Any:
        was = resources_map[logical_id]
        if isinstance(was, StandIn):
            return was
        try:
            return real_update(logical_id, resource_json, resources_map, **named) or was
        except Exception as error:
            report.failed[f"{resource_json['Type']} (changed)"] = f"{type(error).__name__}: {error}"
            return was

    monkeypatch.setattr(parsing, "parse_and_create_resource", create)
    monkeypatch.setattr(parsing, "parse_and_update_resource", update)


def _secret(logical_id: str, given: dict[str, Any], account_id: str, region_name: str) -> str:
    """A secret in moto, which its CloudFormation does not make; without a value unless one is to be made up."""
    value = "made-up" if "GenerateSecretString" in given else None
    backend = secretsmanager_backends[account_id][region_name]
    made = backend.create_secret(
        given.get("Name", logical_id),
        value,
        None,
        given.get("Description"),
        given.get("Tags"),
        given.get("KmsKeyId"),
        None,
        [],
        False,
    )
    return str(json.loads(made)["ARN"])


def _deleting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stack goes, also where moto fails at one of its resources."""
    real = parsing.ResourceMap.delete

    def delete(self: parsing.ResourceMap) -> None:
        with contextlib.suppress(Exception):
            real(self)

    monkeypatch.setattr(parsing.ResourceMap, "delete", delete)
