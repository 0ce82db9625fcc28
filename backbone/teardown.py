"""Takes an installation down, and says what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backbone import stacks
from backbone.deploy import Deployment, outputs_of
from machines.aws import AwsError, Kind

KEPT_WORDS = (
    "Kept: the database's last snapshot, the bucket for recordings, the key, and the secret with CREDENTIAL_KEYS. They "
    "cost a little each month. The snapshot can be read with that key alone, and the VPN's authority in it with that "
    "secret alone; delete them by hand when nobody needs them any more."
)
KEPT_DATA_WORDS = (
    "Kept: the stacks network and data with the database, the bucket and the secrets. `deploy` brings all back on "
    "them; `destroy --data` takes them, too."
)


def destroy(deployment: Deployment, *, data: bool) -> None:
    """Deletes the stacks, the last first. Raises DeployError, AwsError."""
    for stack in reversed(stacks.STACKS):
        if stack in {"network", "data"} and not data:
            continue
        there = deployment.describe(stack)
        if there is None:
            continue
        deployment.say(f"{stack}: deleting it.")
        if stack == "gateways":
            # The template's name for it: a stack that never came to be has no outputs, and its cluster perhaps tasks.
            _empty(deployment, outputs_of(there).get("ClusterName", deployment.installation))
        if stack in stacks.KEPT:
            _unprotect(deployment, outputs_of(there).get("DatabaseIdentifier", deployment.installation))
        if stack == "network" and (vpc := outputs_of(there).get("VpcId")):
            _remove_accelerators_group(deployment, vpc)
        deployment.delete(stack)
    deployment.say(KEPT_WORDS if data else KEPT_DATA_WORDS)


def _empty(deployment: Deployment, cluster: str) -> None:
    """Stops what runs on the gateways' computers and lets go of these, or their group is never empty."""
    aws = deployment.cloud.aws
    try:
        _stop_tasks(deployment, cluster)
    except AwsError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise
    group = f"{deployment.installation}-gateway"
    answer = deployment.cloud.again(
        lambda: aws.call(
            "autoscaling", "DescribeAutoScalingGroups", about=group, setting="--name", AutoScalingGroupNames=[group]
        )
    )
    instances: list[Mapping[str, Any]] = [one for found in answer["AutoScalingGroups"] for one in found["Instances"]]
    if instances:
        aws.call(
            "autoscaling",
            "SetInstanceProtection",
            about=group,
            setting="--name",
            AutoScalingGroupName=group,
            InstanceIds=[one["InstanceId"] for one in instances],
            ProtectedFromScaleIn=False,
        )


def _stop_tasks(deployment: Deployment, cluster: str) -> None:
    aws, about = deployment.cloud.aws, f"the cluster {cluster}"
    more: dict[str, str] = {}
    while True:
        # A hundred a page.
        page = deployment.cloud.again(
            lambda more=more: aws.call(  # type: ignore[misc]
                "ecs", "ListTasks", about=about, setting="--name", cluster=cluster, **more
            )
        )
        for arn in page["taskArns"]:
            try:
                aws.call("ecs", "StopTask", about=about, setting="--name", cluster=cluster, task=arn, reason="destroy")
            except AwsError as error:
                if error.kind is not Kind.NOT_FOUND:  # it may have ended since
                    raise
        if not page.get("nextToken"):
            return
        more = {"nextToken": page["nextToken"]}


def _unprotect(deployment: Deployment, database: str) -> None:
    """What keeps anybody from deleting the database by mistake is lifted; a snapshot is made all the same."""
    aws = deployment.cloud.aws
    stack = stacks.name_of(deployment.installation, "data")
    aws.call(
        "cloudformation",
        "UpdateTerminationProtection",
        about=f"the stack {stack}",
        setting="--name",
        StackName=stack,
        EnableTerminationProtection=False,
    )
    try:
        aws.call(
            "rds",
            "ModifyDBInstance",
            about=f"the database {database}",
            setting="--name",
            DBInstanceIdentifier=database,
            DeletionProtection=False,
            ApplyImmediately=True,
        )
    except AwsError as error:
        if error.kind is not Kind.NOT_FOUND:
            raise


def _remove_accelerators_group(deployment: Deployment, vpc: str) -> None:
    """Global Accelerator makes a security group in the network, leaves it there, and no network goes with one in it."""
    aws, about = deployment.cloud.aws, "the security group GlobalAccelerator"
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": ["GlobalAccelerator"]}]
    answer = deployment.cloud.again(
        lambda: aws.call("ec2", "DescribeSecurityGroups", about=about, setting="--name", Filters=wanted)
    )
    for group in answer["SecurityGroups"]:
        try:
            aws.call("ec2", "DeleteSecurityGroup", about=about, setting="--name", GroupId=group["GroupId"])
        except AwsError as error:
            # Its network interfaces go some minutes after the accelerator.
            if error.kind is not Kind.NOT_FOUND:
                deployment.say(f"network: {error} Without that the network does not go; try again in some minutes.")
