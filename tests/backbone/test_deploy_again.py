"""What a deployment or a taking down that stopped in the middle left, and the same command again.

moto's stacks are never in these states, so AWS is as much of one here as these ask for.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from backbone import parameters, reaching, stacks, teardown
from backbone.cloud import Cloud, DeployError
from backbone.deploy import Deployment
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


def deploy(deployment: Deployment, stack: str, *, dry: bool = False, last: bool = False, **given: str) -> None:
    steps = [step for step in stacks.STEPS if step.stack == stack]
    deployment.run(steps[-1:] if last else steps, parameters.Parameters("portafilter", {"all": given}), dry=dry)


@contextlib.contextmanager
def listening(code: int) -> Iterator[str]:
    """A server that answers /healthz with this status."""

    class Face(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(code if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Face) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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


EDGE = {
    "PortalOrigin": "https://portal.example.com", "PortalHostName": "portal.example.com",
    "PortalTarget": "d1.example.net", "VpnHostName": "vpn.example.com", "AcceleratorDnsName": "a1.example.net",
}  # fmt: skip


def test_portal_that_does_not_answer_stops_before_sns_and_the_records_are_told(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon(edge="CREATE_COMPLETE", notify="CREATE_COMPLETE")
    amazon.stacks["portafilter-edge"]["Outputs"] = [
        {"OutputKey": name, "OutputValue": value} for name, value in EDGE.items()
    ]
    looks: list[str] = []

    def look(origin: str) -> str:
        looks.append(origin)
        return "the name is not known"

    monkeypatch.setattr(reaching, "look", look)
    told = deployment(amazon, said, monkeypatch)
    with pytest.raises(DeployError) as caught:
        deploy(told, "notify", last=True)
    words = str(caught.value)
    assert "https://portal.example.com/healthz does not answer (the name is not known)" in words
    assert "portal.example.com to d1.example.net, vpn.example.com to a1.example.net" in words
    assert amazon.said("CreateChangeSet") == [] and len(looks) > 1
    # With a zone the records are there.
    with pytest.raises(DeployError) as caught:
        deploy(told, "notify", last=True, HostedZoneId="Z0123456789")
    assert "records" not in str(caught.value) and "`status`" in str(caught.value)


@pytest.mark.parametrize(("code", "why"), [(200, ""), (503, "it answers 503")])
def test_portal_is_there_when_it_says_that_it_is_well(code: int, why: str) -> None:
    with listening(code) as origin:
        assert reaching.look(origin) == why
    with socket.socket() as held:  # a port that is nobody else's meanwhile, where nobody listens
        held.bind(("127.0.0.1", 0))
        assert reaching.look(f"http://127.0.0.1:{held.getsockname()[1]}") == "ConnectionRefusedError"
    assert reaching.look("https://nowhere.invalid") == "the name is not known"


def test_stack_that_is_left_out_and_goes_by_an_old_address_is_told(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon(vpn="UPDATE_COMPLETE", app="CREATE_COMPLETE")
    output = {"OutputKey": "VpnPrivateAddress", "OutputValue": "10.60.1.5"}
    amazon.stacks["portafilter-vpn"]["Outputs"] = [output]
    monkeypatch.setattr(Deployment, "_bring", lambda *_: None)
    words = "app: it goes by another VpnPrivateAddress than there is now. Deploy it, too."
    for address, told in (("10.60.1.4", [words]), ("10.60.1.5", [])):
        known = {"ParameterKey": "VpnPrivateAddress", "ParameterValue": address}
        amazon.stacks["portafilter-app"]["Parameters"] = [known, {"ParameterKey": "WebMin", "ParameterValue": "2"}]
        said.clear()
        deploy(deployment(amazon, said, monkeypatch), "vpn", WebMin="3")
        assert said == told
    amazon.stacks["portafilter-app"]["Parameters"][0]["ParameterValue"] = "10.60.1.4"
    deploy(deployment(amazon, said, monkeypatch), "app")
    assert said == []


GROUP = {
    "EndpointGroupArn": "arn:group", "EndpointGroupRegion": "eu-west-1", "TrafficDialPercentage": 100.0,
    "EndpointDescriptions": [{"EndpointId": "i-1", "Weight": 128}],
}  # fmt: skip
DRAINED = {"EndpointDescriptions": [{"EndpointId": "i-1", "Weight": 0}, {"EndpointId": "i-2", "Weight": 128}]}


def edge_that_changes(monkeypatch: pytest.MonkeyPatch, said: list[str], group: Any, **change: str) -> Deployment:
    """A deployment whose `edge` CloudFormation would change so, while its endpoint group stands so."""
    amazon = Amazon(edge="UPDATE_COMPLETE")
    done: dict[str, Any] = {}
    amazon.answers = dict.fromkeys(("CreateChangeSet", "DeleteChangeSet", "ExecuteChangeSet"), lambda **_: done)
    change = {
        "Action": "Modify", "LogicalResourceId": "VpnOverUdpEndpoints", "PhysicalResourceId": "arn:group",
        "ResourceType": "AWS::GlobalAccelerator::EndpointGroup", **change,
    }  # fmt: skip
    described = {"Status": "CREATE_COMPLETE", "Changes": [{"Type": "Resource", "ResourceChange": change}]}
    amazon.answers["DescribeChangeSet"] = lambda **_: described
    amazon.answers["DescribeEndpointGroup"] = group if callable(group) else lambda **_: {"EndpointGroup": group}
    told = deployment(amazon, said, monkeypatch)
    monkeypatch.setattr(told.cloud.accelerators, "_aws", amazon)
    return told


def calls_of(told: Deployment) -> list[str]:
    amazon: Any = told.cloud.aws
    return [name for name, _ in amazon.calls]


@pytest.mark.parametrize(
    ("turned", "words"),
    [
        ({"TrafficDialPercentage": 0.0}, "VpnOverUdpEndpoints: the dial of eu-west-1 is at 0\N{NO-BREAK SPACE}%"),
        (DRAINED, "VpnOverUdpEndpoints: the weight of instance i-1 in eu-west-1 is 0, and"),
    ],
)
def test_change_that_would_turn_a_dial_back_is_not_made_unasked(
    turned: dict[str, Any], words: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = edge_that_changes(monkeypatch, said, GROUP | turned)
    step = stacks.Step("edge")
    with pytest.raises(DeployError) as caught:
        told._change(step, told.describe("edge"), {}, dry=False)
    assert words in str(caught.value) and "--turn-dials-back" in str(caught.value)
    assert calls_of(told)[-1] == "DeleteChangeSet" and "ExecuteChangeSet" not in calls_of(told)
    told._change(step, told.describe("edge"), {}, dry=True)
    assert any(line.startswith("edge: would turn back: VpnOverUdpEndpoints: the") for line in said)
    told.may_turn_dials_back = True
    told._change(step, told.describe("edge"), {}, dry=False)
    assert "ExecuteChangeSet" in calls_of(told)


@pytest.mark.parametrize(
    ("group", "change"),
    [
        (GROUP, {}),
        (GROUP | DRAINED, {"Action": "Add", "PhysicalResourceId": ""}),
        (GROUP | DRAINED, {"ResourceType": "AWS::CloudFront::Distribution"}),
        (not_there, {}),
    ],
)
def test_change_that_turns_nothing_back_is_made(
    group: Any, change: dict[str, str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = edge_that_changes(monkeypatch, said, group, **change)
    told._change(stacks.Step("edge"), told.describe("edge"), {}, dry=False)
    assert "ExecuteChangeSet" in calls_of(told) and said[-1] == "edge: done."


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
