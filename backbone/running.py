"""How an installation's stacks and services stand, and starting services anew so that they read their secrets again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbone import stacks
from backbone.cloud import Cloud
from backbone.deploy import Deployment, outputs_of


def status(deployment: Deployment) -> list[str]:
    """One line a stack, then one a service. Raises AwsError."""
    lines, cluster = [], ""
    for stack in stacks.STACKS:
        there = deployment.describe(stack)
        changed = (there or {}).get("LastUpdatedTime") or (there or {}).get("CreationTime")
        words = f"{there['StackStatus']}, {changed:%Y-%m-%d %H:%M} UTC" if there and changed else "not there"
        lines.append(f"{stack:12} {words}")
        cluster = outputs_of(there).get("ClusterName", cluster)
    for service in _services(deployment.cloud, cluster) if cluster else []:
        runs, wanted = service["runningCount"], service["desiredCount"]
        lines.append(f"{service['serviceName']}: {runs} of {wanted} run")
    return lines


def restart(deployment: Deployment) -> list[str]:
    """Has every service that reads a secret start its tasks anew; their names. Raises AwsError.

    OpenVPN reads none, and its start would take every machine out of the VPN for some seconds.
    """
    cluster = outputs_of(deployment.describe("gateways")).get("ClusterName", "")
    there = _services(deployment.cloud, cluster) if cluster else []
    found = [service for service in there if _reads_secrets(deployment.cloud, service)]
    for service in found:
        deployment.cloud.aws.call(
            "ecs", "UpdateService", about=f"the cluster {cluster}", setting="--name",
            cluster=cluster, service=service["serviceArn"], forceNewDeployment=True,
        )  # fmt: skip
    return [str(service["serviceName"]) for service in found]


def _reads_secrets(cloud: Cloud, service: Mapping[str, Any]) -> bool:
    name = service["taskDefinition"]
    task = cloud.again(
        lambda: cloud.aws.call(
            "ecs", "DescribeTaskDefinition", about=f"the service {service['serviceName']}", setting="--name",
            taskDefinition=name,
        )
    )["taskDefinition"]  # fmt: skip
    return any(container.get("secrets") for container in task["containerDefinitions"])


def _services(cloud: Cloud, cluster: str) -> list[dict[str, Any]]:
    about = f"the cluster {cluster}"
    arns = cloud.again(
        lambda: cloud.aws.call(
            "ecs", "ListServices", about=about, setting="--name", cluster=cluster, maxResults=100
        )
    )["serviceArns"]  # fmt: skip
    found: list[dict[str, Any]] = []
    # ECS describes ten at a time.
    for start in range(0, len(arns), 10):
        page = arns[start : start + 10]
        found += cloud.again(
            lambda page=page: cloud.aws.call(  # type: ignore[misc]
                "ecs", "DescribeServices", about=about, setting="--name", cluster=cluster, services=page
            )
        )["services"]  # fmt: skip
    return found
