"""Each role of the templates allows just what the code calls: nothing is missing, and nothing more is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from backbone import stacks, templates
from tests.backbone.containerfiles import FOLDER

# Who runs a module that calls AWS. A new one stands here before it is deployed, and by that in a role.
WORKER = {
    "sessions/gateways/ecs_calls.py": "gateways",
    "sessions/gateways/ecs_events.py": "gateways",
    "notifications/channels/sns.py": "presses and texts",
    "machines/telemetry/iot_core.py": "things",
    "backbone/accelerator.py": "accelerator",
}
DOCTOR = "portal/doctor/"
# By whoever deploys, with permissions of his own.
TOOL = {
    f"backbone/{name}.py"
    for name in (
        "deploy",
        "change_sets",
        "app_secrets",
        "migration",
        "teardown",
        "running",
        "one_off",
        "commands",
        "__main__",
    )
}
PREFIXES = {"iot-data": "iot"}
# What a call needs besides its own name: RunTask gives its task tags and an execution role.
IMPLIED = {"ecs:RunTask": {"ecs:TagResource", "iam:PassRole"}}
# AWS lets everybody ask who he is.
NEEDS_NOTHING = {"sts:GetCallerIdentity"}
# No resource can be named for these (Service Authorization Reference), so `*` it is.
WITHOUT_RESOURCE = {
    "ecr:GetAuthorizationToken": "a token is for the whole registry",
    "ecs:DiscoverPollEndpoint": "where the agent asks is the same for all clusters",
    "ecs:DescribeTaskDefinition": "knows no resource",
    "ecs:ListTasks": "the cluster is in a condition",
    "ecs:Poll": "the container instance is not known beforehand; the cluster is in a condition",
    "ecs:StartTelemetrySession": "as Poll",
    "ecs:PutSystemLogEvents": "as Poll",
    "ec2:DescribeSubnets": "knows no resource",
    "ec2:DescribeSecurityGroups": "knows no resource",
    "events:ListRuleNamesByTarget": "knows no resource",
    "globalaccelerator:ListAccelerators": "knows no resource",
    "iot:DescribeEndpoint": "knows no resource",
    "sns:GetSMSAttributes": "knows no resource",
    "sns:GetSMSSandboxAccountStatus": "knows no resource",
    "ssm:UpdateInstanceInformation": "the agent's own, and a computer says it of itself alone",
    "ssmmessages:CreateControlChannel": "knows no resource",
    "ssmmessages:CreateDataChannel": "knows no resource",
    "ssmmessages:OpenControlChannel": "knows no resource",
    "ssmmessages:OpenDataChannel": "knows no resource",
}
BY_CONDITION = {"ecs:ListTasks", "ecs:Poll", "ecs:StartTelemetrySession", "ecs:PutSystemLogEvents"}


# --- what the code calls ----------------------------------------------------------------------------------------------


def calls(path: Path) -> Iterator[str]:
    """The IAM action of each `….call("service", "Name", …)` in a module; fails for one whose names are no literals."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or node.func.attr != "call":
            continue
        names = [one.value for one in node.args[:2] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        is_ours = any(keyword.arg in {"about", "setting"} for keyword in node.keywords) or len(names) == 2
        if is_ours:
            assert len(names) == 2, f"{path}:{node.lineno}: service and name of a call to AWS must be literals"
            yield f"{PREFIXES.get(names[0], names[0])}:{names[1]}"


@cache
def called() -> dict[str, set[str]]:
    """By module: the actions that it calls."""
    found = {}
    for app in ("machines", "notifications", "sessions", "backbone", "portal"):
        for path in sorted((FOLDER / app).rglob("*.py")):
            actions = set(calls(path))
            if actions:
                found[str(path.relative_to(FOLDER))] = actions
    return found


def needed_by_worker() -> set[str]:
    actions = set().union(*(called()[module] for module in WORKER))
    return actions.union(*(IMPLIED.get(action, set()) for action in actions))


# --- what the roles allow ---------------------------------------------------------------------------------------------


def flat(value: Any) -> list[Any]:
    """The items of a list with its conditions' both sides in it, NoValue left out."""
    if isinstance(value, dict) and "Fn::If" in value:
        return [one for side in value["Fn::If"][1:] for one in flat(side)]
    if isinstance(value, list):
        return [one for item in value for one in flat(item)]
    return [] if value in ({"Ref": "AWS::NoValue"}, None) else [value]


def statements(stack: str, role: str) -> list[tuple[str, dict[str, Any]]]:
    """Policy name and statement of each that a role has, also by policies that stand apart."""
    resources = templates.read(stack).resources
    policies = flat(resources[role]["Properties"].get("Policies", []))
    for one in resources.values():
        if one["Type"] == "AWS::IAM::RolePolicy" and one["Properties"]["RoleName"] == {"Ref": role}:
            policies.append(one["Properties"])
    return [(one["PolicyName"], said) for one in policies for said in flat(one["PolicyDocument"]["Statement"])]


def allowed(stack: str, role: str) -> dict[str, set[str]]:
    """By policy: the actions it allows."""
    found: dict[str, set[str]] = {}
    for policy, said in statements(stack, role):
        assert said["Effect"] == "Allow"
        found.setdefault(policy, set()).update(flat(said["Action"]))
    return found


def roles() -> list[tuple[str, str]]:
    return [
        (stack, name)
        for stack in stacks.STACKS
        for name, one in templates.read(stack).resources.items()
        if one["Type"] == "AWS::IAM::Role"
    ]


# --- both ways --------------------------------------------------------------------------------------------------------


def test_every_module_that_calls_aws_has_somebody_who_runs_it() -> None:
    found = {module for module in called() if module not in TOOL and not module.startswith(DOCTOR)}
    assert found == set(WORKER), "who runs it, and in which role is it?"


def test_worker_may_do_just_what_its_code_calls() -> None:
    policies = allowed("app", "WorkerTaskRole")
    at_work = set().union(*(actions for policy, actions in policies.items() if policy not in {"doctor", "shell"}))
    assert at_work - needed_by_worker() == set(), "allowed, and nobody calls it"
    assert needed_by_worker() - at_work - NEEDS_NOTHING == set(), "called, and not allowed"


def test_doctor_may_look_at_just_what_it_looks_at() -> None:
    looks = set().union(*(actions for module, actions in called().items() if module.startswith(DOCTOR)))
    assert looks, "the doctor is elsewhere now"
    besides = looks - needed_by_worker() - NEEDS_NOTHING
    assert allowed("app", "WorkerTaskRole")["doctor"] == besides
    verbs = {action.partition(":")[2] for action in besides}
    assert all(verb.startswith(("Describe", "Get", "List")) for verb in verbs), "it changes nothing"


def test_portal_keeper_and_gateways_may_do_nothing() -> None:
    assert set(allowed("app", "WebTaskRole")) <= {"shell"}
    with_role = {
        (stack, name): one["Properties"]["TaskRoleArn"]["Fn::GetAtt"][0]
        for stack in stacks.STACKS
        for name, one in templates.read(stack).resources.items()
        if one["Type"] == "AWS::ECS::TaskDefinition" and "TaskRoleArn" in one["Properties"]
    }
    assert with_role == {
        ("app", "WebTask"): "WebTaskRole",
        ("app", "WorkerTask"): "WorkerTaskRole",
        ("app", "KeeperTask"): "WebTaskRole",
    }


@pytest.mark.parametrize(("stack", "role"), roles())
def test_stars_stand_only_where_aws_knows_no_resource(stack: str, role: str) -> None:
    for policy, said in statements(stack, role):
        for action in flat(said["Action"]):
            assert "*" not in action, f"{policy}: {action}"
            if "NotResource" in said:
                # A phone has no ARN; what has one is left out.
                assert action == "sns:Publish" and ":sns:" in str(said["NotResource"])
            elif "*" in flat(said["Resource"]):
                assert action in WITHOUT_RESOURCE, f"{policy}: {action} can be given a resource"
                assert "Condition" in said or action not in BY_CONDITION, f"{policy}: {action} can be given a cluster"


@pytest.mark.parametrize(("stack", "role"), roles())
def test_roles_are_for_one_service_of_this_account(stack: str, role: str) -> None:
    document = templates.read(stack).resources[role]["Properties"]["AssumeRolePolicyDocument"]
    (said,) = document["Statement"]
    (service,) = flat(said["Principal"]["Service"])
    # A computer's role is bound to it by its instance profile; the others could be used for another account's.
    assert service == "ec2.amazonaws.com" or "Condition" in said
    # What AWS writes into its own policies is not ours to know.
    assert "ManagedPolicyArns" not in templates.read(stack).resources[role]["Properties"]


def test_tasks_are_started_with_just_the_secrets_that_they_read() -> None:
    seen = 0
    for stack in stacks.STACKS:
        resources = templates.read(stack).resources
        read: dict[str, set[str]] = {}
        for one in resources.values():
            if one["Type"] != "AWS::ECS::TaskDefinition":
                continue
            role = one["Properties"]["ExecutionRoleArn"]["Fn::GetAtt"][0]
            for container in one["Properties"]["ContainerDefinitions"]:
                for secret in flat(container.get("Secrets", [])):
                    source = secret["ValueFrom"]
                    name = source["Ref"] if "Ref" in source else source["Fn::Sub"].partition("}")[0].removeprefix("${")
                    read.setdefault(role, set()).add(name)
        for role, names in read.items():
            may = {
                one["Ref"]
                for _, said in statements(stack, role)
                if "secretsmanager:GetSecretValue" in flat(said["Action"])
                for one in flat(said["Resource"])
            }
            assert may == names, f"{stack}: {role}"
            seen += 1
    assert seen >= 4
