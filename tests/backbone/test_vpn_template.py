"""The VPN's server and the machines' face on AWS: what cfn-lint does not know of, and how far moto makes them."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from machines.vpn import networks, profile
from tests.backbone.containerfiles import FOLDER
from tests.backbone.templates import containers, environment, of_type, template

STACKS = ["vpn", "private-api"]
PARAMETERS = {
    "DatabaseHost": "db.example.com", "DatabaseName": "portafilter", "RedisHost": "redis.example.com",
    "PortalOrigin": "https://portal.example.com", "VpnHostName": "vpn.example.com",
}  # fmt: skip
# What a server has heard nothing of for so long is gone for OpenVPN; each side speaks three times as often.
(_, _PING_S, _GONE_S) = re.search(r"(keepalive) (\d+) (\d+)", Path(profile.__file__).read_text()).groups()  # type: ignore[union-attr]
# AWS' own, which cannot be set: Global Accelerator's, and a network load balancer's for UDP.
ACCELERATOR_TCP_S, ACCELERATOR_UDP_S, BALANCER_UDP_S = 340, 30, 120


def _attributes(given: list[dict[str, str]]) -> dict[str, str]:
    return {one["Key"]: one["Value"] for one in given}


# --- the way in -------------------------------------------------------------------------------------------------------


def test_udp_is_behind_a_network_load_balancer_with_a_security_group() -> None:
    (balancer,) = of_type("vpn", "ElasticLoadBalancingV2::LoadBalancer").values()
    assert balancer["Type"] == "network" and balancer["Scheme"] == "internet-facing"
    assert balancer["SecurityGroups"] == [{"Ref": "VpnLoadBalancerSecurityGroup"}]
    # The server is in one zone, the balancer's addresses in all of them.
    assert _attributes(balancer["LoadBalancerAttributes"])["load_balancing.cross_zone.enabled"] == "true"
    listeners = of_type("vpn", "ElasticLoadBalancingV2::Listener").values()
    assert sorted((one["Protocol"], one["Port"]) for one in listeners) == [("TCP", 443), ("UDP", 1194)]


def test_machines_keep_their_addresses_on_the_way_to_openvpn() -> None:
    groups = of_type("vpn", "ElasticLoadBalancingV2::TargetGroup").values()
    assert {one["Protocol"] for one in groups} == {"TCP", "UDP"}
    for one in groups:
        assert one["TargetType"] == "instance"
        assert _attributes(one["TargetGroupAttributes"])["preserve_client_ip.enabled"] == "true"


def test_quiet_tunnels_are_not_cut_on_the_way() -> None:
    assert min(ACCELERATOR_TCP_S, ACCELERATOR_UDP_S, BALANCER_UDP_S) > 3 * int(_PING_S)
    (tcp,) = [one for one in of_type("vpn", "ElasticLoadBalancingV2::Listener").values() if one["Protocol"] == "TCP"]
    idle_s = int(_attributes(tcp["ListenerAttributes"])["tcp.idle_timeout.seconds"])
    assert 60 <= idle_s <= 6000 and idle_s > ACCELERATOR_TCP_S > int(_GONE_S)


def test_balancer_asks_the_agent_and_leaves_tunnels_alone_while_it_is_away() -> None:
    settings = environment(dict(_containers("vpn"))["authorise"], "vpn", **PARAMETERS)
    port = settings["VPN_HEALTH_BIND"].rpartition(":")[2]
    for one in of_type("vpn", "ElasticLoadBalancingV2::TargetGroup").values():
        found = one["HealthCheckProtocol"], one["HealthCheckPort"], one["HealthCheckPath"], one["Matcher"]
        # Each way in is asked for by itself, so that one which is away takes no machine from the other.
        over_tcp = {"Fn::If": ["HasTcp", "/healthz/tcp", "/healthz"]}
        path = over_tcp if one["Protocol"] == "TCP" else "/healthz"
        assert found == ("HTTP", port, path, {"HttpCode": "200"})
        assert one["HealthCheckTimeoutSeconds"] < one["HealthCheckIntervalSeconds"]
        if one["Protocol"] == "TCP":
            attributes = _attributes(one["TargetGroupAttributes"])
            assert attributes["target_health_state.unhealthy.connection_termination.enabled"] == "false"


def test_second_openvpn_is_the_one_that_the_agent_and_the_profiles_mean() -> None:
    (listener,) = [one for one in of_type("vpn", "ElasticLoadBalancingV2::Listener").values() if one["Port"] == 443]
    assert listener["Protocol"] == "TCP"
    task = dict(_containers("vpn"))["openvpn-tcp"]
    assert task["Command"] == [profile.TCP_SERVER_FILE]
    assert task["HealthCheck"]["Command"][-1] == f"/sys/class/net/{networks.tcp_device('tun-pf')}"
    for stack in ("vpn", "private-api", "app"):
        found = [
            {one["Name"]: one["Value"] for one in container.get("Environment", [])}
            for _, _, container in containers(stack)
        ]
        ports = [one["VPN_TCP_PORT"] for one in found if "VPN_REMOTE" in one]
        assert ports and all(one == {"Fn::If": ["HasTcp", str(listener["Port"]), ""]} for one in ports), stack


# --- the machines' face -----------------------------------------------------------------------------------------------


def test_machines_face_has_no_balancer_and_no_port_that_is_open() -> None:
    assert not [one for one in template("private-api")["Resources"].values() if "ElasticLoadBalancing" in one["Type"]]
    for service in of_type("private-api", "ECS::Service").values():
        assert "LoadBalancers" not in service
    for kind in ("Ingress", "Egress"):
        for name, rule in of_type("network", f"EC2::SecurityGroup{kind}").items():
            assert not _opens(rule, 8001), name
    for name, group in of_type("network", "EC2::SecurityGroup").items():
        for rule in group.get("SecurityGroupIngress", []):
            assert not _opens(rule, 8001), name


def test_machines_face_serves_machines_alone_at_the_vpns_address_alone() -> None:
    ((_, container),) = _containers("private-api")
    assert container["Command"] == ["serve", "--machine-api-only"]
    given = environment(container, "private-api", **PARAMETERS)
    # Neither a bind of its own, nor a proxy that is believed: with openvpn it is the server's address there.
    assert given["VPN"] == "openvpn" and not {"MACHINE_API_BIND", "PUBLIC_BIND", "TRUSTED_PROXIES"} & given.keys()
    assert container["User"] == "10001:10001"


def _opens(rule: dict[str, Any], port: int) -> bool:
    first, last = rule.get("FromPort", 0), rule.get("ToPort", 65535)
    if isinstance(first, dict):  # the machines' desktops, of gateways alone
        return first["Ref"] not in {"RdpPortFirst"}
    return rule.get("CidrIp") != "127.0.0.1/32" and int(first) <= port <= int(last)


# --- containers -------------------------------------------------------------------------------------------------------


def _containers(stack: str) -> list[tuple[str, dict[str, Any]]]:
    return [(container["Name"] if name != "OpenvpnTcpTask" else "openvpn-tcp", container)
            for name, _, container in containers(stack)]  # fmt: skip


@pytest.mark.parametrize("stack", STACKS)
def test_containers_can_do_what_they_must_and_nothing_else(stack: str) -> None:
    wanted = {
        "authorise": ["NET_ADMIN"], "openvpn": ["NET_ADMIN"], "openvpn-tcp": ["NET_ADMIN", "NET_BIND_SERVICE"],
        "machines": [],
    }  # fmt: skip
    for name, container in _containers(stack):
        linux = container["LinuxParameters"]
        assert linux["Capabilities"]["Drop"] == ["ALL"]
        assert linux["Capabilities"].get("Add", []) == wanted[name], name
        assert container["ReadonlyRootFilesystem"] is True and not container.get("Privileged")
        devices = [one["HostPath"] for one in linux.get("Devices", [])]
        assert devices == (["/dev/net/tun"] if name.startswith("openvpn") else []), name
        assert container["HealthCheck"]["Command"][0] == "CMD" and container["StopTimeout"] <= 120
        assert container["LogConfiguration"]["LogDriver"] == "awslogs"


@pytest.mark.parametrize("stack", STACKS)
def test_what_needs_a_capability_is_never_on_fargate(stack: str) -> None:
    for task in of_type(stack, "ECS::TaskDefinition").values():
        assert task["RequiresCompatibilities"] == ["EC2"] and task["NetworkMode"] == "host"
    for service in of_type(stack, "ECS::Service").values():
        assert service["LaunchType"] == "EC2"
        # Each has one port and one device: never two of it, and on the VPN's computer alone.
        deployment = service["DeploymentConfiguration"]
        assert (service["DesiredCount"], deployment["MinimumHealthyPercent"], deployment["MaximumPercent"]) == (
            1,
            0,
            100,
        )
        (place,) = service["PlacementConstraints"]
        # AWS says which computer that is; an attribute is what a computer says of itself.
        computer = {"vpn": "VpnInstance", "private-api": "VpnInstanceId"}[stack]
        assert place == {"Type": "memberOf", "Expression": {"Fn::Sub": f"ec2InstanceId == ${{{computer}}}"}}


@pytest.mark.parametrize("stack", STACKS)
def test_no_container_has_a_role_or_a_secret_in_its_environment(stack: str) -> None:
    settings = (FOLDER / "docs" / "settings.md").read_text()
    secret = set(re.findall(r"^\| `([A-Z_]+)` \| [^|]*\*secret\*", settings, re.MULTILINE))
    for _, task, container in containers(stack):
        assert "TaskRoleArn" not in task
        names = {one["Name"] for one in container.get("Environment", [])}
        assert not names & (secret | {"DATABASE_PASSWORD", "REDIS_PASSWORD"})
        assert "@" not in environment(container, stack, **PARAMETERS).get("DATABASE_URL", "").partition("@")[2]
        assert not re.search(r"//[^/@]*:[^/@]*@", environment(container, stack, **PARAMETERS).get("DATABASE_URL", ""))
        if container["Name"] == "openvpn":
            assert "Secrets" not in container and "Environment" not in container


@pytest.mark.parametrize("stack", STACKS)
def test_settings_take_the_environment_of_each_task(stack: str, tmp_path: Path) -> None:
    found = [environment(container, stack, **PARAMETERS) for _, container in _containers(stack)]
    with_settings = [one for one in found if one]
    assert len(with_settings) == 1
    for values in with_settings:
        secrets = {"SECRET_KEY": "x" * 50, "CREDENTIAL_KEYS": Fernet.generate_key().decode()}
        # The certificate file is in the image alone; libpq looks for it when it connects, which nothing does here.
        done = subprocess.run(
            [sys.executable, str(FOLDER / "manage.py"), "check"],
            env={"PATH": "/usr/bin:/bin", "STATE_DIR": str(tmp_path), **values, **secrets},
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_openvpn_over_tcp_has_memory_for_as_many_as_it_lets_in() -> None:
    """Whoever connects and says nothing takes a place and memory, and would end everybody's tunnels over TCP."""
    a_connection_mib = 0.18  # measured at OpenVPN's process, idle ones
    network = ipaddress.IPv4Network("10.77.0.0/20")
    places = profile.ServerConfig(Path("/"), network, "tun-pf-tcp", 443, "tcp").max_clients
    tcp = dict(_containers("vpn"))["openvpn-tcp"]
    assert tcp["Memory"] >= 1.2 * places * a_connection_mib


