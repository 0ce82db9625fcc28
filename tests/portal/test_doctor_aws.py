"""What `manage.py doctor` finds at AWS: against moto's server over real HTTP, and in states that moto has not."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.core.management import call_command
from pytest_django.fixtures import Settings

from backbone.accelerator import Accelerator, AcceleratorMissing, Endpoint, EndpointGroup, Listener
from machines.aws import Aws, AwsError, Kind
from portal.doctor import cloud as cloud_checks
from portal.doctor import gateway_events, gateways, messages, things
from portal.doctor.cloud import Cloud, Identity
from portal.doctor.findings import Finding, Verdict
from tests.portal.deployed import ACCOUNT, ORIGIN, REGION, TOPIC, Deployed
from tests.portal.findings import lines, only, said
from tests.waiting import LONG_S


@pytest.fixture(scope="module")
def moto() -> Iterator[Deployed]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **{"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests-secret"},
            **{"AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": f"http://{host}:{port}"},
            **{"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"},
        }.items():
            patch.setenv(name, value)
        for limit in ("_CONNECT_S", "_ANSWER_S"):  # moto loads each service when it is first asked
            patch.setattr(cloud_checks, limit, 2 * LONG_S)
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        try:
            yield Deployed(f"http://{host}:{port}")
        finally:
            logging.getLogger("werkzeug").setLevel(logging.NOTSET)
            server.stop()


@pytest.fixture(scope="module")
def aws_cloud(moto: Deployed) -> Iterator[Cloud]:
    """One for all: its clients take time to make."""
    from django.test import override_settings

    with override_settings(AWS_REGION=REGION):
        yield Cloud()


@pytest.fixture
def deployed(moto: Deployed, settings: Settings) -> Deployed:
    moto.choose(settings)
    return moto


LOOKS: dict[str, Callable[[Cloud], Iterator[Finding]]] = {
    "identity": cloud_checks.identity,
    "clock": cloud_checks.clock,
    "may we": cloud_checks.permissions,
    "cluster": gateways.cluster,
    "task definition": gateways.task_definition,
    "subnets": gateways.subnets,
    "security groups": gateways.security_groups,
    "events": gateway_events.events,
    "topic": messages.topic,
    "iot core": things.iot_core,
}


@pytest.mark.parametrize("look", [look for look in LOOKS if look != "topic"])
def test_good_deployment_is_well(deployed: Deployed, aws_cloud: Cloud, look: str) -> None:
    found = said(LOOKS[look](aws_cloud))
    assert found and {verdict for verdict, _ in found} == {Verdict.OK}, found


def test_topic_that_the_portal_is_subscribed_to_is_well(deployed: Deployed, aws_cloud: Cloud) -> None:
    """moto never says by what a topic signs, and AWS' default is SHA-1."""
    sha, subscribed = messages.topic(aws_cloud)
    assert (sha.verdict, subscribed.verdict) == (Verdict.ATTENTION, Verdict.OK) and "SHA-1" in sha.words


def test_we_are_told_who_we_are(deployed: Deployed, aws_cloud: Cloud) -> None:
    assert (
        only(cloud_checks.identity(aws_cloud)).words == f"AWS knows us as arn:aws:sts::{ACCOUNT}:user/moto in {REGION}."
    )


def other_group(deployed: Deployed, settings: Settings) -> None:
    vpc = deployed.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    settings.ECS_SECURITY_GROUPS = [deployed.security_group("elsewhere", vpc, "10.0.0.0/8")]


def open_group(deployed: Deployed, settings: Settings) -> None:
    settings.ECS_SECURITY_GROUPS = [deployed.security_group("open", deployed.vpc, "0.0.0.0/0")]


def shut_group(deployed: Deployed, settings: Settings) -> None:
    group = deployed.client("ec2").create_security_group(GroupName="shut", Description="shut", VpcId=deployed.vpc)
    settings.ECS_SECURITY_GROUPS = [group["GroupId"]]


def small_subnet(deployed: Deployed, settings: Settings) -> None:
    settings.ECS_SUBNETS = [deployed.subnet(99, "a", 28), deployed.subnet(98, "b", 28)]


def empty_cluster(deployed: Deployed, settings: Settings) -> None:
    deployed.client("ecs").create_cluster(clusterName="empty", capacityProviders=["gateways"])
    settings.ECS_CLUSTER = "empty"


