"""The deploy tool against moto's server over real HTTP: the whole set, again, changed, failing, and taken down."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backbone import __main__ as console
from backbone import app_secrets, migration, parameters, reaching, running, stacks, teardown, templates
from backbone.cloud import Cloud, DeployError
from backbone.deploy import Deployment
from tests.backbone.moto_gaps import Report, close

REGION = "eu-west-1"
GIVEN = {
    "all": {
        "PortalHostName": "portal.example.com", "VpnHostName": "vpn.example.com", "HostedZoneId": "Z0123456789",
        "PortalImage": "portal:1", "GuacdImage": "guacd:1", "GatewayImage": "gateway:1", "VpnImage": "vpn:1",
    },
    "app": {"CloudFrontNetworks": "120.52.22.96/27,205.251.249.0/24"},
    "edge": {"PortalCertificateArn": "arn:aws:acm:us-east-1:123456789012:certificate/abc-1"},
}  # fmt: skip
README = stacks.FOLDER / "README.md"


class World:
    """moto's server, an installation in it, and what the tool said."""

    def __init__(self, url: str, report: Report) -> None:
        self.url, self.report = url, report
        self.lines: list[str] = []
        self.migrations: list[dict[str, str]] = []
        self.looked: list[str] = []  # for the portal, at these addresses
        self.cloud = Cloud(REGION, sleep=lambda seconds: None)
        self.deployment = Deployment(self.cloud, "portafilter", self.lines.append, poll_s=0)

    def look(self, origin: str) -> str:
        """The portal answers."""
        self.looked.append(origin)
        return ""

    def deploy(self, **changed: Any) -> list[str]:
        """What the tool said to deploying all, with other parameters of [all]."""
        self.lines.clear()
        told = parameters.Parameters("portafilter", {**GIVEN, "all": {**GIVEN["all"], **changed}})
        parameters.check(told)
        self.deployment.run(stacks.STEPS, told)
        return list(self.lines)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """With all stacks made, once."""
    from moto.core.models import DEFAULT_ACCOUNT_ID
    from moto.route53.models import route53_backends
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setattr(logging.getLogger("werkzeug"), "level", logging.CRITICAL)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
        server.start()
        host, port = server.get_host_and_port()
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        world = World(f"http://{host}:{port}", close(patch))
        # moto's tasks end without an exit status; tests/backbone/test_commands.py has tasks.
        patch.setattr(migration, "run", lambda cloud, outputs, say, **_: world.migrations.append(dict(outputs)))
        patch.setattr(reaching, "look", world.look)
        call = world.cloud.aws.call
        zone = call("route53", "CreateHostedZone", about="", setting="", Name="example.com", CallerReference="once")
        # AWS' begin with Z, moto's with anything.
        zones = route53_backends[DEFAULT_ACCOUNT_ID]["aws"].zones
        zones[GIVEN["all"]["HostedZoneId"]] = zones.pop(zone["HostedZone"]["Id"].rpartition("/")[2])
        certificate = call("acm", "RequestCertificate", about="", setting="", DomainName="portal.example.com")
        GIVEN["app"]["CertificateArn"] = certificate["CertificateArn"]
        try:
            world.deploy()
            world.first = list(world.lines)  # type: ignore[attr-defined]
            yield world
        finally:
            server.stop()


def test_whole_set_is_made_in_its_order(world: World) -> None:
    done = [line.partition(":")[0] for line in world.first if line.endswith(": done.")]  # type: ignore[attr-defined]
    assert done == [step.stack for step in stacks.STEPS]
    for stack in stacks.STACKS:
        there = world.deployment.describe(stack)
        assert there and there["StackStatus"] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}, stack
        assert {one["OutputKey"] for one in there.get("Outputs", [])} == set(templates.read(stack).outputs)


def test_database_is_brought_up_to_date_before_any_service_has_the_image(world: World) -> None:
    before = set(world.migrations[0])
    assert {"MigrateTaskDefinitionArn", "MigrateSubnets", "DatabaseSecretArn"} <= before
    assert not {"WebServiceName", "VpnInstanceId"} & before


def test_same_again_changes_nothing(world: World) -> None:
    secret = _secret(world)
    lines = world.deploy()
    assert [line for line in lines if not line.endswith(": unchanged.")] == ["data: the secrets are there."]
    assert _secret(world) == secret
    # Once, before SNS was to reach it; no portal that is away for a time keeps an installation from being changed.
    assert world.looked == ["https://portal.example.com"]


def test_subscription_of_an_installation_that_is_there_outlives_the_first_pass_over_notify(world: World) -> None:
    (first, *_) = [step for step in stacks.STEPS if step.stack == "notify"]
    world.deployment.run([first], parameters.Parameters("portafilter", GIVEN))
    told = {one["ParameterKey"]: one["ParameterValue"] for one in _there(world, "notify")["Parameters"]}
    assert told["PortalOrigin"] == "https://portal.example.com"


def test_one_parameter_changes_the_stacks_that_have_it(world: World) -> None:
    lines = world.deploy(VpnHostName="other.example.com")
    assert {line.partition(":")[0] for line in lines if line.endswith("changing it.")} == {
        stack for stack in stacks.STACKS if "VpnHostName" in templates.read(stack).parameters
    }
    world.deploy()


