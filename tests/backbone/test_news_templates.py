"""The stacks notify, telemetry and watch: what cfn-lint does not know of."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from machines.telemetry import iot_core
from tests.backbone.containerfiles import FOLDER
from tests.backbone.templates import TEMPLATES, of_type, template

# --- notify -----------------------------------------------------------------------------------------------------------


def test_sns_signs_well_and_brings_whole_messages_once_there_is_a_portal() -> None:
    (topic,) = of_type("notify", "SNS::Topic").values()
    assert topic["SignatureVersion"] == "2" and topic["KmsMasterKeyId"]
    assert "FifoTopic" not in topic
    ((name, subscription),) = of_type("notify", "SNS::Subscription").items()
    assert template("notify")["Resources"][name]["Condition"] == "HasPortal"
    assert subscription["Protocol"] == "https" and subscription["RawMessageDelivery"] is False
    assert subscription["Endpoint"] == {"Fn::Sub": "${PortalOrigin}/hooks/sns/"}
    # What is older than an hour is refused by the hook.
    retries = subscription["DeliveryPolicy"]["healthyRetryPolicy"]
    assert retries["numRetries"] * retries["maxDelayTarget"] < 3600
    counted = retries["numNoDelayRetries"] + retries["numMinDelayRetries"] + retries["numMaxDelayRetries"]
    assert counted <= retries["numRetries"] and retries["minDelayTarget"] <= retries["maxDelayTarget"]


def test_queue_hears_of_gateways_and_of_nothing_else() -> None:
    (rule,) = of_type("notify", "Events::Rule").values()
    pattern = rule["EventPattern"]
    assert pattern["source"] == ["aws.ecs"] and pattern["detail-type"] == ["ECS Task State Change"]
    assert pattern["detail"]["clusterArn"][0]["Fn::Sub"].endswith(":cluster/${Name}")
    # The cluster and the gateways' task are made later, and by these names.
    families = [one["Family"]["Fn::Sub"] for one in of_type("gateways", "ECS::TaskDefinition").values()]
    assert pattern["detail"]["group"] == [{"Fn::Sub": f"family:{family}"} for family in sorted({*families})]
    assert of_type("gateways", "ECS::Cluster")["Cluster"]["ClusterName"] == {"Ref": "Name"}


def test_queues_take_nothing_from_others_and_nothing_in_clear() -> None:
    queues = of_type("notify", "SQS::Queue")
    assert all(one["SqsManagedSseEnabled"] is True for one in queues.values())
    guarded: set[str] = set()
    for policy in of_type("notify", "SQS::QueuePolicy").values():
        guarded.update(one["Ref"] for one in policy["Queues"])
        statements = policy["PolicyDocument"]["Statement"]
        for one in statements:
            if one["Effect"] == "Allow":
                assert "Service" in one["Principal"] and "aws:SourceArn" in one["Condition"]["ArnEquals"]
        assert [one for one in statements if one["Effect"] == "Deny" and one["Principal"] == "*"]
    assert guarded == queues.keys()


def test_what_nobody_took_is_kept_to_be_looked_at() -> None:
    target = {"Fn::GetAtt": ["UndeliveredQueue", "Arn"]}
    (subscription,) = of_type("notify", "SNS::Subscription").values()
    (rule,) = of_type("notify", "Events::Rule").values()
    queue = of_type("notify", "SQS::Queue")["EventsQueue"]
    assert subscription["RedrivePolicy"]["deadLetterTargetArn"] == target
    assert rule["Targets"][0]["DeadLetterConfig"]["Arn"] == target
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == target


# --- telemetry --------------------------------------------------------------------------------------------------------


def test_machine_may_be_its_own_thing_and_no_other() -> None:
    (policy,) = of_type("telemetry", "IoT::Policy").values()
    own = "${!iot:Connection.Thing.ThingName}"
    for statement in policy["PolicyDocument"]["Statement"]:
        assert statement["Effect"] == "Allow" and statement["Action"].startswith("iot:")
        for resource in _list(statement["Resource"]):
            text = resource["Fn::Sub"]
            if statement["Action"] == "iot:Connect":
                assert text.endswith(f":client/{own}")
                assert statement["Condition"] == {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}
            else:
                kind = "topicfilter" if statement["Action"] == "iot:Subscribe" else "topic"
                assert f":{kind}/$aws/things/{own}/" in text
                assert re.search(rf"/(shadow/name/{iot_core.SHADOW}|jobs)/[a-z*/-]+$", text)


def test_type_of_things_is_the_one_that_the_code_would_make() -> None:
    (kind,) = of_type("telemetry", "IoT::ThingType").values()
    code = (FOLDER / "machines" / "telemetry" / "iot_core.py").read_text()
    searchable = json.loads(re.search(r'"searchableAttributes": (\[[^]]*\])', code)[1])  # type: ignore[index]
    assert kind["ThingTypeProperties"]["SearchableAttributes"] == searchable
    settings = (FOLDER / "portal" / "settings.py").read_text()
    default = template("telemetry")["Parameters"]["ThingTypeName"]["Default"]
    assert re.search(rf'"IOT_THING_TYPE",\s*"{default}"', settings)


def test_rules_of_iot_write_to_their_log_and_nothing_else() -> None:
    (role,) = of_type("telemetry", "IAM::Role").values()
    (statement,) = [one for policy in role["Policies"] for one in policy["PolicyDocument"]["Statement"]]
    assert statement["Resource"] == {"Fn::GetAtt": ["Log", "Arn"]}
    assert all(action.startswith("logs:") for action in statement["Action"])
    for rule in of_type("telemetry", "IoT::TopicRule").values():
        assert rule["TopicRulePayload"]["RuleDisabled"] is False
        assert [*rule["TopicRulePayload"]["Actions"][0]] == ["CloudwatchLogs"]


# --- watch ------------------------------------------------------------------------------------------------------------


def _alarms() -> dict[str, dict[str, Any]]:
    return of_type("watch", "CloudWatch::Alarm")


def test_every_alarm_reaches_somebody_and_says_where_to_look() -> None:
    assert len(_alarms()) > 20
    for name, alarm in _alarms().items():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "OperationsTopic"}], name
        words = alarm["AlarmDescription"]
        assert words.endswith(".") and words.count(".") >= 2 and len(words) <= 1024, name
        # Nothing said is well, or is just what is wrong: whoever wrote the alarm has thought of it.
        assert alarm["TreatMissingData"] in {"breaching", "notBreaching", "missing"}, name


def test_what_stops_rescues_is_watched() -> None:
    """The issue's list: health, queues of what failed, gateways, tasks, database, Redis, certificates."""
    watched = [(one["Namespace"], one["MetricName"]) for one in _alarms().values() if "MetricName" in one]
    for wanted in (
        ("AWS/ApplicationELB", "UnHealthyHostCount"), ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"),
        ("AWS/NetworkELB", "UnHealthyHostCount"), ("AWS/SQS", "ApproximateNumberOfMessagesVisible"),
        ("AWS/SNS", "NumberOfNotificationsFailed"), ("AWS/RDS", "CPUUtilization"),
        ("AWS/ElastiCache", "DatabaseMemoryUsagePercentage"),
    ):  # fmt: skip
        assert wanted in watched
    # What is counted in the logs is watched, and the other way round.
    own = {metric for namespace, metric in watched if namespace == {"Fn::Sub": "Portafilter/${Name}"}}
    filters = of_type("watch", "Logs::MetricFilter").values()
    assert own == {one["MetricTransformations"][0]["MetricName"] for one in filters}
    assert {"VpnNeedsSomebody", "GatewaysFailed", "DatabaseAway"} <= own
    (rule,) = of_type("watch", "Events::Rule").values()
    assert {"SERVICE_TASK_START_IMPAIRED", "SERVICE_DEPLOYMENT_FAILED"} <= {
        *rule["EventPattern"]["detail"]["eventName"]
    }


