"""Whether a gateway could start on ECS: its cluster and computers, its task definition, its network."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings

from machines.aws import AwsError
from portal.doctor.cloud import Cloud, uses_ecs
from portal.doctor.findings import Check, Finding, attention, ok, wrong
from portal.doctor.gateway_events import events
from sessions.gateways import door, probe

_GUACD_PORT = 4822
_NEEDED_GUACD = (1, 6)
_FEW_ADDRESSES = 8
# Nobody comes from these over the Internet (RFC 1918, 6598, 4193).
_PRIVATE = [
    ipaddress.ip_network(network)
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
]
_EVERYBODY = {"0.0.0.0/0", "::/0"}
_VPN_ROLE = ("portafilter.role", "vpn")
_SECRET_NAME = re.compile(r"SECRET|PASSWORD|PRIVATE|TOKEN|CREDENTIAL|_KEY\b|_KEYS\b")


def checks(cloud: Cloud | None) -> list[Check]:
    if settings.GATEWAY == "fixed":
        return [Check("gateways", fixed)]
    if cloud is None or not uses_ecs():
        return []
    found = [
        cloud.check("cluster", cluster),
        cloud.check("task definition", task_definition),
        cloud.check("subnets", subnets),
        cloud.check("security groups", security_groups),
    ]
    return [*found, cloud.check("events", events)] if settings.ECS_EVENTS_QUEUE else found


def fixed() -> Iterator[Finding]:
    """Whether guacd is at each of GATEWAY_FIXED_HOSTS."""
    for place in settings.GATEWAY_FIXED_HOSTS:
        host, _, port = place.partition(":")
        try:
            probe.answers(host, int(port or _GUACD_PORT), timeout_s=3)
            yield ok(f"guacd answers at {place}.")
        except (OSError, ValueError, probe.NotGuacd) as error:
            yield wrong(
                f"GATEWAY_FIXED_HOSTS: guacd does not answer at {place} ({type(error).__name__}). Start it there."
            )


# --- where tasks run --------------------------------------------------------------------------------------------------


def cluster(cloud: Cloud) -> Iterator[Finding]:
    """ACTIVE, with computers whose agents are connected, and with the capacity provider."""
    name, about = settings.ECS_CLUSTER, f"the cluster {settings.ECS_CLUSTER}"
    answer = cloud.aws.call("ecs", "DescribeClusters", about=about, setting="ECS_CLUSTER", clusters=[name])
    found = next(iter(answer.get("clusters") or []), None)
    where = f"in {cloud.aws.region} (AWS_REGION)"
    if found is None:
        yield wrong(f"ecs:DescribeClusters: ECS_CLUSTER names what is not there {where}: {about}.")
        return
    if found.get("status") != "ACTIVE":
        yield wrong(
            f"ECS_CLUSTER: {about} {where} is {found.get('status')}, expected ACTIVE. Deploy the gateways' stack."
        )
        return
    yield ok(f"The cluster {name} is ACTIVE; {int(found.get('runningTasksCount') or 0)} tasks run.")
    yield from _capacity_provider(cloud, found)
    yield from _computers(cloud)


def _capacity_provider(cloud: Cloud, found: Mapping[str, Any]) -> Iterator[Finding]:
    name = settings.ECS_CAPACITY_PROVIDER
    if not name:
        return
    if name not in (found.get("capacityProviders") or []):
        known = ", ".join(found.get("capacityProviders") or []) or "none"
        yield wrong(f"ECS_CAPACITY_PROVIDER: found {name}, expected one of the cluster's: {known}.")
        return
    answer = cloud.aws.call(
        "ecs",
        "DescribeCapacityProviders",
        about=f"the capacity provider {name}",
        setting="ECS_CAPACITY_PROVIDER",
        capacityProviders=[name],
    )
    provider: dict[str, Any] = next(iter(answer.get("capacityProviders") or []), {})
    if provider.get("status") != "ACTIVE":
        yield wrong(f"ECS_CAPACITY_PROVIDER: {name} is {provider.get('status') or 'not there'}, expected ACTIVE.")
        return
    group = provider.get("autoScalingGroupProvider") or {}
    if group and (group.get("managedScaling") or {}).get("status") != "ENABLED":
        yield attention(
            f"The capacity provider {name} has no managed scaling: when its computers are full, no more are started. "
            "Switch it on, or keep enough of them."
        )
        return
    yield ok(f"The capacity provider {name} is ACTIVE.")


def _computers(cloud: Cloud) -> Iterator[Finding]:
    """Those for gateways; the VPN's host may be a container instance of the same cluster, and takes none."""
    arguments: dict[str, Any] = {"cluster": settings.ECS_CLUSTER}
    about: dict[str, Any] = {"about": f"the cluster {settings.ECS_CLUSTER}", "setting": "ECS_CLUSTER"}
    arns = cloud.aws.call("ecs", "ListContainerInstances", **about, **arguments, maxResults=100).get(
        "containerInstanceArns"
    )
    described: list[dict[str, Any]] = []
    if arns:
        answer = cloud.aws.call("ecs", "DescribeContainerInstances", **about, **arguments, containerInstances=arns)
        described = [one for one in answer.get("containerInstances") or [] if not _is_vpn_host(one)]
    active = [one for one in described if one.get("status") == "ACTIVE"]
    mute = [one for one in active if not one.get("agentConnected")]
    if mute:
        names = ", ".join(str(one.get("ec2InstanceId") or "?") for one in mute[:5])
        yield wrong(
            f"The ECS agent of {len(mute)} of {len(active)} computers for gateways is not connected ({names}). Look at "
            "the agent there, and whether its subnet reaches ECS (a NAT gateway, or the endpoints of ECS)."
        )
    elif active:
        yield ok(f"{len(active)} computers for gateways are registered, and their agents are connected.")
    elif settings.ECS_CAPACITY_PROVIDER:
        words = "No computer for gateways is registered now: the first gateway waits some three minutes for one."
        yield attention(f"{words} Give the auto scaling group a minimum of 1, or keep gateways ready (GATEWAY_WARM).")
    else:
        yield wrong("No computer for gateways is registered. Start some, or set ECS_CAPACITY_PROVIDER.")