def test_dry_run_says_what_would_change_and_changes_nothing(world: World) -> None:
    before = {stack: _there(world, stack)["Parameters"] for stack in stacks.STACKS}
    world.lines.clear()
    told = parameters.Parameters("portafilter", {**GIVEN, "app": {**GIVEN["app"], "WebMin": "3"}})
    world.deployment.run(stacks.STEPS, told, dry=True)
    assert "network: unchanged." in world.lines
    assert {stack: _there(world, stack)["Parameters"] for stack in before} == before
    fresh = Deployment(world.cloud, "another", world.lines.append, poll_s=0)
    world.lines.clear()
    fresh.run(stacks.STEPS, parameters.Parameters("another", GIVEN), dry=True)
    assert world.lines[0].startswith("network: would be made")
    assert any(line.startswith("data: would be made as soon as those before it are there") for line in world.lines)
    assert fresh.describe("network") is None


def test_dry_run_looks_up_what_a_real_one_would(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: value for name, value in GIVEN["app"].items() if name != "CloudFrontNetworks"}
    networks = {"CloudFrontNetworks": GIVEN["app"]["CloudFrontNetworks"]}
    monkeypatch.setattr(world.deployment, "_cloudfront_networks", lambda stack, values: networks)
    world.lines.clear()
    told = parameters.Parameters("portafilter", {**GIVEN, "app": known})
    world.deployment.run([step for step in stacks.STEPS if step.stack == "app"], told, dry=True)
    assert world.lines == ["app: unchanged."]


def test_secrets_are_made_once_and_set_by_hand(world: World) -> None:
    arn = world.deployment.outputs()["AppSecretArn"]
    first = _secret(world)
    assert set(first) == set(app_secrets.MADE) and all(first.values())
    assert app_secrets.make_missing(world.cloud, arn) == []
    app_secrets.put(world.cloud, arn, "NOTIFY_EMAIL_URL", "smtp://mail.example.com")
    now = _secret(world)
    assert now == first | {"NOTIFY_EMAIL_URL": "smtp://mail.example.com"}
    with pytest.raises(app_secrets.SecretError, match="no such secret") as caught:
        app_secrets.put(world.cloud, arn, "SECRETKEY", "canary")
    assert "canary" not in str(caught.value)


def test_status_names_every_stack_and_service(world: World) -> None:
    lines = running.status(world.deployment)
    assert [line.split()[0] for line in lines[: len(stacks.STACKS)]] == list(stacks.STACKS)
    assert any(line.startswith("portafilter-web:") for line in lines)
    anew = set(running.restart(world.deployment))
    assert {"portafilter-web", "portafilter-worker", "portafilter-keeper", "portafilter-authorise"} <= anew
    # Machines would fall out of the VPN for nothing: OpenVPN itself reads no secret.
    assert "portafilter-openvpn-udp" in {line.partition(":")[0] for line in lines} - anew


def test_data_is_protected_from_being_deleted_by_mistake(world: World) -> None:
    assert world.report.protected == {"portafilter-data"}


def test_readme_says_what_of_this_moto_does_not_make(world: World) -> None:
    report = world.report
    known = report.failed.keys() - report.unknown
    block = "\n".join(
        [
            *(f"- `{kind}`: moto does not know it." for kind in sorted(report.unknown)),
            *(f"- `{kind}`: moto knows it and fails at it." for kind in sorted(known) if "(changed)" not in kind),
        ]
    )
    assert block in README.read_text(), f"{README} should have:\n{block}"
    assert len(report.made - report.unknown) >= 25


