"""What a deployment or a taking down that stopped in the middle left, and the same command again.

moto's stacks are never in these states, so AWS is as much of one here as these ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backbone import parameters, stacks, teardown
from backbone.deploy import Cloud, DeployError, Deployment
from machines.aws import AwsError, Kind


class Amazon:
    """Stacks by their status; `answers` are for what a test is about, and all calls are put down."""

    def __init__(self, **stacks: str) -> None:
        self.stacks: dict[str, dict[str, Any]] = {}
        for name, status in stacks.items():
            self.stacks[f"portafilter-{name}"] = {"StackId": f"portafilter-{name}", "StackStatus": status}
        self.answers: dict[str, Callable[..., dict[str, Any]]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def call(self, service: str, name: str, /, *, about: str, setting: str, **given: Any) -> dict[str, Any]:
        self.calls.append((name, given))
        if name in self.answers:
            return self.answers[name](**given)
        answer: Callable[..., dict[str, Any]] = getattr(self, f"_{name}")
        return answer(**given)

    def said(self, name: str) -> list[dict[str, Any]]:
        """With what a call came, each time."""
        return [given for one, given in self.calls if one == name]

    def _DescribeStacks(self, StackName: str) -> dict[str, Any]:
        if StackName not in self.stacks:
            raise AwsError("", code="ValidationError", said=f"Stack with id {StackName} does not exist")
        return {"Stacks": [self.stacks[StackName]]}

    def _DeleteStack(self, StackName: str) -> dict[str, Any]:
        del self.stacks[StackName]
        return {}

    def _DescribeStackEvents(self, StackName: str) -> dict[str, Any]:
        return {"StackEvents": []}

    def _DescribeAutoScalingGroups(self, **_: Any) -> dict[str, Any]:
        return {"AutoScalingGroups": []}


def not_there(**_: Any) -> dict[str, Any]:
    raise AwsError("It is not there.", kind=Kind.NOT_FOUND)


@pytest.fixture
def said() -> list[str]:
    return []


def deployment(amazon: Amazon, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Deployment:
    cloud = Cloud("eu-west-1", sleep=lambda seconds: None)
    monkeypatch.setattr(cloud, "aws", amazon)
    return Deployment(cloud, "portafilter", said.append, poll_s=0)


def deploy(deployment: Deployment, stack: str, *, dry: bool = False) -> None:
    steps = [step for step in stacks.STEPS if step.stack == stack]
    deployment.run(steps, parameters.Parameters("portafilter"), dry=dry)


# --- making it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dry", [False, True])
def test_data_of_which_a_deletion_has_begun_is_deleted_by_nobody_but_destroy(
    dry: bool, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon(data="DELETE_FAILED")
    left = [
        {"LogicalResourceId": "Database", "ResourceStatus": "DELETE_FAILED", "ResourceType": "AWS::RDS::DBInstance"},
        {"LogicalResourceId": "Redis", "ResourceStatus": "DELETE_COMPLETE", "ResourceType": "AWS::X"},
        {"LogicalResourceId": "Key", "ResourceStatus": "DELETE_SKIPPED", "ResourceType": "AWS::KMS::Key"},
        {"LogicalResourceId": "DataSubnets", "ResourceStatus": "CREATE_COMPLETE", "ResourceType": "AWS::Y"},
    ]
    amazon.answers["DescribeStackResources"] = lambda **_: {"StackResources": left}
    with pytest.raises(DeployError) as caught:
        deploy(deployment(amazon, said, monkeypatch), "data", dry=dry)
    words = str(caught.value)
    assert words.startswith("data: DELETE_FAILED") and "destroy --data" in words
    assert "Database, DataSubnets" in words and "Redis" not in words and "Key" not in words
    assert amazon.said("DeleteStack") == [] and "portafilter-data" in amazon.stacks


@pytest.mark.parametrize(("has", "calls"), [(False, 1), (True, 0)])
def test_data_whose_making_was_not_looked_at_to_its_end_is_protected_the_next_time(
    has: bool, calls: int, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon(data="CREATE_COMPLETE")
    amazon.stacks["portafilter-data"]["EnableTerminationProtection"] = has
    nothing = {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}
    done: dict[str, Any] = {}
    amazon.answers = dict.fromkeys(
        ("CreateChangeSet", "DeleteChangeSet", "UpdateTerminationProtection"), lambda **_: done
    )
    amazon.answers["DescribeChangeSet"] = lambda **_: nothing
    told = deployment(amazon, said, monkeypatch)
    step = stacks.Step("data")
    told._change(step, told.describe("data"), {}, dry=True)
    assert amazon.said("UpdateTerminationProtection") == []
    told._change(step, told.describe("data"), {}, dry=False)
    protected = [{"StackName": "portafilter-data", "EnableTerminationProtection": True}]
    assert amazon.said("UpdateTerminationProtection") == protected * calls


# --- taking it down ---------------------------------------------------------------------------------------------------


def test_gateways_that_never_came_to_be_are_taken_down(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    amazon = Amazon(gateways="ROLLBACK_COMPLETE", network="CREATE_COMPLETE")
    amazon.answers["ListTasks"] = not_there
    teardown.destroy(deployment(amazon, said, monkeypatch), data=False)
    assert amazon.said("ListTasks") == [{"cluster": "portafilter"}]
    assert list(amazon.stacks) == ["portafilter-network"]


def test_task_that_has_just_gone_does_not_keep_the_others(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    amazon = Amazon(gateways="CREATE_COMPLETE")
    amazon.stacks["portafilter-gateways"]["Outputs"] = [{"OutputKey": "ClusterName", "OutputValue": "portafilter"}]

    def stop(task: str, **_: Any) -> dict[str, Any]:
        return not_there() if task == "gone" else {}

    amazon.answers |= {"ListTasks": lambda **_: {"taskArns": ["gone", "there"]}, "StopTask": stop}
    teardown.destroy(deployment(amazon, said, monkeypatch), data=False)
    assert [given["task"] for given in amazon.said("StopTask")] == ["gone", "there"]
    assert amazon.stacks == {}