def _is_vpn_host(instance: Mapping[str, Any]) -> bool:
    return any((one.get("name"), one.get("value")) == _VPN_ROLE for one in instance.get("attributes") or [])


# --- what a task is ---------------------------------------------------------------------------------------------------


def task_definition(cloud: Cloud) -> Iterator[Finding]:
    """ACTIVE, of the right network mode, and with what its containers need."""
    name = settings.ECS_TASK_DEFINITION
    about: dict[str, Any] = {"about": f"the task definition {name}", "setting": "ECS_TASK_DEFINITION"}
    answer = cloud.aws.call("ecs", "DescribeTaskDefinition", **about, taskDefinition=name)
    found = answer.get("taskDefinition") or {}
    label = f"{found.get('family')}:{found.get('revision')}"
    if found.get("status") != "ACTIVE":
        yield wrong(f"ECS_TASK_DEFINITION: {label} is {found.get('status')}, expected ACTIVE. Name one that is.")
        return
    faults = [*_faults_of_network(found), *_faults_of_guacd(found), *_faults_of_secrets(found)]
    yield from faults
    if not faults:
        yield ok(f"The task definition {label} is ACTIVE and has what ECS_NETWORK={settings.ECS_NETWORK} needs.")


def _faults_of_network(found: Mapping[str, Any]) -> Iterator[Finding]:
    where = "ECS_TASK_DEFINITION:"
    if found.get("networkMode") != "awsvpc":
        yield wrong(
            f"{where} found networkMode {found.get('networkMode')}, expected awsvpc: an address for each gateway."
        )
    if settings.ECS_NETWORK != "tunnel":
        return
    kinds = set(found.get("requiresCompatibilities") or [])
    if "FARGATE" in kinds:
        yield wrong(f"{where} it is for Fargate, which has no /dev/net/tun. Use EC2, or ECS_NETWORK=routed.")
    linux = [one.get("linuxParameters") or {} for one in found.get("containerDefinitions") or []]
    fit = [
        one
        for one in linux
        if "NET_ADMIN" in ((one.get("capabilities") or {}).get("add") or [])
        and any(device.get("hostPath") == "/dev/net/tun" for device in one.get("devices") or [])
    ]
    if not fit:
        yield wrong(
            f"{where} no container has both NET_ADMIN and the device /dev/net/tun, which the OpenVPN client needs "
            "(ECS_NETWORK=tunnel)."
        )


