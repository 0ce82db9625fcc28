"""What a change to endpoint groups would turn back unasked.

CloudFormation sends a group's dial and its endpoints' weights with every change of the group, 100 for a dial that the
template does not give (UpdateHandler.kt of aws-cloudformation-resource-providers-globalaccelerator): one that somebody
turned in the admin would be turned back without a wish, and without a line in the security record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from backbone import words
from backbone.accelerator import GlobalAccelerator, NotAsExpected

_TYPE = "AWS::GlobalAccelerator::EndpointGroup"
# What a change leaves: CloudFormation's own for the dial, the template's for each weight.
_DIAL, _WEIGHT = 100, 128


def turned(changes: Iterable[Mapping[str, Any]], accelerators: GlobalAccelerator) -> list[str]:
    """What stands elsewhere now than it would after a change set's `changes`, in words. Raises AwsError.

    What is turned between this look and the change is not seen.
    """
    found = []
    for change in (one["ResourceChange"] for one in changes):
        arn = change.get("PhysicalResourceId")
        if (change.get("ResourceType"), change.get("Action")) == (_TYPE, "Modify") and arn:
            found += [f"{change['LogicalResourceId']}: {said}" for said in _of_group(str(arn), accelerators)]
    return found


def _of_group(arn: str, accelerators: GlobalAccelerator) -> Iterator[str]:
    try:
        group = accelerators.group(arn)
    except NotAsExpected:  # deleted by hand: there is nothing to turn back
        return
    if group.dial != _DIAL:
        yield f"the dial of {group.region} is at {words.shown(group.dial)}"
    for endpoint in group.endpoints:
        if endpoint.weight != _WEIGHT:
            yield f"the weight of {words.endpoint_name(endpoint.id)} in {group.region} is {endpoint.weight}"