def test_first_real_reason_is_told_with_its_stack(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def event(resource: str, status: str, reason: str) -> dict[str, Any]:
        return {"LogicalResourceId": resource, "ResourceType": "AWS::X", "ResourceStatus": status,
                "ResourceStatusReason": reason, "EventId": resource}  # fmt: skip

    events = [
        event("Vpc", "CREATE_COMPLETE", ""),
        event("Route", "CREATE_FAILED", "Resource creation cancelled"),
        event("NatA", "CREATE_FAILED", "The maximum number of addresses has been reached."),
        event("Later", "CREATE_FAILED", "Something else"),
    ]
    monkeypatch.setattr(world.deployment, "_events", lambda name, since: events)
    monkeypatch.setattr(world.deployment, "_wait", lambda *_, **__: {"StackStatus": "ROLLBACK_COMPLETE"})
    with pytest.raises(DeployError) as caught:
        world.deploy(VpcCidr="10.61.0.0/16")
    words = str(caught.value)
    assert words.startswith("network: ROLLBACK_COMPLETE.")
    assert "NatA (AWS::X): The maximum number of addresses has been reached." in words


def test_group_that_global_accelerator_leaves_is_not_in_the_networks_way(world: World) -> None:
    call, vpc = world.cloud.aws.call, world.deployment.outputs()["VpcId"]
    about = {"about": "", "setting": ""}
    call("ec2", "CreateSecurityGroup", **about, GroupName="GlobalAccelerator", Description="AWS'", VpcId=vpc)
    teardown._remove_accelerators_group(world.deployment, vpc)
    left = [{"Name": "group-name", "Values": ["GlobalAccelerator"]}]
    assert call("ec2", "DescribeSecurityGroups", **about, Filters=left)["SecurityGroups"] == []
    teardown._remove_accelerators_group(world.deployment, vpc)
    assert [one for one in call("ec2", "DescribeSecurityGroups", **about)["SecurityGroups"] if one["VpcId"] == vpc]


def test_what_is_taken_down_and_what_is_kept_is_said(world: World) -> None:
    """The last of the file: nothing is left for another."""
    world.lines.clear()
    teardown.destroy(world.deployment, data=False)
    assert world.lines[-1] == teardown.KEPT_DATA_WORDS
    assert [stack for stack in stacks.STACKS if world.deployment.describe(stack)] == ["network", "data"]


def _there(world: World, stack: str) -> dict[str, Any]:
    there = world.deployment.describe(stack)
    assert there is not None
    return there


def _secret(world: World) -> dict[str, str]:
    arn = world.deployment.outputs()["AppSecretArn"]
    answer = world.cloud.aws.call("secretsmanager", "GetSecretValue", about="", setting="", SecretId=arn)
    found: dict[str, str] = json.loads(answer["SecretString"])
    return found


# --- parameters, before AWS is asked for anything ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[all]\nPortalHostname = "x.example.com"', r"\[all\] PortalHostname: no template has it."),
        ("[portal]\nWebMin = 3", r"\[portal\]: there is no such stack, expected all or one of network, data"),
        ("[app]\nWebMin = 0", "WebMin: found 0, expected 1 to 50."),
        ('[network]\nVpcCidr = "10.60.0.0/18"', "VpcCidr: found '10.60.0.0/18', expected The network"),
        ('[app]\nSms = "twilio"', "Sms: found 'twilio', expected one of none, sns."),
        ('[all]\nVpnHostName = "vpn example"', "VpnHostName: found 'vpn example', expected The name that machines"),
        ("", "PortalImage: not given, and app needs it: The image of backbone/images/portal"),
        ("", "With GatewayNetwork=tunnel GatewayImage is needed."),
        ("", "Without a CertificateArn one is made, and HostedZoneId is needed for that."),
        ("WebMin = 3", "found WebMin outside a table"),
        ("[app", "found no TOML"),
        ("[app]\nWebMin = 1.5", r"\[app\] WebMin: found 1.5, expected a text, a whole number"),
    ],
)
def test_parameters_that_cannot_be_meant_are_told_at_once(tmp_path: Path, toml: str, message: str) -> None:
    file = tmp_path / "aws.toml"
    file.write_text(toml)
    with pytest.raises(parameters.ParameterError) as caught:
        parameters.check(parameters.read(file, "portafilter"))
    assert re.search(message, str(caught.value))


def test_rule_of_a_template_holds_for_what_it_is_about_alone() -> None:
    routed = {**GIVEN, "all": {**GIVEN["all"], "GatewayNetwork": "routed"}}
    del routed["all"]["GatewayImage"]
    parameters.check(parameters.Parameters("portafilter", routed))


def test_until_data_needs_nothing_but_a_region() -> None:
    last = [step.stack for step in stacks.STEPS].index("data")
    parameters.check(parameters.read(None, "portafilter"), stacks.STEPS[: last + 1])


def test_region_may_be_where_the_aws_command_looks_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_REGION", "sa-east-1")
    assert console._parser().parse_args(["status"]).region == "sa-east-1"
    assert console._parser().parse_args(["status", "--region", REGION]).region == REGION
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(SystemExit):
        console.main(["status"])
    assert "--region" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "may"), [([], False), (["--turn-dials-back"], True)])
def test_dials_are_turned_back_only_by_whoever_says_so(
    options: list[str], may: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Deployment] = []
    monkeypatch.setattr(Deployment, "run", lambda self, *_, **__: ran.append(self))
    monkeypatch.setattr(parameters, "check", lambda *_: None)
    assert console.main(["deploy", "--region", REGION, "--only", "edge", *options]) == 0
    assert [one.may_turn_dials_back for one in ran] == [may]


def test_every_template_fits_into_one_call() -> None:
    assert {path.stem for path in stacks.FOLDER.glob("*.yaml")} == set(stacks.STACKS)
    for stack in stacks.STACKS:
        assert len(templates.read(stack).text.encode()) <= templates.SIZE_LIMIT, stack


def test_what_a_stack_takes_from_others_comes_before_it() -> None:
    seen: set[str] = set()
    for step in stacks.STEPS:
        for name, declared in templates.read(step.stack).parameters.items():
            from_later = {
                other.stack for other in stacks.STEPS if name in templates.read(other.stack).outputs
            } and name not in seen
            given = name in {"VpnHostName", "PortalHostName", "PortalOrigin"} or name in step.withheld
            assert not from_later or given or "Default" in declared, f"{step.stack} takes {name} from a later stack"
        seen |= set(templates.read(step.stack).outputs)