def empty_cluster_alone(deployed: Deployed, settings: Settings) -> None:
    empty_cluster(deployed, settings)
    settings.ECS_CAPACITY_PROVIDER = ""


def definition(**changes: Any) -> Callable[[Deployed, Settings], None]:
    def register(deployed: Deployed, settings: Settings) -> None:
        settings.ECS_TASK_DEFINITION = deployed.register(f"family-{abs(hash(str(changes)))}", **changes)

    return register


def inactive(deployed: Deployed, settings: Settings) -> None:
    deployed.register("old")
    deployed.client("ecs").deregister_task_definition(taskDefinition="old:1")
    settings.ECS_TASK_DEFINITION = "old:1"


def setting(name: str, value: Any) -> Callable[[Deployed, Settings], None]:
    return lambda deployed, settings: setattr(settings, name, value)


# What to look at; what is wrong; how bad; what is said.
FAULTS: list[tuple[str, Callable[[Deployed, Settings], None], str, str]] = [
    ("cluster", setting("ECS_CLUSTER", "gone"), "wrong",
     f"ecs:DescribeClusters: ECS_CLUSTER names what is not there in {REGION} (AWS_REGION): the cluster gone."),
    ("cluster", setting("ECS_CAPACITY_PROVIDER", "other"), "wrong", "expected one of the cluster's: gateways."),
    ("cluster", empty_cluster, "attention", "No computer for gateways is registered now"),
    ("cluster", empty_cluster_alone, "wrong", "Start some, or set ECS_CAPACITY_PROVIDER."),
    ("task definition", setting("ECS_TASK_DEFINITION", "gone"), "wrong", "ECS_TASK_DEFINITION names what is not there"),
    ("task definition", inactive, "wrong", "old:1 is INACTIVE, expected ACTIVE."),
    ("task definition", definition(openvpn={"linuxParameters": {}}), "wrong", "NET_ADMIN and the device /dev/net/tun"),
    ("task definition", definition(networkMode="bridge"), "wrong", "found networkMode bridge, expected awsvpc"),
    ("task definition", definition(requiresCompatibilities=["EC2", "FARGATE"], cpu="256", memory="512"), "wrong",
     "it is for Fargate, which has no /dev/net/tun."),
    ("task definition", definition(guacd="guacamole/guacd:1.5.5@sha256:" + "0" * 64), "wrong",
     "found guacd 1.5 (guacamole/guacd:1.5.5"),
    ("task definition", definition(guacd="guacamole/guacd:latest"), "attention", "does not say its version"),
    ("task definition", definition(guacd="registry.example.com/guacd@sha256:" + "0" * 64), "ok", "is ACTIVE"),
    ("task definition", definition(openvpn={"environment": [{"name": "VPN_PASSWORD", "value": "x"}]}), "attention",
     "The environment of container openvpn has VPN_PASSWORD"),
    ("task definition", definition(taskRoleArn=f"arn:aws:iam::{ACCOUNT}:role/x"), "attention", "has a task role"),
    ("subnets", setting("ECS_SUBNETS", ["subnet-0a1b2c3d"]), "wrong",
     "ec2:DescribeSubnets: ECS_SUBNETS names what is not there"),
    ("subnets", small_subnet, "ok", "22 addresses are left"),
    ("security groups", setting("ECS_SECURITY_GROUPS", ["sg-0a1b2c3d"]), "wrong", "ECS_SECURITY_GROUPS names what"),
    ("security groups", other_group, "wrong", "expected the VPC of ECS_SUBNETS"),
    ("security groups", open_group, "wrong", "port 4822 is open to everybody, and asks nobody who they are."),
    ("security groups", shut_group, "wrong", "nothing may come in at port 4823."),
    ("events", setting("ECS_EVENTS_QUEUE", f"http://sqs.{REGION}.amazonaws.com/{ACCOUNT}/gone"), "wrong",
     "sqs:GetQueueAttributes: ECS_EVENTS_QUEUE names what is not there"),
    ("events", setting("ECS_EVENTS_QUEUE", f"http://sqs.{REGION}.amazonaws.com/{ACCOUNT}/nobodys"), "wrong",
     "its policy does not let events.amazonaws.com send to it"),
    ("topic", setting("NOTIFY_SNS_TOPIC", TOPIC + "-gone"), "wrong", "NOTIFY_SNS_TOPIC names what is not there"),
    ("topic", setting("PUBLIC_ORIGINS", ["https://other.example.com"]), "wrong",
     "nothing of it comes to https://other.example.com/hooks/sns/."),
    ("iot core", setting("IOT_THING_TYPE", "other"), "attention", "there is no thing type other in eu-west-1 yet."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("look", "break_it", "verdict", "words"), FAULTS, ids=[f"{one[0]}: {one[3][:40]}" for one in FAULTS]
)
def test_fault_is_a_line_that_says_what_to_do(
    deployed: Deployed,
    aws_cloud: Cloud,
    settings: Settings,
    look: str,
    break_it: Callable[[Deployed, Settings], None],
    verdict: str,
    words: str,
) -> None:
    break_it(deployed, settings)
    found = lines([aws_cloud.check(look, LOOKS[look])])
    assert [(name, how) for name, how, line in found if words in line] == [(look, verdict)], found


def test_clock_is_compared_with_aws(deployed: Deployed, aws_cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Cloud()
    asked.aws, begun = aws_cloud.aws, time.monotonic()
    who = asked.who()
    took_s = time.monotonic() - begun
    # A date has whole seconds, and may be of any moment of the call.
    assert isinstance(who, Identity) and who.ahead_s is not None and abs(who.ahead_s) <= 0.6 + took_s / 2
    monkeypatch.setattr(aws_cloud, "_who", Identity(who.arn, 30.0))
    assert "30 s behind AWS'" in only(cloud_checks.clock(aws_cloud)).words


class Refusing(Aws):
    """AWS that forbids some calls, and has nothing of what the others ask for, or answers them as `answers` says."""

    def __init__(self, *forbidden: str) -> None:
        super().__init__(REGION)
        self.forbidden, self.called = forbidden, list[str]()
        self.answers = {"sqs:DeleteMessage": (Kind.REFUSED, "ReceiptHandleIsInvalid")}

    def call(self, service: str, name: str, /, *, about: str, setting: object, **arguments: Any) -> dict[str, Any]:
        action = f"{service}:{name}"
        self.called.append(action)
        if action in self.forbidden:
            raise AwsError(f"{action}: Allow {action} on {about}.", kind=Kind.FORBIDDEN)
        kind, code = self.answers.get(action, (Kind.NOT_FOUND, ""))
        raise AwsError(f"{action}: nothing there", kind=kind, code=code)


def test_permission_that_the_worker_lacks_is_named_by_a_call_that_changes_nothing(
    deployed: Deployed, settings: Settings
) -> None:
    settings.AWS_REGION = REGION
    asked = Cloud()
    asked._who = Identity("arn:aws:sts::1:assumed-role/worker/1", 0.0)
    asked.aws = refusing = Refusing("ecs:DescribeTasks", "iot-data:GetThingShadow")
    assert [(one.verdict, one.words) for one in cloud_checks.permissions(asked)] == [
        (Verdict.WRONG, "ecs:DescribeTasks: Allow ecs:DescribeTasks on the cluster portafilter."),
        (Verdict.WRONG, "iot-data:GetThingShadow: Allow iot-data:GetThingShadow on things."),
    ]
    assert {"ecs:ListTasks", "sqs:DeleteMessage", "sns:ConfirmSubscription", "iot:DescribeThing"} <= set(
        refusing.called
    )
    refusing.forbidden = ()
    assert only(cloud_checks.permissions(asked)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("action", "kind", "code"),
    [
        ("sqs:DeleteMessage", Kind.NOT_FOUND, "AWS.SimpleQueueService.NonExistentQueue"),
        ("ecs:ListTasks", Kind.TIMEOUT, ""),
        ("ecs:DescribeTasks", Kind.THROTTLED, "ThrottlingException"),
        ("iot:DescribeThing", Kind.REFUSED, "OptInRequired"),
    ],
)
def test_answer_that_says_nothing_of_a_permission_is_not_taken_for_one(
    deployed: Deployed, settings: Settings, action: str, kind: Kind, code: str
) -> None:
    settings.AWS_REGION = REGION
    asked = Cloud()
    asked._who = Identity("arn:aws:sts::1:assumed-role/worker/1", 0.0)
    asked.aws = refusing = Refusing()
    refusing.answers[action] = (kind, code)
    found = only(cloud_checks.permissions(asked))
    assert found.verdict is Verdict.ATTENTION and found.words.startswith(action) and "is not known" in found.words


def test_what_only_the_doctor_may_not_see_is_for_attention(deployed: Deployed) -> None:
    asked = Cloud()
    asked._who = Identity("arn:aws:sts::1:assumed-role/worker/1", 0.0)
    asked.aws = Refusing("ec2:DescribeSubnets")
    ((_, verdict, words),) = lines([asked.check("subnets", gateways.subnets)])
    assert verdict == "attention" and words.endswith("It is needed to look at this, and by nothing else.")
    asked.aws = Refusing("iot:DescribeThingType")
    ((_, verdict, words),) = lines([asked.check("iot core", things.iot_core)])
    assert verdict == "wrong" and "nothing else" not in words


class Scripted(Aws):
    """AWS in a state that moto has not; `given` by action."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(REGION)
        self.given = given

    def call(self, service: str, name: str, /, *, about: str, setting: object, **arguments: Any) -> dict[str, Any]:
        found = self.given[f"{service}:{name}"]
        if isinstance(found, AwsError):
            raise found
        return dict(found)


_SUBSCRIBED = {"Endpoint": f"{ORIGIN}/hooks/sns/", "SubscriptionArn": f"{TOPIC}:1"}
_SHA256 = {"sns:GetTopicAttributes": {"Attributes": {"SignatureVersion": "2"}}}
_ACTIVE = {"clusters": [{"status": "ACTIVE", "capacityProviders": ["gateways"]}]}
_SCALING = {"managedScaling": {"status": "ENABLED"}}
_PROVIDER: dict[str, Any] = {"name": "gateways", "status": "ACTIVE", "autoScalingGroupProvider": _SCALING}
_VPN_HOST = {"status": "ACTIVE", "agentConnected": True, "attributes": [{"name": "portafilter.role", "value": "vpn"}]}


def _cluster(*instances: dict[str, Any], provider: dict[str, Any] = _PROVIDER) -> dict[str, Any]:
    return {
        "ecs:DescribeClusters": _ACTIVE,
        "ecs:DescribeCapacityProviders": {"capacityProviders": [provider]},
        "ecs:ListContainerInstances": {"containerInstanceArns": ["a"]},
        "ecs:DescribeContainerInstances": {"containerInstances": list(instances)},
    }


def _subnets(*free: int, zones: str = "ab") -> dict[str, Any]:
    found = [
        {"VpcId": "vpc-1", "AvailableIpAddressCount": count, "AvailabilityZone": f"{REGION}{zone}"}
        for count, zone in zip(free, zones, strict=True)
    ]
    return {"ec2:DescribeSubnets": {"Subnets": found}}


def _group(**sources: list[dict[str, str]]) -> dict[str, Any]:
    rule = {"IpProtocol": "tcp", "FromPort": 4822, "ToPort": 4823, **sources}
    # Whom it lets in elsewhere is nothing to guacd.
    web = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    group = {"GroupId": "sg-1", "VpcId": "vpc-1", "IpPermissions": [rule, web]}
    return {"ec2:DescribeSecurityGroups": {"SecurityGroups": [group]}} | _subnets(100, 100)


def _let_in(*networks: str) -> dict[str, Any]:
    return _group(IpRanges=[{"CidrIp": one} for one in networks])


_TO_SEND: dict[str, Any] = {
    "Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage",
}  # fmt: skip
_OVER_TLS_ALONE: dict[str, Any] = {
    "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Condition": {"Bool": {"aws:SecureTransport": "false"}},
}  # fmt: skip


def _events(*statements: dict[str, Any], state: str = "ENABLED") -> dict[str, Any]:
    policy = json.dumps({"Statement": statements or [_TO_SEND]})
    return {
        "sqs:GetQueueAttributes": {"Attributes": {"Policy": policy, "ApproximateNumberOfMessages": "3"}},
        "events:ListRuleNamesByTarget": {"RuleNames": ["gateways"]},
        "events:DescribeRule": {"State": state},
    }


@pytest.mark.parametrize(
    ("look", "given", "verdict", "words"),
    [
        ("cluster", _cluster({"status": "ACTIVE", "agentConnected": False, "ec2InstanceId": "i-1"}), "wrong",
         "The ECS agent of 1 of 1 computers for gateways is not connected (i-1)."),
        ("cluster", _cluster(_VPN_HOST), "attention", "No computer for gateways is registered now"),
        ("cluster", _cluster(_VPN_HOST, provider={"status": "INACTIVE"}), "wrong", "gateways is INACTIVE"),
        ("cluster", _cluster(_VPN_HOST, provider=_PROVIDER | {"autoScalingGroupProvider": {"x": 1}}), "attention",
         "has no managed scaling"),
        ("cluster", {"ecs:DescribeClusters": {"clusters": [{"status": "INACTIVE"}]}}, "wrong",
         "the cluster portafilter in eu-west-1 (AWS_REGION) is INACTIVE, expected ACTIVE."),
        ("subnets", _subnets(0, 0), "wrong", "no address is left in any of them"),
        ("subnets", _subnets(3, 2), "attention", "5 addresses are left"),
        ("subnets", _subnets(100, 100, zones="aa"), "attention", "All of ECS_SUBNETS are in eu-west-1a"),
        ("topic", _SHA256 | {"sns:ListSubscriptionsByTopic": {
            "Subscriptions": [_SUBSCRIBED | {"SubscriptionArn": "PendingConfirmation"}]}}, "wrong", "is not confirmed"),
        ("topic", _SHA256 | {"sns:ListSubscriptionsByTopic": {"Subscriptions": [_SUBSCRIBED]},
                             "sns:GetSubscriptionAttributes": {"Attributes": {"RawMessageDelivery": "true"}}}, "wrong",
         "has raw message delivery on"),
        ("text messages", {"sns:GetSMSSandboxAccountStatus": {"IsInSandbox": True}, "sns:GetSMSAttributes": {}},
         "wrong", "The AWS account is in the SMS sandbox"),
        ("text messages", {"sns:GetSMSSandboxAccountStatus": {}, "sns:GetSMSAttributes": {}}, "attention",
         "spends 1 USD a month"),
        ("text messages", {"sns:GetSMSSandboxAccountStatus": {},
                           "sns:GetSMSAttributes": {"attributes": {"MonthlySpendLimit": "50"}}}, "ok",
         "may cost 50 USD a month"),
        ("security groups", _group(UserIdGroupPairs=[{"GroupId": "sg-2", "UserId": "1"}]), "ok",
         "to guacd, but sg-2. The worker and the keepers must be among these."),
        ("security groups", _let_in("10.1.0.0/16", "100.64.7.0/24"), "ok", "but 10.1.0.0/16, 100.64.7.0/24."),
        ("security groups", _let_in("192.0.2.7/32"), "wrong", "port 4822 is open to the Internet (192.0.2.7/32)"),
        ("security groups", _let_in("0.0.0.0/1", "128.0.0.0/1"), "wrong",
         "port 4823 is open to the Internet (0.0.0.0/1, 128.0.0.0/1)"),
        ("security groups", _let_in("10.0.0.0/7"), "wrong", "port 4822 is open to the Internet (10.0.0.0/7)"),
        ("security groups", _group(Ipv6Ranges=[{"CidrIpv6": "::/0"}]), "wrong", "port 4822 is open to everybody"),
        ("security groups", _group(Ipv6Ranges=[{"CidrIpv6": "fd00::/8"}]), "ok", "but fd00::/8."),
        ("security groups", _group(PrefixListIds=[{"PrefixListId": "pl-1"}]), "attention",
         "port 4822 is open to the prefix list pl-1"),
        ("security groups", _group(), "wrong", "nothing may come in at port 4822."),
        ("events", _events(), "ok", "a rule of EventBridge that is on fills it, and 3 wait in it."),
        ("events", _events(_TO_SEND, _OVER_TLS_ALONE), "ok", "that is on fills it"),
        ("events", _events(_TO_SEND | {"Action": ["sqs:*"], "Principal": "*"}), "ok", "that is on fills it"),
        ("events", _events(state="DISABLED"), "wrong", "what puts events into it is off (gateways)"),
        ("events", _events(_TO_SEND | {"Action": "sqs:ReceiveMessage"}), "wrong", "does not let events.amazonaws.com"),
        ("events", _events(_TO_SEND | {"Principal": {"Service": "notevents.amazonaws.com"}}), "wrong", "does not let"),
        ("events", _events(_TO_SEND, _TO_SEND | {"Effect": "Deny", "Principal": "*"}), "wrong",
         "its policy denies events.amazonaws.com to send"),
        ("events", _events(_TO_SEND, _OVER_TLS_ALONE | {"Condition": {"IpAddress": {"aws:SourceIp": "::/0"}}}),
         "attention", "on a condition that is not weighed here"),
        ("events", _events() | {"events:DescribeRule": AwsError("events:DescribeRule: no", kind=Kind.FORBIDDEN)},
         "attention", "nobody can say whether a rule of EventBridge fills the queue"),
        ("iot core", {"iot:DescribeThingType": {"thingTypeMetadata": {"deprecated": True}}, "iot:DescribeEndpoint": {}},
         "wrong", "is deprecated"),
    ],
)  # fmt: skip
def test_state_that_aws_may_be_in_is_told(
    deployed: Deployed, look: str, given: dict[str, Any], verdict: str, words: str
) -> None:
    asked = Cloud()
    asked._who, asked.aws = Identity("arn:aws:sts::1:assumed-role/worker/1", 0.0), Scripted(given)
    found = lines([asked.check(look, {**LOOKS, "text messages": messages.text_messages}[look])])
    assert [how for _, how, line in found if words in line] == [verdict], found


def test_accelerator_is_told_by_its_endpoints(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ACCELERATOR = "edge,other,bare"
    sick = Endpoint("e", 128, "UNHEALTHY", "", True)
    group = EndpointGroup("g", REGION, 50.0, "HTTP", 8080, "/healthz", 30, 3, (), (sick,))
    unsure = replace(sick, id="i-0abc", health="HEALTHY", keeps_client_address=False, weight=0)
    listeners = (
        Listener("l", "UDP", ((1194, 1194),), "NONE", (group,)),
        Listener("m", "TCP", ((443, 443),), "NONE", (replace(group, dial=100.0, endpoints=(unsure,)),)),
        Listener("n", "TCP", ((80, 80),), "NONE", ()),
    )

    class Service:
        def read(self, name: str) -> Accelerator:
            if name == "other":
                raise AcceleratorMissing(f"AWS has no accelerator named {name} in this account.")
            return Accelerator("a", name, True, True, "", "", (), () if name == "bare" else listeners)

    monkeypatch.setattr(things, "GlobalAccelerator", Service)
    asked = Cloud()
    found = said(things.accelerator(asked))
    expected = [
        ("wrong", "edge: TCP 80: there is no endpoint group, so connections go nowhere."),
        ("wrong", f"edge: UDP 1194 in {REGION}: e is unhealthy. It is asked by HTTP /healthz at port 8080, every"),
        ("attention", f"edge: TCP 443 in {REGION}: instance i-0abc does not see from where people and machines come"),
        ("wrong", f"edge: TCP 443 in {REGION}: every endpoint has the weight 0"),
        ("attention", f"edge: UDP 1194 in {REGION}: the dial is at 50"),
        ("wrong", "AWS has no accelerator named other in this account."),
        ("wrong", "bare: The accelerator has no listener, so it takes no connections."),
    ]
    for (verdict, words), (wanted, part) in zip(found, expected, strict=True):
        assert verdict.value == wanted and words.startswith(part), words


def test_aws_that_does_not_know_us_is_said_once(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    asked = Cloud()
    looked = [*cloud_checks.checks(asked), *gateways.checks(asked), *things.checks(asked)]
    ((name, verdict, words),) = lines(looked)
    assert (name, verdict) == ("aws", "wrong")
    assert words.startswith("sts:GetCallerIdentity: found no whole set") and words.endswith("was looked at.")


@pytest.mark.django_db
def test_doctor_reads_all_of_a_deployment_in_one_go(deployed: Deployed) -> None:
    text = io.StringIO()
    with contextlib.suppress(SystemExit):
        call_command("doctor", "--json", "--seconds", "60", stdout=text)
    found = {line["check"] for line in json.loads(text.getvalue())}
    assert {"database", "aws", "cluster", "task definition", "subnets", "events", "topic", "iot core"} <= found
    assert "tests-secret" not in text.getvalue() and os.environ["AWS_ACCESS_KEY_ID"] == "tests"
