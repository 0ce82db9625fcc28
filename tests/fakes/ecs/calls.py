"""What ECS does when it is called, with the rules that its model does not have: each from AWS' documentation."""

from __future__ import annotations

import base64
import copy
import json
import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.fakes.ecs.plans import Life
from tests.fakes.ecs.tasks import Engine, Task
from tests.fakes.ecs.wire import AwsFault

ACCOUNT = "123456789012"
CLUSTER = "portafilter"
FAMILY = "portafilter-gateway"
REVISIONS = (1, 2, 3)
CAPACITY_PROVIDER = "portafilter-gateways"
SUBNETS = ("subnet-0a1b2c3d4e5f60001", "subnet-0a1b2c3d4e5f60002")
SECURITY_GROUPS = ("sg-0a1b2c3d4e5f60001",)

_CLIENT_TOKEN = re.compile(r"[\x21-\x7e]{1,64}")
_STARTED_BY = re.compile(r"[A-Za-z0-9_/-]{1,128}")
_TAG = re.compile(r"[\w\s.:/=+\-@]*")
_TASK_ID = re.compile(r"[0-9a-f]{32}")


class Calls:
    """One cluster in one region; `life_of` says what becomes of the task that a `startedBy` starts."""

    def __init__(
        self, engine: Engine, *, region: str, life_of: Callable[[str], Life], containers: tuple[str, ...] = ("guacd",)
    ) -> None:
        self.engine, self.region, self.life_of, self.containers = engine, region, life_of, containers
        self.lag_s = 0.0
        self.page_size = 100
        self._tokens: dict[str, tuple[dict[str, Any], str]] = {}
        self.cluster_arn = f"arn:aws:ecs:{region}:{ACCOUNT}:cluster/{CLUSTER}"

    # --- tasks -------------------------------------------------------------------------------------------------------

    def run_task(self, arguments: dict[str, Any], *, has_capacity: bool = True) -> dict[str, Any]:
        self._check_cluster(arguments)
        revision = _check_task_definition(arguments["taskDefinition"])
        self._check_run(arguments)
        token = arguments.get("clientToken") or secrets.token_hex(16)
        with self.engine.lock:
            if token in self._tokens:
                return self._run_again(token, arguments)
            strategy = arguments.get("capacityProviderStrategy")
            # A capacity provider fetches another computer, and the task waits; without one nothing waits.
            if not has_capacity or not (strategy or self.engine.has_room()):
                instance = f"{self.cluster_arn.replace(':cluster/', ':container-instance/')}/{'c1' * 16}"
                return {"tasks": [], "failures": [{"arn": instance, "reason": "RESOURCE:ENI"}]}
            task = self._new_task(arguments, revision)
            self._tokens[token] = (_without_token(arguments), task.arn)
            self.engine.add(task, waits_for_room=bool(strategy))
            return {"tasks": [task.shape | {"tags": task.tags}], "failures": []}

    def _run_again(self, token: str, arguments: dict[str, Any]) -> dict[str, Any]:
        before, arn = self._tokens[token]
        if before != _without_token(arguments):
            raise AwsFault(
                "ConflictException",
                "The RunTask request could not be processed due to conflicts: the client token was used for another.",
                resourceIds=[arn],
            )
        task = self.engine.tasks[arn]
        return {"tasks": [task.shape | {"tags": task.tags}], "failures": []}

    def forget_tokens(self) -> None:
        self._tokens.clear()

    def describe_tasks(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check_cluster(arguments)
        wanted = arguments["tasks"]
        if not wanted:
            raise AwsFault("InvalidParameterException", "Tasks cannot be empty.")
        if len(wanted) > 100:
            raise AwsFault("InvalidParameterException", "Tasks cannot have more than 100 elements.")
        tasks, failures = [], []
        for name in wanted:
            arn = self._task_arn(name)
            with self.engine.lock:
                task = self.engine.tasks.get(arn)
                shape = task and task.as_of(self._shown_at(task))
                if not task or not shape:
                    failures.append({"arn": arn, "reason": "MISSING"})
                    continue
                tags = {"tags": task.tags} if "TAGS" in arguments.get("include", ()) else {}
                tasks.append(copy.deepcopy(shape) | tags)
        return {"tasks": tasks, "failures": failures}

    def list_tasks(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check_cluster(arguments)
        others = {"family", "serviceName", "containerInstance", "launchType"} & set(arguments)
        if "startedBy" in arguments and others:
            raise AwsFault(
                "InvalidParameterException",
                f"startedBy must be the only filter that you use; found {', '.join(sorted(others))}",
            )
        most = arguments.get("maxResults", 100)
        if not 1 <= most <= 100:
            raise AwsFault("InvalidParameterException", "maxResults: expected 1 to 100")
        begin = _read_page(arguments.get("nextToken"))
        desired = arguments.get("desiredStatus", "RUNNING")
        found = []
        with self.engine.lock:
            for task in self.engine.tasks.values():
                shape = task.as_of(self._shown_at(task))
                if shape is None or shape["desiredStatus"] != desired:
                    continue
                if "family" in arguments and shape["group"] != f"family:{arguments['family']}":
                    continue
                if arguments.get("startedBy", shape.get("startedBy")) != shape.get("startedBy"):
                    continue
                if arguments.get("launchType", shape["launchType"]) != shape["launchType"]:
                    continue
                if "serviceName" in arguments or "daemonName" in arguments:
                    continue
                found.append(task.arn)
        end = begin + min(most, self.page_size)
        token = base64.b64encode(json.dumps({"begin": end}).encode()).decode()
        return {"taskArns": found[begin:end]} | ({"nextToken": token} if end < len(found) else {})

    def stop_task(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check_cluster(arguments)
        if len(arguments.get("reason", "")) > 255:
            raise AwsFault("InvalidParameterException", "reason: expected at most 255 characters")
        arn = self._task_arn(arguments["task"])
        with self.engine.lock:
            task = self.engine.tasks.get(arn)
            if task is None:
                raise AwsFault("InvalidParameterException", "The referenced task was not found.")
            if task.stops_refused:
                task.stops_refused -= 1
                raise AwsFault("ServerException", "Service Unavailable. Please try again later.", status=500)
            self.engine.stop(task, code="UserInitiated", reason=arguments.get("reason", "Task stopped by user"))
            return {"task": copy.deepcopy(task.shape)}

    # --- what there is -----------------------------------------------------------------------------------------------

    def describe_clusters(self, arguments: dict[str, Any]) -> dict[str, Any]:
        clusters, failures = [], []
        for name in arguments.get("clusters") or ["default"]:
            if self._is_ours(name):
                with self.engine.lock:
                    running = sum(task.status == "RUNNING" for task in self.engine.tasks.values())
                counts = {"registeredContainerInstancesCount": 1, "runningTasksCount": running}
                known = {"clusterArn": self.cluster_arn, "clusterName": CLUSTER, "status": "ACTIVE"}
                clusters.append({**known, **counts, "capacityProviders": [CAPACITY_PROVIDER]})
            else:
                arn = f"arn:aws:ecs:{self.region}:{ACCOUNT}:cluster/{name.rpartition('/')[2]}"
                failures.append({"arn": arn, "reason": "MISSING"})
        return {"clusters": clusters, "failures": failures}

    def describe_task_definition(self, arguments: dict[str, Any]) -> dict[str, Any]:
        revision = _check_task_definition(arguments["taskDefinition"], missing="Unable to describe task definition.")
        containers = [{"name": name, "essential": True} for name in self.containers]
        containers[0]["portMappings"] = [{"containerPort": 4822, "protocol": "tcp"}]
        definition = {
            "taskDefinitionArn": self._definition_arn(revision),
            "family": FAMILY,
            "revision": revision,
            "status": "ACTIVE",
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["EC2"],
            "containerDefinitions": containers,
        }
        return {"taskDefinition": definition}

    def describe_capacity_providers(self, arguments: dict[str, Any]) -> dict[str, Any]:
        names = arguments.get("capacityProviders") or [CAPACITY_PROVIDER]
        here = [name for name in names if name.rpartition("/")[2] == CAPACITY_PROVIDER]
        arn = f"arn:aws:ecs:{self.region}:{ACCOUNT}:capacity-provider/{CAPACITY_PROVIDER}"
        known = {"capacityProviderArn": arn, "name": CAPACITY_PROVIDER, "status": "ACTIVE"}
        missing = [{"arn": name, "reason": "MISSING"} for name in names if name not in here]
        return {"capacityProviders": [known for _ in here], "failures": missing}

    def list_container_instances(self, arguments: dict[str, Any]) -> dict[str, Any]:
        self._check_cluster(arguments)
        return {
            "containerInstanceArns": [f"{self.cluster_arn.replace(':cluster/', ':container-instance/')}/{'c1' * 16}"]
        }

    # --- rules -------------------------------------------------------------------------------------------------------

    def _check_run(self, arguments: dict[str, Any]) -> None:
        """Raises AwsFault, as AWS says it."""
        strategy = arguments.get("capacityProviderStrategy", [])
        _expect(
            not ("launchType" in arguments and strategy),
            "Specifying both a launch type and capacity provider strategy is not supported. Remove one and try again.",
        )
        for part in strategy:
            name = part["capacityProvider"]
            _expect(name == CAPACITY_PROVIDER, f"The specified capacity provider '{name}' was not found.")
        # The task definition is for EC2 alone: it wants NET_ADMIN and a device.
        _expect(
            arguments.get("launchType", "EC2") == "EC2",
            "Task definition does not support launch_type FARGATE.",
        )
        _expect(1 <= arguments.get("count", 1) <= 10, "count: expected 1 to 10")
        _expect(
            _CLIENT_TOKEN.fullmatch(arguments.get("clientToken", "x")) is not None,
            "clientToken: expected at most 64 ASCII characters of 33 to 126",
        )
        _expect(
            _STARTED_BY.fullmatch(arguments.get("startedBy", "x")) is not None,
            "startedBy: expected at most 128 letters, digits, hyphens, slashes and underscores",
        )
        _expect(arguments.get("propagateTags") != "SERVICE", "propagateTags: SERVICE is not for RunTask")
        _check_network(arguments.get("networkConfiguration", {}).get("awsvpcConfiguration"))
        _check_tags(arguments.get("tags", []))
        for override in arguments.get("overrides", {}).get("containerOverrides", []):
            _expect(
                override.get("name") in self.containers,
                f"Override for container named {override.get('name')} is not valid",
            )

    def _new_task(self, arguments: dict[str, Any], revision: int) -> Task:
        life = self.life_of(arguments.get("startedBy", ""))
        name = secrets.token_hex(16)
        arn = f"arn:aws:ecs:{self.region}:{ACCOUNT}:task/{CLUSTER}/{name}"
        subnet = secrets.choice(arguments["networkConfiguration"]["awsvpcConfiguration"]["subnets"])
        interface = {
            "id": secrets.token_hex(16),
            "type": "ElasticNetworkInterface",
            "status": "PRECREATED",
            "details": [{"name": "subnetId", "value": subnet}],
        }
        containers = [
            {
                "containerArn": f"{arn.replace(':task/', ':container/')}/{secrets.token_hex(16)}",
                "taskArn": arn,
                "name": container,
                "lastStatus": "PENDING",
                "healthStatus": "UNKNOWN",
                "networkInterfaces": [],
            }
            for container in self.containers
        ]
        shape: dict[str, Any] = {
            "taskArn": arn,
            "clusterArn": self.cluster_arn,
            "taskDefinitionArn": self._definition_arn(revision),
            "lastStatus": "PROVISIONING",
            "desiredStatus": "RUNNING",
            "group": arguments.get("group", f"family:{FAMILY}"),
            "launchType": "EC2",
            "cpu": "256",
            "memory": "512",
            "createdAt": datetime.now(UTC),
            "attachments": [interface],
            "containers": containers,
            "overrides": arguments.get("overrides", {}),
            "healthStatus": "UNKNOWN",
            "version": 0,
        }
        if "startedBy" in arguments:
            shape["startedBy"] = arguments["startedBy"]
        if arguments.get("capacityProviderStrategy"):
            shape["capacityProviderName"] = CAPACITY_PROVIDER
        return Task(shape=shape, life=life, tags=arguments.get("tags", []))

    def _shown_at(self, task: Task) -> float:
        """DescribeTasks and ListTasks show what was true then."""
        return time.monotonic() - (self.lag_s if task.life.lag_s is None else task.life.lag_s)

    def _definition_arn(self, revision: int) -> str:
        return f"arn:aws:ecs:{self.region}:{ACCOUNT}:task-definition/{FAMILY}:{revision}"

    def _check_cluster(self, arguments: dict[str, Any]) -> None:
        if not self._is_ours(arguments.get("cluster", "default")):
            raise AwsFault("ClusterNotFoundException", "Cluster not found.")

    def _is_ours(self, name: str) -> bool:
        return name in (CLUSTER, self.cluster_arn)

    def _task_arn(self, name: str) -> str:
        """A task by its id or its whole name, as AWS takes both."""
        prefix, _, identity = name.rpartition("/")
        whole = f"arn:aws:ecs:{self.region}:{ACCOUNT}:task/{CLUSTER}"
        if prefix.startswith("arn:") and prefix != whole:
            raise AwsFault(
                "InvalidParameterException",
                f"Invalid identifier: Identifier is for {prefix.rpartition('/')[2]}. Your cluster is {CLUSTER}",
            )
        if prefix not in ("", whole) or not _TASK_ID.fullmatch(identity):
            raise AwsFault("InvalidParameterException", "taskId length should be one of [32,36]")
        return f"{whole}/{identity}"


def _check_task_definition(name: str, *, missing: str = "TaskDefinition not found.") -> int:
    family, _, revision = name.rpartition("/")[2].partition(":")
    if family != FAMILY or (revision and revision not in [str(one) for one in REVISIONS]):
        raise AwsFault("ClientException", missing)
    return int(revision or REVISIONS[-1])


def _check_network(network: dict[str, Any] | None) -> None:
    if network is None:
        raise AwsFault(
            "InvalidParameterException",
            "Network Configuration must be provided when networkMode 'awsvpc' is specified.",
        )
    _expect(1 <= len(network["subnets"]) <= 16, "subnets should have at most 16 and at least 1")
    _expect(len(network.get("securityGroups", [])) <= 5, "securityGroups can have at most 5 items")
    for subnet in network["subnets"]:
        _expect(
            subnet in SUBNETS,
            f"Error retrieving subnet information for [{subnet}]: The subnet ID '{subnet}' does not exist "
            "(ErrorCode: InvalidSubnetID.NotFound)",
        )
    for group in network.get("securityGroups", []):
        _expect(
            group in SECURITY_GROUPS,
            f"Error retrieving security group information for [{group}]: The security group '{group}' does not exist "
            "(ErrorCode: InvalidGroup.NotFound)",
        )
    _expect(network.get("assignPublicIp") != "ENABLED", "Assign public IP is not supported for this launch type.")


def _check_tags(tags: list[dict[str, str]]) -> None:
    keys = [tag.get("key", "") for tag in tags]
    _expect(len(keys) == len(set(keys)), "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
    for tag in tags:
        key, value = tag.get("key", ""), tag.get("value", "")
        right = 1 <= len(key) <= 128 and len(value) <= 256 and _TAG.fullmatch(key) and _TAG.fullmatch(value)
        _expect(bool(right) and not key.lower().startswith("aws:"), f"Some tags contain invalid characters: {key!r}")


def _read_page(token: str | None) -> int:
    if token is None:
        return 0
    try:
        return int(json.loads(base64.b64decode(token, validate=True))["begin"])
    except (ValueError, KeyError, TypeError):
        raise AwsFault("InvalidParameterException", "Invalid token") from None


def _without_token(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name != "clientToken"}


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AwsFault("InvalidParameterException", otherwise)
