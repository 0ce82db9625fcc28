"""Commands inside an installation: what ECS is told, what is shown of the log, and what a failure says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backbone import app_secrets, commands, migration, one_off
from backbone.cloud import Cloud
from backbone.deploy import Deployment
from machines.aws import AwsError, Kind

SERVICE = {
    "taskDefinition": "arn:aws:ecs:eu-west-1:1:task-definition/portafilter-worker:7",
    "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1", "subnet-2"], "securityGroups": ["sg-1"]}},
}
ARN = "arn:aws:ecs:eu-west-1:1:task/portafilter/abc"
MIGRATE = "arn:aws:ecs:eu-west-1:1:task-definition/portafilter-migrate"
MIGRATES = {
    "MigrateCluster": "portafilter", "MigrateTaskDefinitionArn": f"{MIGRATE}:8", "MigrateSubnets": "subnet-1",
    "MigrateSecurityGroup": "sg-1", "MigrateLogGroup": "/migrate",
}  # fmt: skip


class Amazon:
    """AWS as far as a command goes: a task that says two lines, the second after its end."""

    def __init__(self, *, code: int | None = 0, failures: tuple[str, ...] = ()) -> None:
        self.code, self.failures = code, failures
        self.orders: list[dict[str, Any]] = []
        self.looks = 0
        self.running: dict[str, str] = {}  # what runs already: a task's ARN and its definition's
        self.lost = 0  # so many RunTasks are done, and their answers lost
        self.lines = ["first line", "last line"]
        self.secret = json.dumps({"CREDENTIAL_KEYS": "old", "SECRET_KEY": "kept"})

    def call(self, service: str, name: str, /, **arguments: Any) -> dict[str, Any]:
        if name == "GetSecretValue":
            return {"SecretString": self.secret}
        if name == "PutSecretValue":
            self.secret = arguments["SecretString"]
            return {}
        if name == "DescribeServices":
            return {"services": [SERVICE]}
        if name == "ListTasks":
            return {"taskArns": [arn for arn, one in self.running.items() if f"/{arguments['family']}:" in one]}
        if name == "RunTask":
            self.orders.append(arguments)
            if self.lost >= len(self.orders):
                raise AwsError("ECS did not answer.", kind=Kind.TIMEOUT, may_have_happened=True)
            tasks = [] if self.failures else [{"taskArn": ARN}]
            return {"tasks": tasks, "failures": [{"reason": one} for one in self.failures]}
        if name == "DescribeTasks":
            self.looks += 1
            is_over = self.looks > 2
            container = {"name": "worker", **({"exitCode": self.code} if self.code is not None else {})}
            reason = {"stoppedReason": "CannotPullContainerError"} if self.code is None else {}
            status = "STOPPED" if is_over else "RUNNING"
            [arn] = arguments["tasks"]
            definition = self.running.pop(arn, "") if is_over else self.running.get(arn, "")
            task = {"taskArn": arn, "taskDefinitionArn": definition, "lastStatus": status}
            return {"tasks": [{**task, "containers": [container], **reason}]}
        assert name == "GetLogEvents"
        if self.looks < 2:
            raise AwsError("There is no log yet.", kind=Kind.NOT_FOUND)
        at = int(arguments.get("nextToken", "0"))
        said = self.lines[at : (1 if self.looks == 2 else 2)]
        return {"events": [{"message": line} for line in said], "nextForwardToken": str(at + len(said))}


@pytest.fixture
def shown() -> list[str]:
    return []


def deployment(amazon: Amazon, shown: list[str], monkeypatch: pytest.MonkeyPatch) -> Deployment:
    cloud = Cloud("eu-west-1", sleep=lambda seconds: None)
    monkeypatch.setattr(cloud, "aws", amazon)
    made = Deployment(cloud, "portafilter", shown.append)
    outputs = {"ClusterName": "portafilter", "WorkerServiceName": "portafilter-worker", "AppLogGroup": "/app"}
    monkeypatch.setattr(made, "outputs", lambda: outputs)
    return made


def test_command_runs_as_the_worker_and_each_line_is_shown_once(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon(code=3)
    assert commands.run(deployment(amazon, shown, monkeypatch), ["doctor"], shown.append, poll_s=0) == 3
    assert shown == ["first line", "last line"]
    [order] = amazon.orders
    assert order["taskDefinition"] == SERVICE["taskDefinition"]
    assert order["overrides"] == {"containerOverrides": [{"name": "worker", "command": ["doctor"]}]}
    assert order["networkConfiguration"]["awsvpcConfiguration"]["subnets"] == ["subnet-1", "subnet-2"]


def test_task_that_does_not_start_or_run_says_why(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    without_room = deployment(Amazon(failures=("RESOURCE:CPU",)), shown, monkeypatch)
    with pytest.raises(one_off.TaskError, match="RESOURCE:CPU"):
        commands.run(without_room, ["doctor"], shown.append, poll_s=0)
    without_image = deployment(Amazon(code=None), shown, monkeypatch)
    with pytest.raises(commands.CommandError, match="CannotPullContainerError"):
        commands.run(without_image, ["doctor"], shown.append, poll_s=0)


def test_task_whose_start_s_answer_was_lost_is_started_once(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    amazon = Amazon()
    amazon.lost = 2
    assert commands.run(deployment(amazon, shown, monkeypatch), ["doctor"], shown.append, poll_s=0) == 0
    tokens = [order["clientToken"] for order in amazon.orders]
    assert len(tokens) == 3 and len(set(tokens)) == 1
    commands.run(deployment(amazon, shown, monkeypatch), ["doctor"], shown.append, poll_s=0)
    assert amazon.orders[-1]["clientToken"] not in tokens


def test_migration_that_still_runs_is_followed_and_no_second_one_begun_beside_it(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon()
    cloud = deployment(amazon, shown, monkeypatch).cloud
    amazon.running = {ARN: f"{MIGRATE}:8"}
    migration.run(cloud, MIGRATES, shown.append, poll_s=0)
    assert amazon.orders == [] and shown[-1] == "migrate: the database is up to date."
    assert "migrate: first line" in shown
    # One of another image is waited for, and does not do for this one.
    amazon.running, amazon.looks = {ARN: f"{MIGRATE}:7"}, 0
    migration.run(cloud, MIGRATES, shown.append, poll_s=0)
    assert [order["taskDefinition"] for order in amazon.orders] == [f"{MIGRATE}:8"] and amazon.running == {}


def test_command_is_not_taken_for_another_that_runs(shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    amazon = Amazon()
    amazon.running = {ARN: str(SERVICE["taskDefinition"])}
    commands.run(deployment(amazon, shown, monkeypatch), ["doctor"], shown.append, poll_s=0)
    assert len(amazon.orders) == 1


def test_administrator_s_password_is_returned_and_only_its_hash_leaves(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon()
    password = commands.make_administrator(deployment(amazon, shown, monkeypatch), "alice", shown.append, poll_s=0)
    assert len(password) >= 24 and password not in json.dumps(amazon.orders) and password not in str(shown)
    assert amazon.orders[0]["overrides"]["containerOverrides"][0]["command"][:3] == [
        "make_administrator", "alice", "--password-hash",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "alice bob", "--help me", "a" * 151, "é"])
def test_name_that_cannot_be_one_is_refused_before_anything_runs(
    name: str, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon()
    with pytest.raises(commands.CommandError, match="expected a user name"):
        commands.make_administrator(deployment(amazon, shown, monkeypatch), name, shown.append, poll_s=0)
    assert amazon.orders == []


def test_credential_keys_turn_step_by_step_and_no_key_is_used_before_all_can_read_it(
    shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    amazon = Amazon()
    cloud = deployment(amazon, shown, monkeypatch).cloud

    def keys() -> list[str]:
        found: str = json.loads(amazon.secret)["CREDENTIAL_KEYS"]
        return found.split(",")

    with pytest.raises(app_secrets.SecretError, match="begin with"):
        app_secrets.turn_credential_keys(cloud, "arn", "use-new")
    app_secrets.turn_credential_keys(cloud, "arn", "new")
    assert keys()[0] == "old" and len(keys()) == 2
    with pytest.raises(app_secrets.SecretError, match="finish with"):
        app_secrets.turn_credential_keys(cloud, "arn", "new")
    new = keys()[1]
    app_secrets.turn_credential_keys(cloud, "arn", "use-new")
    assert keys() == [new, "old"]
    app_secrets.turn_credential_keys(cloud, "arn", "drop-old")
    assert keys() == [new] and json.loads(amazon.secret)["SECRET_KEY"] == "kept"