@pytest.mark.parametrize("name", sorted(of_type("watch", "Logs::MetricFilter")))
def test_filters_look_for_words_that_the_code_says(name: str) -> None:
    code = [
        # A sentence may go over several lines of the source, each in quotes of its own.
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for app in ("machines", "sessions", "notifications", "portal")
        for path in (FOLDER / app).rglob("*.py")
        if "migrations" not in path.parts
    ]
    pattern = of_type("watch", "Logs::MetricFilter")[name]["FilterPattern"]
    terms = re.findall(r'(\??)"([^"]+)"', pattern)
    assert terms and " ".join(f'{mark}"{text}"' for mark, text in terms) == pattern
    if any(mark for mark, _ in terms):
        # CloudWatch leaves the others out as soon as one has a question mark.
        assert all(mark for mark, _ in terms)
        for _, text in terms:
            assert any(text in source for source in code), text
    else:
        lines = [line for source in code for line in source.splitlines()]
        assert any(all(text in line for _, text in terms) for line in lines), pattern


def test_dashboard_is_what_cloudwatch_reads() -> None:
    (dashboard,) = of_type("watch", "CloudWatch::Dashboard").values()
    text, names = dashboard["DashboardBody"]["Fn::Sub"]
    known = template("watch")["Parameters"].keys() | names.keys() | {"AWS::Region"}
    assert set(re.findall(r"\$\{([^}]+)\}", text)) <= known
    widgets = json.loads(re.sub(r"\$\{[^}]+\}", "x", text))["widgets"]
    places = {(x, one["y"]) for one in widgets for x in range(one["x"], one["x"] + one["width"])}
    assert len(places) == sum(one["width"] for one in widgets) and max(x for x, _ in places) < 24
    assert all(one["properties"]["metrics"] for one in widgets)


def test_topic_of_the_alarms_takes_them_from_this_account_alone() -> None:
    (policy,) = of_type("watch", "SNS::TopicPolicy").values()
    allowed = [one for one in policy["PolicyDocument"]["Statement"] if one["Effect"] == "Allow"]
    assert [one["Condition"] for one in allowed] == [{"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}]
    # AWS' own key would keep CloudWatch out; the template says so.
    (topic,) = [one for one in template("watch")["Resources"].values() if one["Type"] == "AWS::SNS::Topic"]
    assert "KmsMasterKeyId" not in topic["Properties"] and topic["Metadata"]["portafilter"]["unencrypted"]


def test_parameters_say_what_they_are_and_hold_no_secret() -> None:
    for stack in ("vpn", "private-api", "notify", "telemetry", "watch"):
        text = (TEMPLATES / f"{stack}.yaml").read_text()
        assert not re.search(r"(AKIA|ASIA)[A-Z0-9]{16}|-----BEGIN|NoEcho", text)
        for name, parameter in template(stack)["Parameters"].items():
            # What no earlier stack gives, somebody has to give.
            if "Default" in parameter or name.endswith("Image"):
                assert name == "Name" or parameter.get("Description", "").endswith("."), (stack, name)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
