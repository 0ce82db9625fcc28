"""Makes and changes the stacks of an installation one after the other, by change sets, and says what happens.

Everything may be done again at any time: a stack that is as it should be is left alone, one that somebody else changes
at the moment is waited for, and what a stop in the middle left is taken up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from backbone import app_secrets, dials, migration, reaching, stacks, templates
from backbone.change_sets import CHANGE_SETTING, ChangeSet, words_of
from backbone.cloud import Cloud, DeployError
from backbone.parameters import Parameters
from machines.aws import AwsError

# CloudFormation takes no change to it; but for the last, nothing of it was ever whole.
_NEVER_MADE = {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "DELETE_FAILED"}
_CANCELLED = "cancelled"
# The database and a certificate's proof by DNS take a quarter of an hour.
_PATIENCE_S = 3600.0

Say = Callable[[str], None]


class Deployment:
    """One installation's stacks in one region.

    `may_turn_dials_back`: a change may undo what somebody turned at an accelerator; else it is not made.
    """

    def __init__(
        self, cloud: Cloud, installation: str, say: Say, *, poll_s: float = 5.0, may_turn_dials_back: bool = False
    ) -> None:
        self.cloud = cloud
        self.installation = installation
        self.say = say
        self.poll_s = poll_s
        self.may_turn_dials_back = may_turn_dials_back

    # --- looking ------------------------------------------------------------------------------------------------------

    def describe(self, stack: str) -> dict[str, Any] | None:
        """The stack as CloudFormation describes it; None when there is none. Raises AwsError."""
        name = stacks.name_of(self.installation, stack)
        try:
            answer = self.cloud.again(
                lambda: self.cloud.aws.call(
                    "cloudformation", "DescribeStacks", about=f"the stack {name}", setting="--name", StackName=name
                )
            )
        except AwsError as error:
            if error.code == "ValidationError" and "does not exist" in error.said:
                return None
            raise
        found: dict[str, Any] = answer["Stacks"][0]
        return None if found["StackStatus"] in {"REVIEW_IN_PROGRESS", "DELETE_COMPLETE"} else found

    def outputs(self) -> dict[str, str]:
        """The outputs of all stacks that are there, by name."""
        found: dict[str, str] = {}
        for stack in stacks.STACKS:
            found |= outputs_of(self.describe(stack))
        return found

    # --- making -------------------------------------------------------------------------------------------------------

    def run(self, steps: Sequence[stacks.Step], parameters: Parameters, *, dry: bool = False) -> None:
        """Makes or changes the stacks of these steps in order. Raises DeployError, AwsError at the first that fails."""
        outputs: dict[str, str] = {}
        changed = {step.stack for step in steps}
        for step in stacks.STEPS:
            values = parameters.values(step, outputs)
            if step in steps:
                if step.before == "portal" and not dry:
                    self._see_portal(values, outputs, has_zone="HostedZoneId" in parameters.given_for("edge"))
                self._bring(step, values, dry)
            there = self.describe(step.stack)
            if step not in steps and not dry and step.stack not in changed:
                self._tell_of_old(step.stack, there, values, outputs)
            outputs |= outputs_of(there)
            if step in steps and not dry:
                self._after(step, outputs)

    def _tell_of_old(
        self, stack: str, there: Mapping[str, Any] | None, values: Mapping[str, str], outputs: Mapping[str, str]
    ) -> None:
        """Says what a stack that was left out still takes for an earlier one's output, as the VPN's address."""
        told = parameters_of(there)
        old = [name for name, value in values.items() if outputs.get(name) == value != told.get(name, value)]
        if old:
            self.say(f"{stack}: it goes by another {', '.join(old)} than there is now. Deploy it, too.")

    def _see_portal(self, values: Mapping[str, str], outputs: Mapping[str, str], *, has_zone: bool) -> None:
        """Raises DeployError where SNS is to subscribe the portal for the first time, and it does not answer."""
        origin = values.get("PortalOrigin", "")
        if not origin or parameters_of(self.describe("notify")).get("PortalOrigin") == origin:
            return
        why = reaching.wait(origin, self.cloud.sleep)
        if why:
            records = (
                f"Make these records: {outputs.get('PortalHostName')} to {outputs.get('PortalTarget')}, "
                f"{outputs.get('VpnHostName')} to {outputs.get('AcceleratorDnsName')}. This computer may take "
                "the names for missing a while longer."
            )
            raise DeployError(
                f"notify: {origin}/healthz does not answer ({why}), and SNS subscribes only what it reaches. "
                f"{'Look at what `status` says of the portal.' if has_zone else records} When the portal answers, the "
                "same command goes on from here."
            )

    def _after(self, step: stacks.Step, outputs: Mapping[str, str]) -> None:
        if step.after == "secrets":
            made = app_secrets.make_missing(self.cloud, outputs["AppSecretArn"])
            self.say(f"{step.stack}: made {', '.join(made)}." if made else f"{step.stack}: the secrets are there.")
        elif step.after == "migrate":
            migration.run(self.cloud, outputs, self.say, poll_s=self.poll_s)

    def _bring(self, step: stacks.Step, values: dict[str, str], dry: bool) -> None:
        stack, declared = step.stack, templates.read(step.stack).parameters
        there = self.describe(stack)
        if there and there["StackStatus"].endswith("_IN_PROGRESS"):
            self.say(f"{stack}: somebody changes it ({there['StackStatus']}); waiting.")
            there = self._wait(stack, None)
        if there and there["StackStatus"] == "DELETE_FAILED" and stack in stacks.KEPT:
            raise DeployError(self._half_deleted(stack))
        if there and there["StackStatus"] in _NEVER_MADE:
            there = self._clear_away(stack, there, dry)
        if there and there["StackStatus"] == "UPDATE_ROLLBACK_FAILED":
            raise DeployError(
                f"{stack}: a change failed, and so did going back. In CloudFormation, choose Continue update rollback "
                f"for {stacks.name_of(self.installation, stack)}; what it says there is to be put right first."
            )
        if "CloudFrontNetworks" in declared and "CloudFrontNetworks" not in values and (there or not dry):
            values |= self._cloudfront_networks(stack, values)
        unfilled = [name for name, one in declared.items() if "Default" not in one and name not in values]
        if unfilled:
            if dry:
                self.say(f"{stack}: would be made as soon as those before it are there ({', '.join(unfilled)}).")
                return
            raise DeployError(f"{stack}: nothing says {', '.join(unfilled)}. Deploy the stacks before it first.")
        if dry and not there:
            self.say(f"{stack}: would be made, {len(templates.read(stack).resources)} resources at most.")
            return
        self._change(step, there, values, dry)

    def _change(self, step: stacks.Step, there: dict[str, Any] | None, values: dict[str, str], dry: bool) -> None:
        stack, name = step.stack, stacks.name_of(self.installation, step.stack)
        kept = [key for key in step.withheld if key in parameters_of(there)]
        change_set = ChangeSet(self.cloud, self.installation, stack, poll_s=self.poll_s)
        described = change_set.propose(values, kept, is_new=there is None)
        if described is None:
            self.say(f"{stack}: unchanged.")
        elif dry:
            for change in described.get("Changes") or []:
                self.say(f"{stack}: would {words_of(change['ResourceChange'])}")
            for turned in self._turned(described):
                self.say(f"{stack}: would turn back: {turned}.")
            change_set.forget()
        else:
            self._keep_dials(change_set, stack, described)
            self.say(f"{stack}: {'changing' if there else 'making'} it.")
            there = self._make(change_set, stack)
            self.say(f"{stack}: done.")
        # Also where nothing changes: who looked at its making may have stopped before this.
        if stack in stacks.KEPT and there and not dry and not there.get("EnableTerminationProtection"):
            self.cloud.aws.call(
                "cloudformation",
                "UpdateTerminationProtection",
                about=f"the stack {name}",
                setting=CHANGE_SETTING,
                StackName=name,
                EnableTerminationProtection=True,
            )

    def _keep_dials(self, change_set: ChangeSet, stack: str, described: Mapping[str, Any]) -> None:
        """Raises DeployError where the change would turn dials or weights back and nobody said that it may."""
        if self.may_turn_dials_back:
            return
        turned = self._turned(described)
        if turned:
            change_set.forget()
            raise DeployError(
                f"{stack}: nothing was changed. {'; '.join(turned)}, and the change would turn that back (dials to "
                "100\N{NO-BREAK SPACE}%, weights to 128). Turn it back under Global Accelerator in the admin, deploy, "
                "and turn it again; or deploy with --turn-dials-back. The same command goes on from here."
            )

    def _turned(self, described: Mapping[str, Any]) -> list[str]:
        changes = described.get("Changes") or []
        return self.cloud.again(lambda: dials.turned(changes, self.cloud.accelerators))

    def _make(self, change_set: ChangeSet, stack: str) -> dict[str, Any] | None:
        """Has the change made and waits for its end: the stack then. Raises DeployError with the first reason."""
        name, since = stacks.name_of(self.installation, stack), datetime.now(UTC)
        change_set.execute()
        ended = self._wait(stack, since)
        status = ended["StackStatus"] if ended else "gone"
        if status not in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}:
            raise DeployError(
                f"{stack}: {status}. {self._first_reason(name, since)} CloudFormation has put back what was; "
                "when the cause is gone, the same command goes on from here."
            )
        return ended

    # --- waiting ------------------------------------------------------------------------------------------------------

    def _wait(self, stack: str, since: datetime | None, *, name: str = "") -> dict[str, Any] | None:
        """Waits for the end of what is under way, and says what happens since then. Raises DeployError after an hour.

        `name` is the stack's ARN, by which one that is being deleted is still found.
        """
        name = name or stacks.name_of(self.installation, stack)
        began, told = time.monotonic(), set[str]()
        while True:
            there = self.describe(stack)
            if since is not None and there is not None:
                for event in self._events(name, since):
                    if event["EventId"] not in told:
                        told.add(event["EventId"])
                        self._tell(stack, event)
            if there is None or not there["StackStatus"].endswith("_IN_PROGRESS"):
                return there
            if time.monotonic() - began > _PATIENCE_S:
                raise DeployError(f"{stack}: still {there['StackStatus']} after an hour. Look at it in CloudFormation.")
            self.cloud.sleep(self.poll_s)

    def _tell(self, stack: str, event: Mapping[str, Any]) -> None:
        status, resource = str(event.get("ResourceStatus", "")), str(event.get("LogicalResourceId", ""))
        if status.endswith(("_COMPLETE", "_FAILED")) and event.get("PhysicalResourceId") != event.get("StackId"):
            reason = str(event.get("ResourceStatusReason") or "") if status.endswith("_FAILED") else ""
            self.say(f"{stack}: {resource} {status}{': ' + reason if reason else ''}")

    def _events(self, name: str, since: datetime) -> list[dict[str, Any]]:
        """What happened since then, the first first. One page has the last hundred."""
        answer = self.cloud.again(
            lambda: self.cloud.aws.call(
                "cloudformation", "DescribeStackEvents", about=f"the stack {name}", setting="--name", StackName=name
            )
        )
        # Clocks may differ by a little.
        found = [one for one in answer["StackEvents"] if (since - one["Timestamp"]).total_seconds() < 2]
        return list(reversed(found))

    def _first_reason(self, name: str, since: datetime) -> str:
        for event in self._events(name, since):
            reason = str(event.get("ResourceStatusReason") or "")
            if str(event["ResourceStatus"]).endswith("_FAILED") and _CANCELLED not in reason.lower():
                return f"The first that failed was {event['LogicalResourceId']} ({event['ResourceType']}): {reason}"
        return "CloudFormation gives no reason; its events may have more."

    # --- the rest -----------------------------------------------------------------------------------------------------

    def _clear_away(self, stack: str, there: Mapping[str, Any], dry: bool) -> dict[str, Any] | None:
        if dry:
            self.say(f"{stack}: {there['StackStatus']} is left of a try that failed; it would be cleared away first.")
            return None
        self.say(f"{stack}: {there['StackStatus']} is left of a try that failed; clearing it away.")
        self.delete(stack)
        return None

    def _half_deleted(self, stack: str) -> str:
        """What to do where `destroy --data` stopped in the middle. To go on with that is not for a deployment."""
        name = stacks.name_of(self.installation, stack)
        resources = self.cloud.again(
            lambda: self.cloud.aws.call(
                "cloudformation", "DescribeStackResources", about=f"the stack {name}", setting="--name", StackName=name
            )
        )["StackResources"]
        gone = {"DELETE_COMPLETE", "DELETE_SKIPPED"}
        left = [str(one["LogicalResourceId"]) for one in resources if one["ResourceStatus"] not in gone]
        return (
            f"{stack}: DELETE_FAILED. Its deletion has begun, and CloudFormation takes it back no more; in the stack "
            f"are still {', '.join(left) or 'nothing'}. Take a snapshot of the database if it is among them. Then "
            "`destroy --data`, and nothing else, goes on; docs/deploy-aws.md says how to begin again on a snapshot."
        )

    def delete(self, stack: str) -> None:
        """Deletes a stack and waits for that. Raises DeployError with the first reason."""
        there = self.describe(stack)
        if there is None:
            return
        name, arn, since = stacks.name_of(self.installation, stack), there["StackId"], datetime.now(UTC)
        self.cloud.aws.call(
            "cloudformation", "DeleteStack", about=f"the stack {name}", setting="--name", StackName=name
        )
        ended = self._wait(stack, since, name=arn)
        if ended is not None:
            raise DeployError(f"{stack}: {ended['StackStatus']}. {self._first_reason(arn, since)}")
        self.say(f"{stack}: gone.")

    def _cloudfront_networks(self, stack: str, values: Mapping[str, str]) -> dict[str, str]:
        """From where CloudFront asks load balancers, as AWS keeps the list. Raises DeployError when it is not there."""
        declared = templates.read(stack).parameters["PortalWay"]
        if values.get("PortalWay", declared["Default"]) != "cloudfront":
            return {}
        name = "com.amazonaws.global.cloudfront.origin-facing"
        about, setting = f"the prefix list {name}", "--region"
        lists = self.cloud.again(
            lambda: self.cloud.aws.call(
                "ec2",
                "DescribeManagedPrefixLists",
                about=about,
                setting=setting,
                Filters=[{"Name": "prefix-list-name", "Values": [name]}],
            )
        )["PrefixLists"]
        if not lists:
            raise DeployError(f"{stack}: {name} is not in {self.cloud.region}; give CloudFrontNetworks in [app].")
        entries: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        while True:
            answer = self.cloud.again(
                lambda more=more: self.cloud.aws.call(  # type: ignore[misc]
                    "ec2",
                    "GetManagedPrefixListEntries",
                    about=about,
                    setting=setting,
                    PrefixListId=lists[0]["PrefixListId"],
                    **more,
                )
            )
            entries += answer["Entries"]
            if not answer.get("NextToken"):
                return {"CloudFrontNetworks": ",".join(sorted(one["Cidr"] for one in entries))}
            more = {"NextToken": answer["NextToken"]}


def outputs_of(described: Mapping[str, Any] | None) -> dict[str, str]:
    """The outputs of a stack as CloudFormation describes it."""
    return {one["OutputKey"]: one["OutputValue"] for one in (described or {}).get("Outputs") or []}


def parameters_of(described: Mapping[str, Any] | None) -> dict[str, str]:
    """What a stack was last told, as CloudFormation describes it."""
    return {one["ParameterKey"]: one.get("ParameterValue", "") for one in (described or {}).get("Parameters") or []}