def _faults_of_guacd(found: Mapping[str, Any]) -> Iterator[Finding]:
    containers = found.get("containerDefinitions") or []
    images = [str(one.get("image", "")) for one in containers if "guacd" in f"{one.get('name')} {one.get('image')}"]
    if not images:
        ports = {mapping.get("containerPort") for one in containers for mapping in one.get("portMappings") or []}
        if _GUACD_PORT not in ports:
            yield wrong(
                f"ECS_TASK_DEFINITION: found no container for guacd: none is called so or has port {_GUACD_PORT}."
            )
        return
    for image in images:
        name, _, digest = image.partition("@")
        version = re.search(r":v?([0-9]+)\.([0-9]+)", name)
        if version is None and digest:
            # The better pin: whoever chose it has looked, and a line that never goes away is read by nobody.
            continue
        if version is None:
            yield attention(f"The image {image} does not say its version. See that guacd in it is 1.6.0 or newer.")
        elif (int(version[1]), int(version[2])) < _NEEDED_GUACD:
            yield wrong(
                f"ECS_TASK_DEFINITION: found guacd {version[1]}.{version[2]} ({image}), expected 1.6.0 or newer."
            )


def _faults_of_secrets(found: Mapping[str, Any]) -> Iterator[Finding]:
    for container in found.get("containerDefinitions") or []:
        names = [str(one.get("name")) for one in container.get("environment") or []]
        for name in sorted(name for name in names if _SECRET_NAME.search(name.upper())):
            words = f"The environment of container {container.get('name')} has {name}, which everybody reads who may "
            yield attention(f"{words}describe the task definition. A gateway needs no secret.")
    if found.get("taskRoleArn"):
        yield attention("The task definition has a task role. A gateway calls nothing at AWS: take the role out.")


# --- its network ------------------------------------------------------------------------------------------------------


def subnets(cloud: Cloud) -> Iterator[Finding]:
    """There, in one VPC, in two zones, with addresses left."""
    wanted = settings.ECS_SUBNETS
    answer = cloud.aws.call(
        "ec2", "DescribeSubnets", about=", ".join(wanted), setting="ECS_SUBNETS", SubnetIds=list(wanted)
    )
    found = answer.get("Subnets") or []
    networks = sorted({str(one.get("VpcId")) for one in found})
    if len(networks) > 1:
        yield wrong(f"ECS_SUBNETS: found subnets of {len(networks)} VPCs ({', '.join(networks)}), expected one.")
    free = sum(int(one.get("AvailableIpAddressCount") or 0) for one in found)
    if free == 0:
        yield wrong("ECS_SUBNETS: no address is left in any of them, and each gateway takes one. Add a subnet.")
    elif free < _FEW_ADDRESSES:
        yield attention(f"ECS_SUBNETS: {free} addresses are left, and each gateway takes one. Add a subnet.")
    else:
        zones = sorted({str(one.get("AvailabilityZone")) for one in found})
        yield ok(f"{len(found)} subnets in {', '.join(zones)}; {free} addresses are left.")
        if len(zones) == 1:
            yield attention(f"All of ECS_SUBNETS are in {zones[0]}: without that zone there are no gateways.")