# --- the computer -----------------------------------------------------------------------------------------------------


def test_vpns_computer_is_closed_where_it_can_be() -> None:
    (computer,) = of_type("vpn", "EC2::Instance").values()
    assert computer["SourceDestCheck"] == {"Fn::If": ["IsRouted", False, True]}
    assert computer["SecurityGroupIds"] == [{"Ref": "VpnSecurityGroup"}]
    assert "KeyName" not in computer
    ((_, launch),) = of_type("vpn", "EC2::LaunchTemplate").items()
    data = launch["LaunchTemplateData"]
    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert all(one["Ebs"]["Encrypted"] is True for one in data["BlockDeviceMappings"])
    # AWS' own policy for a shell over SSM would also read every parameter of the account.
    (role,) = [one for name, one in of_type("vpn", "IAM::Role").items() if name == "InstanceRole"]
    assert "ManagedPolicyArns" not in role and "ssm:GetParameter" not in str(role)


def test_what_the_computer_starts_with_is_a_script_that_a_shell_takes() -> None:
    (launch,) = of_type("vpn", "EC2::LaunchTemplate").values()
    script = launch["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert script.startswith("#!/bin/bash\n")
    assert set(re.findall(r"\$\{(\w+)\}", script)) <= template("vpn")["Parameters"].keys()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=60)
    for needed in ("modprobe tun", "net.ipv4.ip_forward = 1", '{"portafilter.role":"vpn"}', "--uid-owner 0"):
        assert needed in script
    # The rule lets root through, as which OpenVPN and the agent run; a filter of their control group stops them, too.
    (denied,) = re.findall(r"cat > (\S+) <<'END'\n\[Slice\]\nIPAddressDeny=(\S+)\nEND\n", script)
    assert denied == ("/etc/systemd/system/ecstasks.slice.d/portafilter.conf", "169.254.169.254/32")
    assert script.index("IPAddressDeny") < script.index("systemctl daemon-reload")
    # Docker drops all that is passed on where it was the one to allow passing on. What goes in and out of the tunnels
    # is for the agent's firewall, which comes behind it.
    for way in ("-i", "-o"):
        assert f"/usr/sbin/iptables -w -I FORWARD {way} tun-pf+ -j ACCEPT" in script
    # Another generation is another script, and so another version of the launch template, and another computer.
    assert "${VpnGeneration}" in script


def test_broken_computer_comes_back_by_itself() -> None:
    actions = {name: one["AlarmActions"][0]["Fn::Sub"] for name, one in of_type("vpn", "CloudWatch::Alarm").items()}
    assert {name: one.rpartition(":")[2] for name, one in actions.items()} == {
        "HostIsBroken": "recover",
        "HostHangs": "reboot",
    }


def test_gateways_are_led_to_machines_in_routed_mode_alone() -> None:
    routes = {name: one for name, one in template("vpn")["Resources"].items() if one["Type"] == "AWS::EC2::Route"}
    assert len(routes) == 2
    for number, route in enumerate(routes.values()):
        assert route["Condition"] == "IsRouted"
        assert route["Properties"]["RouteTableId"] == {"Fn::Select": [number, {"Ref": "GatewayRouteTables"}]}
        assert route["Properties"]["InstanceId"] == {"Ref": "VpnInstance"}


@pytest.mark.parametrize("stack", STACKS)
def test_logs_end_some_day(stack: str) -> None:
    groups = of_type(stack, "Logs::LogGroup").values()
    assert groups and all(one["RetentionInDays"] == {"Ref": "LogDays"} for one in groups)
