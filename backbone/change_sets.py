"""One change to a stack, which CloudFormation looks at before it is made."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backbone import stacks, templates
from backbone.cloud import Cloud, DeployError
from machines.aws import AwsError

# Where what a change asks for comes from, for whoever reads of a refusal.
CHANGE_SETTING = "--name and --parameters"
_UNCHANGED = ("didn't contain changes", "No updates are to be performed")
_LOOKED_AT_WITHIN_S = 300.0


class ChangeSet:
    """What is proposed for one stack, and then made or forgotten."""

    def __init__(self, cloud: Cloud, installation: str, stack: str, *, poll_s: float) -> None:
        self.cloud = cloud
        self.installation = installation
        self.stack = stack
        self.poll_s = poll_s
        self._stack_name = stacks.name_of(installation, stack)
        name = f"portafilter-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        self._which = {"StackName": self._stack_name, "ChangeSetName": name}

    def propose(self, values: Mapping[str, str], kept: Sequence[str], *, is_new: bool) -> dict[str, Any] | None:
        """What CloudFormation would do, as it describes it; None: nothing. Raises DeployError, AwsError.

        The stack is told `values`; the parameters `kept` stay as they are.
        """
        told: list[dict[str, Any]] = [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
        told += [{"ParameterKey": key, "UsePreviousValue": True} for key in kept]
        is_taken = self._is_taken(
            lambda: self.cloud.aws.call(
                "cloudformation",
                "CreateChangeSet",
                about=f"the stack {self._stack_name}",
                setting=CHANGE_SETTING,
                **self._which,
                ChangeSetType="CREATE" if is_new else "UPDATE",
                TemplateBody=templates.read(self.stack).text,
                Parameters=told,
                Capabilities=["CAPABILITY_NAMED_IAM"],
                Tags=[{"Key": "portafilter:installation", "Value": self.installation}],
            )
        )
        if not is_taken:
            return None
        described = self._described()
        if described["Status"] != "FAILED":
            return described
        reason = str(described.get("StatusReason", ""))
        self.forget()
        if not is_new and any(words in reason for words in _UNCHANGED):
            return None
        raise DeployError(f"{self.stack}: CloudFormation does not take it: {reason}")

    def execute(self) -> None:
        """Has it made; its end is another matter. Raises AwsError."""
        about = f"the stack {self._stack_name}"
        self.cloud.aws.call("cloudformation", "ExecuteChangeSet", about=about, setting=CHANGE_SETTING, **self._which)

    def forget(self) -> None:
        """Takes the proposal back. Raises AwsError."""
        about = f"a change to {self._stack_name}"
        self.cloud.aws.call("cloudformation", "DeleteChangeSet", about=about, setting="--name", **self._which)

    def _is_taken(self, call: Callable[[], dict[str, Any]]) -> bool:
        """Whether there is something to change. What CloudFormation says is shown: templates have no secrets."""
        try:
            call()
            return True
        except AwsError as error:
            if any(words in error.said for words in _UNCHANGED):
                return False
            if error.code in {"ValidationError", "InsufficientCapabilitiesException"} and error.said:
                raise DeployError(f"{self.stack}: CloudFormation does not take it: {error.said}") from error
            raise

    def _described(self) -> dict[str, Any]:
        deadline = time.monotonic() + _LOOKED_AT_WITHIN_S
        about = f"a change to {self._stack_name}"
        while True:
            described = self.cloud.again(
                lambda: self.cloud.aws.call(
                    "cloudformation", "DescribeChangeSet", about=about, setting="--name", **self._which
                )
            )
            if described["Status"] in {"CREATE_COMPLETE", "FAILED"}:
                return described
            if time.monotonic() > deadline:
                raise DeployError(f"{self._stack_name}: CloudFormation has not looked at the change in five minutes.")
            self.cloud.sleep(min(2.0, self.poll_s))


def words_of(change: Mapping[str, Any]) -> str:
    """What a change does to one resource."""
    again = ", which makes it anew" if change.get("Replacement") == "True" else ""
    again = ", which may make it anew" if change.get("Replacement") == "Conditional" else again
    return f"{str(change['Action']).lower()} {change['LogicalResourceId']} ({change['ResourceType']}){again}"
