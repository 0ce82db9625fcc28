"""All templates: cfn-lint finds nothing, and neither do we where it does not look."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cfnlint
import pytest
from cryptography.fernet import Fernet

from backbone import app_secrets, stacks, templates
from tests.backbone.containerfiles import FOLDER

# Pages and screens are pinged so often (portal/management/commands/serve.py), and a machine's question lasts so long.
PING_S, LONG_POLL_S = 10, 25
ACCELERATOR_S = 340


def of_type(stack: str, kind: str) -> dict[str, dict[str, Any]]:
    found = templates.read(stack).resources.items()
    return {name: one.get("Properties", {}) for name, one in found if one["Type"] == f"AWS::{kind}"}


def everywhere(kind: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Stack, name and properties of each resource of a type."""
    return [(stack, *found) for stack in stacks.STACKS for found in of_type(stack, kind).items()]


def containers() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Stack, task and container of each container."""
    return [
        (stack, task, container)
        for stack, _, task in everywhere("ECS::TaskDefinition")
        for container in task["ContainerDefinitions"]
    ]


def attributes(given: list[dict[str, Any]]) -> dict[str, Any]:
    return {one["Key"]: one["Value"] for one in given if "Key" in one}


# --- all templates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stack", stacks.STACKS)
def test_cfn_lint_finds_nothing(stack: str) -> None:
    found = cfnlint.lint_file(stacks.path_of(stack))
    assert [str(one) for one in found] == []


def test_every_description_of_a_rule_is_one_that_ec2_takes() -> None:
    allowed = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")
    for kind in ("EC2::SecurityGroupIngress", "EC2::SecurityGroupEgress"):
        for stack, name, rule in everywhere(kind):
            assert allowed.fullmatch(rule["Description"]), f"{stack}: {name}"
    for stack, name, group in everywhere("EC2::SecurityGroup"):
        for rule in [*group.get("SecurityGroupIngress", []), *group.get("SecurityGroupEgress", [])]:
            assert allowed.fullmatch(rule["Description"]), f"{stack}: {name}"


def test_net_admin_and_devices_are_never_asked_of_fargate() -> None:
    """AWS refuses them when the task starts, and neither cfn-lint nor moto says so before."""
    seen = 0
    for stack, task, container in containers():
        linux = container.get("LinuxParameters", {})
        asks = "Devices" in linux or "Tmpfs" in linux or linux.get("Capabilities", {}).get("Add")
        seen += bool(asks)
        assert not (asks and "FARGATE" in task["RequiresCompatibilities"]), f"{stack}: {container['Name']}"
        assert not container.get("Privileged")
    assert seen >= 3


def test_every_container_has_a_root_that_cannot_be_written_and_no_capability_but_of_the_network() -> None:
    for stack, _, container in containers():
        # The agent of ECS Exec writes to it, where somebody has asked for that.
        expected = ({"Fn::If": ["AllowsShell", False, True]}, True)
        assert container["ReadonlyRootFilesystem"] in expected, f"{stack}: {container['Name']}"
        capabilities = container["LinuxParameters"]["Capabilities"]
        assert capabilities["Drop"] == ["ALL"] and set(capabilities.get("Add", [])) <= {"NET_ADMIN", "NET_BIND_SERVICE"}


def test_owner_of_the_database_is_known_to_migrations_alone() -> None:
    """Who owns a table can erase what is append-only (T24)."""
    urls, passwords = set(), set()
    for stack, _, container in containers():
        for one in container.get("Environment", []):
            if one["Name"] == "DATABASE_URL":
                urls.add((stack, re.findall(r"//(\w+)@", str(one["Value"]))[0]))
        for one in container.get("Secrets", []):
            if "DATABASE" in str(one):
                passwords.add((stack, *re.findall(r"\w+SecretArn", str(one))))
    works = {"app", "private-api", "vpn"}
    assert urls == {("migrate", "portafilter"), *((stack, "portafilter_app") for stack in works)}
    assert passwords - {("migrate", "DatabaseSecretArn")} == {
        (stack, "DatabaseAppSecretArn") for stack in works | {"migrate"}
    }
    knows = {stack for stack in stacks.STACKS if "DatabaseSecretArn" in templates.read(stack).text}
    assert knows == {"data", "migrate"}


def test_no_secret_is_in_a_default_or_in_an_environment() -> None:
    secret = re.compile(r"(PASSWORD|SECRET|KEYS?|TOKEN)(_FILE)?$")
    settings = (FOLDER / "docs" / "settings.md").read_text()
    names = set(re.findall(r"^\| `([A-Z_]+)` \| [^|]*\*secret\*", settings, re.MULTILINE))
    assert {"DATABASE_PASSWORD", "SECRET_KEY"} <= names
    for stack, _, container in containers():
        for one in container.get("Environment", []):
            assert one["Name"] not in names and not secret.search(one["Name"]), f"{stack}: {one['Name']}"
            assert not re.search(r"://[^/@]*:[^/@]*@", str(one["Value"])), f"{stack}: {one['Name']}"
    for stack in stacks.STACKS:
        for name, declared in templates.read(stack).parameters.items():
            is_choice = "AllowedValues" in declared
            assert is_choice or not re.search(r"(Password|Secret|Token)$", name), f"{stack}: {name} is shown to many"
            assert not declared.get("NoEcho")


def test_every_log_ends_some_day() -> None:
    for stack, name, group in everywhere("Logs::LogGroup"):
        assert group["RetentionInDays"] == {"Ref": "LogDays"}, f"{stack}: {name}"
    logged = {str(container["LogConfiguration"]["Options"]["awslogs-group"]["Ref"]) for _, _, container in containers()}
    assert logged == {"Log"}, "a group that a container makes by itself is kept for ever"


def test_what_is_kept_is_encrypted() -> None:
    (database,) = of_type("data", "RDS::DBInstance").values()
    # One from a snapshot is as that was, and RDS takes neither for it.
    from_snapshot = {"Fn::If": ["FromSnapshot", {"Ref": "AWS::NoValue"}, True]}
    assert database["StorageEncrypted"] == from_snapshot and database["PubliclyAccessible"] is False
    assert database["KmsKeyId"]["Fn::If"][2] == {"Fn::GetAtt": ["Key", "Arn"]}
    # One that RDS made would change by itself, under processes that read it once.
    assert "ManageMasterUserPassword" not in database and "{{resolve:secretsmanager:" in str(
        database["MasterUserPassword"]
    )
    assert database["DeletionProtection"] is True
    (redis,) = of_type("data", "ElastiCache::ReplicationGroup").values()
    assert redis["TransitEncryptionEnabled"] is True and redis["AtRestEncryptionEnabled"] is True and redis["AuthToken"]
    for stack, name, queue in everywhere("SQS::Queue"):
        assert queue.get("SqsManagedSseEnabled") is True or queue.get("KmsMasterKeyId"), f"{stack}: {name}"
    for _, _, launch in everywhere("EC2::LaunchTemplate"):
        data = launch["LaunchTemplateData"]
        assert all(one["Ebs"]["Encrypted"] is True for one in data["BlockDeviceMappings"])
        assert data["MetadataOptions"]["HttpTokens"] == "required"
        assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    for stack, name, secret in everywhere("SecretsManager::Secret"):
        assert secret["KmsKeyId"] and "SecretString" not in secret, f"{stack}: {name}"


def test_what_is_kept_outlives_its_stack() -> None:
    resources = templates.read("data").resources
    policies = {name: one.get("DeletionPolicy") for name, one in resources.items()}
    assert policies["Database"] == "Snapshot"
    for name in ("Key", "Recordings", "AppSecret"):
        # Not Retain, by which a first try that failed would leave them, too.
        assert policies[name] == "RetainExceptOnCreate", name
        # What is kept must not be in the way of the next installation of that name.
        kept = resources[name]["Properties"]
        assert not {"Name", "BucketName", "AliasName"} & kept.keys(), name


def test_database_can_be_made_anew_beside_the_old_one() -> None:
    """CloudFormation makes the new one first, and replaces nothing whose name would be the same."""
    data = templates.read("data")
    name = {"Fn::If": ["IsFirstDatabase", {"Ref": "Name"}, {"Fn::Sub": "${Name}-${DatabaseGeneration}"}]}
    assert data.resources["Database"]["Properties"]["DBInstanceIdentifier"] == name
    assert data.resources["Database"]["UpdateReplacePolicy"] == "Retain"
    assert data.outputs["DatabaseIdentifier"]["Value"] == {"Ref": "Database"}
    assert "DBInstanceIdentifier, Value: !Ref Name" not in templates.read("watch").text


def test_gateways_of_before_can_still_be_ordered() -> None:
    """Between the stack gateways and the stack app workers order by the old revision, and after going back, too."""
    for name, one in templates.read("gateways").resources.items():
        if one["Type"] == "AWS::ECS::TaskDefinition":
            assert one.get("UpdateReplacePolicy") == "Retain", name


def test_bucket_of_recordings_is_nobodys_but_over_tls() -> None:
    (bucket,) = of_type("data", "S3::Bucket").values()
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (policy,) = of_type("data", "S3::BucketPolicy").values()
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


# --- who may talk to whom ---------------------------------------------------------------------------------------------


def _rules(kind: str, group: str) -> set[tuple[str, str, str]]:
    """Protocol, ports and the other side of each rule of a group that stands apart from it."""
    found = set()
    for rule in of_type("network", f"EC2::SecurityGroup{kind}").values():
        if rule["GroupId"] == {"Ref": group}:
            sides = ("SourceSecurityGroupId", "DestinationSecurityGroupId", "CidrIp")
            (other,) = (rule[side] for side in sides if side in rule)
            ports = {str(rule[end]["Ref"]) if isinstance(rule[end], dict) else str(rule[end])
                     for end in ("FromPort", "ToPort")}  # fmt: skip
            found.add((rule["IpProtocol"], "-".join(sorted(ports)), str(other["Ref"])))
    return found


def test_gateways_are_reached_by_the_app_alone_and_reach_the_vpn_alone() -> None:
    app, worker, vpn = "AppSecurityGroup", "WorkerSecurityGroup", "VpnSecurityGroup"
    group = of_type("network", "EC2::SecurityGroup")["GatewaySecurityGroup"]
    assert "SecurityGroupIngress" not in group
    assert [rule["CidrIp"] for rule in group["SecurityGroupEgress"]] == ["127.0.0.1/32"]
    assert _rules("Ingress", "GatewaySecurityGroup") == {("tcp", "4822", app), ("tcp", "4823", worker)}
    assert _rules("Egress", "GatewaySecurityGroup") == {
        ("udp", "1194", vpn),
        ("tcp", "RdpPortFirst-RdpPortLast", "VpnNetwork"),
    }


def test_worker_alone_comes_to_a_gateways_door() -> None:
    """Whoever is there first gives it the one profile that it takes (docs/decisions/0009)."""
    assert _rules("Egress", "WorkerSecurityGroup") == {("tcp", "4823", "GatewaySecurityGroup")}
    wear = {stack: text.count("!Ref WorkerSecurityGroup") for stack in stacks.STACKS
            if "WorkerSecurityGroup" in (text := templates.read(stack).text)}  # fmt: skip
    worker = of_type("app", "ECS::Service")["WorkerService"]["NetworkConfiguration"]["AwsvpcConfiguration"]
    assert worker["SecurityGroups"] == [{"Ref": "AppSecurityGroup"}, {"Ref": "WorkerSecurityGroup"}]
    assert wear.keys() == {"network", "app"} and wear["app"] == 1


def test_database_and_redis_are_reached_by_the_app_and_the_vpns_server_alone() -> None:
    others = ("AppSecurityGroup", "VpnSecurityGroup")
    assert _rules("Ingress", "DataSecurityGroup") == {("tcp", port, one) for port in ("5432", "6379") for one in others}


def test_machines_face_is_in_no_rule_and_behind_no_load_balancer() -> None:
    for kind in ("Ingress", "Egress"):
        for rule in of_type("network", f"EC2::SecurityGroup{kind}").values():
            first, last = rule["FromPort"], rule["ToPort"]
            assert isinstance(first, dict) or not int(first) <= 8001 <= int(last)
    for _, _, group in everywhere("EC2::SecurityGroup"):
        for rule in group.get("SecurityGroupIngress", []):
            assert not int(rule["FromPort"]) <= 8001 <= int(rule["ToPort"])
    assert not [name for _, name, target in everywhere("ElasticLoadBalancingV2::TargetGroup") if target["Port"] == 8001]


def test_every_rule_has_its_other_end() -> None:
    """A packet that may leave one group must be let into the other, and the reverse."""

    def pairs(kind: str, here: str, there: str) -> set[tuple[str, str, str, str]]:
        return {
            (rule[here]["Ref"], rule[there]["Ref"], rule["IpProtocol"], str(rule["FromPort"]))
            for rule in of_type("network", f"EC2::SecurityGroup{kind}").values()
            if there in rule
        }

    leaves = pairs("Egress", "GroupId", "DestinationSecurityGroupId")
    enters = pairs("Ingress", "SourceSecurityGroupId", "GroupId")
    # In routed mode what leaves is for machines' addresses, and enters the VPN's server to be passed on.
    assert {one for one in enters if one[3] != "{'Ref': 'RdpPortFirst'}"} == leaves


# --- the portal's load balancer ---------------------------------------------------------------------------------------


def test_nothing_is_cut_on_the_way_that_pings() -> None:
    declared = templates.read("app").parameters["IdleTimeoutS"]
    assert declared["MinValue"] > max(2 * PING_S, LONG_POLL_S)
    assert declared["Default"] < declared["MaxValue"] <= ACCELERATOR_S
    serve = (FOLDER / "portal" / "management" / "commands" / "serve.py").read_text()
    assert f"ws_ping_interval={PING_S}" in serve


def test_browsers_come_over_tls_and_odd_headers_do_not() -> None:
    listeners = {one["Port"]: one for one in of_type("app", "ElasticLoadBalancingV2::Listener").values()}
    assert listeners[80]["DefaultActions"][0]["Type"] == "redirect"
    assert listeners[443]["SslPolicy"].startswith("ELBSecurityPolicy-TLS13")
    (balancer,) = of_type("app", "ElasticLoadBalancingV2::LoadBalancer").values()
    found = attributes(balancer["LoadBalancerAttributes"])
    assert found["routing.http.drop_invalid_header_fields.enabled"] == "true"
    assert found["routing.http.xff_header_processing.mode"] == "append"


def test_database_that_is_away_gets_no_portal_and_no_machines_face_replaced() -> None:
    """F10: their replacements would have no database, either, and machines' long questions would end in nothing."""
    (targets,) = of_type("app", "ElasticLoadBalancingV2::TargetGroup").values()
    assert targets["HealthCheckPath"] == "/healthz?alive"  # tests/portal/test_health.py: asks no database
    commands = {container["Name"]: container["HealthCheck"]["Command"] for stack, _, container in containers()
                if stack in {"app", "private-api"}}  # fmt: skip
    healthy = "backbone/images/portal/healthy.py"
    assert commands["web"] == ["CMD", "python", healthy, "serving", "http://127.0.0.1:8000/healthz"]
    assert commands["machines"] == ["CMD", "python", healthy, "machines"]
    # Somebody hears of it all the same: the log of whom `serving` asks how it is.
    lines = of_type("watch", "Logs::MetricFilter")["DatabaseAwayLines"]
    assert "The database does not answer" in lines["FilterPattern"] and lines["LogGroupName"] == {"Ref": "AppLogGroup"}