def security_groups(cloud: Cloud) -> Iterator[Finding]:
    """There, in the subnets' VPC, open for guacd to somebody and to nobody on the Internet.

    Which groups the worker and the keepers are in is not known here, so whether it is them is left to who reads.
    """
    wanted = settings.ECS_SECURITY_GROUPS
    answer = cloud.aws.call(
        "ec2", "DescribeSecurityGroups", about=", ".join(wanted), setting="ECS_SECURITY_GROUPS", GroupIds=list(wanted)
    )
    found = answer.get("SecurityGroups") or []
    faults = [*_foreign_groups(cloud, found), *_ports(found)]
    yield from faults
    if not faults:
        let_in = sorted({source for rule in _rules(found) for source in _sources(rule) if _is_for_any(rule)})
        yield ok(
            f"{len(found)} security groups let nobody on the Internet to guacd, but {', '.join(let_in)}. The worker "
            "and the keepers must be among these."
        )


def _foreign_groups(cloud: Cloud, found: list[dict[str, Any]]) -> Iterator[Finding]:
    try:
        answer = cloud.aws.call(
            "ec2",
            "DescribeSubnets",
            about=", ".join(settings.ECS_SUBNETS),
            setting="ECS_SUBNETS",
            SubnetIds=list(settings.ECS_SUBNETS),
        )
    except AwsError:  # `subnets` says why
        return
    networks = {str(one.get("VpcId")) for one in answer.get("Subnets") or []}
    for group in found:
        if networks and str(group.get("VpcId")) not in networks:
            yield wrong(
                f"ECS_SECURITY_GROUPS: {group.get('GroupId')} is of {group.get('VpcId')}, expected the VPC of "
                f"ECS_SUBNETS ({', '.join(sorted(networks))})."
            )


def _ports(found: list[dict[str, Any]]) -> Iterator[Finding]:
    for port in _needed_ports():
        sources = [source for rule in _rules(found) if _is_for(rule, port) for source in _sources(rule)]
        if not sources:
            yield wrong(
                f"ECS_SECURITY_GROUPS: nothing may come in at port {port}. Let the worker's and the keepers' group in."
            )
        if public := sorted({source for source in sources if _is_public(source)}):
            whom = "everybody" if _EVERYBODY & set(public) else f"the Internet ({', '.join(public)})"
            yield wrong(
                f"ECS_SECURITY_GROUPS: port {port} is open to {whom}, and asks nobody who they are. Let the "
                "worker's and the keepers' group in, and nobody else."
            )
        if lists := sorted({source for source in sources if source.startswith("pl-")}):
            yield attention(
                f"ECS_SECURITY_GROUPS: port {port} is open to the prefix list {', '.join(lists)}, which is not looked "
                "into here. Let the worker's and the keepers' group in instead."
            )


def _needed_ports() -> tuple[int, ...]:
    return (_GUACD_PORT, door.PORT) if settings.ECS_NETWORK == "tunnel" else (_GUACD_PORT,)


def _rules(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for group in found for rule in group.get("IpPermissions") or []]


def _is_for_any(rule: Mapping[str, Any]) -> bool:
    return any(_is_for(rule, port) for port in _needed_ports())


def _is_for(rule: Mapping[str, Any], port: int) -> bool:
    if rule.get("IpProtocol") == "-1":
        return True
    return rule.get("IpProtocol") == "tcp" and int(rule.get("FromPort", 0)) <= port <= int(rule.get("ToPort", 65535))


def _sources(rule: Mapping[str, Any]) -> list[str]:
    """Whom a rule lets in: networks, security groups, prefix lists."""
    networks = [("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")]
    kinds = [*networks, ("UserIdGroupPairs", "GroupId"), ("PrefixListIds", "PrefixListId")]
    return [str(one[name]) for kind, name in kinds for one in rule.get(kind) or [] if one.get(name)]


def _is_public(source: str) -> bool:
    if "/" not in source:  # a group or a prefix list
        return False
    network = ipaddress.ip_network(source, strict=False)
    return not any(network.network_address in one and one.prefixlen <= network.prefixlen for one in _PRIVATE)