# --- what runs --------------------------------------------------------------------------------------------------------


def test_gateways_have_no_role_no_secret_and_end_soon() -> None:
    for task in of_type("gateways", "ECS::TaskDefinition").values():
        assert "TaskRoleArn" not in task
        for container in task["ContainerDefinitions"]:
            assert "Secrets" not in container and container["StopTimeout"] <= 5
            assert container["Name"] == "openvpn" or container["User"] == "1000:1000"


def test_gateways_computers_give_tasks_no_role_and_a_tun_device() -> None:
    (launch,) = of_type("gateways", "EC2::LaunchTemplate").values()
    script = launch["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"]
    for needed in ("modprobe tun", "ECS_AWSVPC_BLOCK_IMDS=true", "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached"):
        assert needed in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=60)
    (provider,) = of_type("gateways", "ECS::CapacityProvider").values()
    group = provider["AutoScalingGroupProvider"]
    assert (group["ManagedScaling"]["Status"], group["ManagedTerminationProtection"]) == ("ENABLED", "ENABLED")


def test_gateway_that_was_taken_over_starves_no_other() -> None:
    """T5: guacd parses whatever a machine sends. Its processes, memory and processors are its own."""
    (launch,) = of_type("gateways", "EC2::LaunchTemplate").values()
    script = launch["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert "\nECS_TASK_PIDS_LIMIT=256\n" in script
    for task in of_type("gateways", "ECS::TaskDefinition").values():
        assert all(container["Memory"] <= 1024 for container in task["ContainerDefinitions"])
        # All are placed by it, too: a c6i.large has 2048, and interfaces for ten.
        assert sum(container["Cpu"] for container in task["ContainerDefinitions"]) == 128


def test_services_of_one_image_have_one_environment() -> None:
    def told(name: str) -> tuple[dict[str, Any], Any]:
        container = of_type("app", "ECS::TaskDefinition")[name]["ContainerDefinitions"][0]
        return {one["Name"]: one["Value"] for one in container["Environment"]}, container["Secrets"]

    web, worker, keeper = told("WebTask"), told("WorkerTask"), told("KeeperTask")
    assert worker == keeper and web[1] == worker[1]
    assert web[0] == worker[0] | {name: web[0][name] for name in ("PUBLIC_BIND", "TRUSTED_PROXIES")}


_PARAMETERS = {
    "Name": "portafilter", "AWS::Region": "eu-west-1", "VpcCidr": "10.60.0.0/16", "DatabaseHost": "db.example.com",
    "DatabaseName": "portafilter", "RedisHost": "redis.example.com", "VpnPrivateAddress": "10.60.1.4",
    "ClusterName": "portafilter", "GatewayTaskFamily": "portafilter-gateway",
    "GatewayTaskDefinitionArn": "arn:aws:ecs:eu-west-1:123456789012:task-definition/portafilter-gateway:7",
    "GatewaySubnets": "subnet-0a1b2c3d4e5f60718,subnet-0a1b2c3d4e5f60719",
    "GatewaySecurityGroup": "sg-0a1b2c3d4e5f60718", "GatewayCapacityProvider": "portafilter-gateway",
    "EventsQueueUrl": "https://sqs.eu-west-1.amazonaws.com/123456789012/portafilter-gateway-events",
    "PressTopicArn": "arn:aws:sns:eu-west-1:123456789012:portafilter-presses",
    "PortalOrigin": "https://portal.example.com", "VpnHostName": "vpn.example.com",
    "CloudFrontNetworks": "120.52.22.96/27,205.251.249.0/24",
}  # fmt: skip
# What a choice needs besides; every condition of the stack is once met and once not.
_CHOICES: dict[str, dict[str, str]] = {
    "as it is": {},
    "everything else": {
        "NotifyVia": "direct", "Sms": "sns", "Email": "yes", "Telemetry": "http", "PortalWay": "accelerator",
        "TelemetryUrl": "https://telemetry.example.com/x", "GatewayNetwork": "routed", "WarmGateways": "auto",
    },
    "IoT Core, no accelerator": {"Telemetry": "iot_core", "Accelerator": "no"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "choice"),
    [("WebTask", choice) for choice in _CHOICES] + [("WorkerTask", "as it is"), ("migrate", "as it is")],
)
def test_settings_take_the_environment_of_each_task(task: str, choice: str, tmp_path: Path) -> None:
    stack = "migrate" if task == "migrate" else "app"
    template = templates.read(stack)
    (container,) = (template.resources["MigrateTask" if task == "migrate" else task]["Properties"])[
        "ContainerDefinitions"
    ]
    values = {name: str(one["Default"]) for name, one in template.parameters.items() if "Default" in one}
    resolve = Resolver(template, {**values, **_PARAMETERS, **_CHOICES[choice]})
    environment = {one["Name"]: str(resolve(one["Value"])) for one in container["Environment"]}
    secrets = {
        "SECRET_KEY": "x" * 50, "CREDENTIAL_KEYS": Fernet.generate_key().decode(), "DATABASE_PASSWORD": "p/w",
        "DATABASE_APP_PASSWORD": "p/w", "VAPID_PRIVATE_KEY": app_secrets._make("VAPID_PRIVATE_KEY"),
        "REDIS_PASSWORD": "p/w", "TELEMETRY_KEY": "k" * 40, "NOTIFY_EMAIL_URL": "smtps://u:p@mail.example.com",
    }  # fmt: skip
    given = [one["Name"] for one in (resolve(one) for one in container["Secrets"]) if one is not None]
    told = {name: secrets[name] for name in given}
    done = subprocess.run(
        [sys.executable, str(FOLDER / "manage.py"), "check", *(["--tag", "models"] if task == "migrate" else [])],
        env={"PATH": os.environ["PATH"], "STATE_DIR": str(tmp_path), **environment, **told},
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


class Resolver:
    """Works a template's functions out, as far as environments need them; conditions by their parameters."""

    def __init__(self, template: templates.Template, values: dict[str, str]) -> None:
        self.conditions = template.content.get("Conditions") or {}
        self.values = values

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict) or len(value) != 1:
            return value
        ((function, argument),) = value.items()
        if function == "Ref":
            return None if argument == "AWS::NoValue" else self.values[argument]
        if function == "Fn::Sub":
            return re.sub(r"\$\{([\w:]+)\}", lambda found: self.values.get(found[1], found[1]), argument)
        if function == "Fn::If":
            return self(argument[1] if self.condition(argument[0]) else argument[2])
        if function == "Fn::Join":
            items = self(argument[1])
            items = items.split(",") if isinstance(items, str) else [self(one) for one in items]
            return argument[0].join(items)
        raise AssertionError(f"found {function}")

    def condition(self, name: str) -> bool:
        return self._holds(self.conditions[name])

    def _holds(self, condition: dict[str, Any]) -> bool:
        ((function, argument),) = condition.items()
        if function == "Fn::Equals":
            return str(self(argument[0])) == str(self(argument[1]))
        if function == "Fn::Not":
            return not self._holds(argument[0])
        raise AssertionError(f"found {function}")
