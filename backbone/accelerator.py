"""Reads an accelerator of AWS Global Accelerator by its name, and turns its dials.

The API lives in us-west-2 alone, whatever region the endpoints are in. Listing says everything but by account, so the
ARN is looked up by name once and kept; one that is gone is looked up again. Nothing is turned blindly: what is there is
read first and compared with what the person saw, so that a change made elsewhere meanwhile is not run over, and so that
trying again after a crash finds its own work done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from machines.aws import Aws, AwsError, Kind

REGION = "us-west-2"
_SETTING = "ACCELERATOR"
# AWS allows 100 a page; an account has 20 accelerators unless it asked for more.
_PAGE = 100
_MAX_PAGES = 50


class AcceleratorMissing(Exception):
    """AWS answered, and has no accelerator of that name."""


class NotAsExpected(Exception):
    """What is to be turned is gone or stands elsewhere than the person saw; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What traffic is sent to; `weight` is 0 to 255, a share of its group's weights."""

    id: str
    weight: int
    health: str  # HEALTHY, UNHEALTHY or INITIAL
    health_reason: str  # AWS mostly has none
    keeps_client_address: bool


@dataclass(frozen=True, slots=True)
class EndpointGroup:
    """A listener's endpoints in one region; `dial` is the percentage of the traffic meant for it that it gets."""

    arn: str
    region: str
    dial: float
    health_protocol: str
    health_port: int | None
    health_path: str
    health_interval_s: int
    health_threshold: int
    port_overrides: tuple[tuple[int, int], ...]
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Listener:
    """Ports of one protocol at the accelerator's addresses."""

    arn: str
    protocol: str
    ports: tuple[tuple[int, int], ...]
    affinity: str  # NONE or SOURCE_IP
    groups: tuple[EndpointGroup, ...]

    @property
    def title(self) -> str:
        """As in UDP 1194, or TCP 80, 443, 8000–8010."""
        shown = (str(low) if low == high else f"{low}–{high}" for low, high in self.ports)
        return f"{self.protocol} {', '.join(shown)}"


@dataclass(frozen=True, slots=True)
class Accelerator:
    """All of it, as AWS says it at one moment."""

    arn: str
    name: str
    is_enabled: bool
    is_deployed: bool  # no: a change is on its way to AWS' edges
    dns_name: str
    dual_stack_dns_name: str
    addresses: tuple[str, ...]
    listeners: tuple[Listener, ...]

    def as_json(self) -> dict[str, Any]:
        """Lists, texts and numbers, for a row."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Accelerator:
        """Back again. Raises KeyError or TypeError when another version wrote it."""
        listeners = tuple(_listener_from(one) for one in document["listeners"])
        return cls(**{**document, "addresses": tuple(document["addresses"]), "listeners": listeners})

    def groups(self) -> Iterator[tuple[Listener, EndpointGroup]]:
        for listener in self.listeners:
            for group in listener.groups:
                yield listener, group


class GlobalAccelerator:
    """The calls; for one thread. Every method raises AwsError."""

    def __init__(self, aws: Aws | None = None) -> None:
        self._aws = aws or Aws(REGION, setting="")
        self._arns: dict[str, str] = {}

    def read(self, name: str) -> Accelerator:
        """All of the accelerator `name`. Raises AcceleratorMissing."""
        found = self._describe(name) if name in self._arns else None
        if found is None:
            found = self._find(name)
        arn = str(found["AcceleratorArn"])
        self._arns[name] = arn
        addresses = [address for one in found.get("IpSets", []) for address in one.get("IpAddresses", [])]
        return Accelerator(
            arn=arn,
            name=name,
            is_enabled=bool(found.get("Enabled")),
            is_deployed=found.get("Status") == "DEPLOYED",
            dns_name=str(found.get("DnsName", "")),
            dual_stack_dns_name=str(found.get("DualStackDnsName", "")),
            addresses=tuple(str(address) for address in addresses),
            listeners=tuple(self._listeners(name, arn)),
        )

    def group(self, arn: str) -> EndpointGroup:
        """One group as it stands. Raises NotAsExpected when it is gone."""
        try:
            answer = self._aws.call(
                "globalaccelerator",
                "DescribeEndpointGroup",
                about="the endpoint group",
                setting=_SETTING,
                EndpointGroupArn=arn,
            )
        except AwsError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            raise NotAsExpected("The endpoint group is not there any more. Nothing was changed.") from error
        return _group_of(answer["EndpointGroup"])

    def turn_dial(self, group_arn: str, *, expected: float, to: float) -> bool:
        """Sets a group's dial to `to` percent if it is at `expected`; False: it was at `to` already.

        Raises NotAsExpected.
        """
        group = self.group(group_arn)
        if group.dial == to:
            return False
        if group.dial != expected:
            raise NotAsExpected(_elsewhere(f"{group.dial:g}\N{NO-BREAK SPACE}%", f"{expected:g}\N{NO-BREAK SPACE}%"))
        self._aws.call(
            "globalaccelerator",
            "UpdateEndpointGroup",
            about=f"the endpoint group in {group.region}",
            setting=_SETTING,
            EndpointGroupArn=group_arn,
            TrafficDialPercentage=to,
        )
        return True

    def set_weight(self, group_arn: str, endpoint_id: str, *, expected: int, to: int) -> bool:
        """Sets an endpoint's weight likewise. AWS takes the group's endpoints as a whole: the others go as they are."""
        group = self.group(group_arn)
        endpoint = next((one for one in group.endpoints if one.id == endpoint_id), None)
        if endpoint is None:
            raise NotAsExpected("The endpoint is not in its group any more. Nothing was changed.")
        if endpoint.weight == to:
            return False
        if endpoint.weight != expected:
            raise NotAsExpected(_elsewhere(str(endpoint.weight), str(expected)))
        configurations = [
            {
                "EndpointId": one.id,
                "Weight": to if one.id == endpoint_id else one.weight,
                "ClientIPPreservationEnabled": one.keeps_client_address,
            }
            for one in group.endpoints
        ]
        self._aws.call(
            "globalaccelerator",
            "UpdateEndpointGroup",
            about=f"the endpoint group in {group.region}",
            setting=_SETTING,
            EndpointGroupArn=group_arn,
            EndpointConfigurations=configurations,
        )
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    def _describe(self, name: str) -> dict[str, Any] | None:
        """None when it is gone, or called something else by now."""
        try:
            answer = self._aws.call(
                "globalaccelerator",
                "DescribeAccelerator",
                about=f"the accelerator {name}",
                setting=_SETTING,
                AcceleratorArn=self._arns[name],
            )
        except AwsError as error:
            if error.kind is not Kind.NOT_FOUND:
                raise
            return None
        found: dict[str, Any] = answer["Accelerator"]
        return found if found.get("Name") == name else None

    def _find(self, name: str) -> dict[str, Any]:
        self._arns.pop(name, None)
        about = f"the accelerator {name}"
        accelerators = _pages(
            "Accelerators",
            lambda page: self._aws.call("globalaccelerator", "ListAccelerators", about=about, setting=_SETTING, **page),
        )
        for found in accelerators:
            if found.get("Name") == name:
                return found
        raise AcceleratorMissing(
            f"AWS has no accelerator named {name} in this account. Look at ACCELERATOR, and at whose credentials these "
            "are; the edge stack makes one."
        )

    def _listeners(self, name: str, arn: str) -> Iterator[Listener]:
        listeners = _pages(
            "Listeners",
            lambda page: self._aws.call(
                "globalaccelerator",
                "ListListeners",
                about=f"the accelerator {name}",
                setting=_SETTING,
                AcceleratorArn=arn,
                **page,
            ),
        )
        for found in listeners:
            listener_arn = str(found["ListenerArn"])
            yield Listener(
                arn=listener_arn,
                protocol=str(found.get("Protocol", "")),
                ports=tuple((int(ports["FromPort"]), int(ports["ToPort"])) for ports in found.get("PortRanges", [])),
                affinity=str(found.get("ClientAffinity", "NONE")),
                groups=tuple(map(_group_of, self._groups(name, listener_arn))),
            )

    def _groups(self, name: str, listener_arn: str) -> Iterator[dict[str, Any]]:
        return _pages(
            "EndpointGroups",
            lambda page: self._aws.call(
                "globalaccelerator",
                "ListEndpointGroups",
                about=f"the accelerator {name}",
                setting=_SETTING,
                ListenerArn=listener_arn,
                **page,
            ),
        )


def _pages(field: str, ask: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All that a listing has in `field`; `ask` makes the call for the page that its argument says."""
    page: dict[str, Any] = {"MaxResults": _PAGE}
    for _ in range(_MAX_PAGES):
        answer = ask(page)
        yield from answer.get(field, [])
        if not answer.get("NextToken"):
            return
        page = {**page, "NextToken": answer["NextToken"]}


def _group_of(found: dict[str, Any]) -> EndpointGroup:
    port = found.get("HealthCheckPort")
    return EndpointGroup(
        arn=str(found["EndpointGroupArn"]),
        region=str(found.get("EndpointGroupRegion", "")),
        dial=_percent(found.get("TrafficDialPercentage", 100)),
        health_protocol=str(found.get("HealthCheckProtocol", "")),
        health_port=None if port is None else int(port),
        health_path=str(found.get("HealthCheckPath", "")),
        health_interval_s=int(found.get("HealthCheckIntervalSeconds", 30)),
        health_threshold=int(found.get("ThresholdCount", 3)),
        port_overrides=tuple(
            (int(one["ListenerPort"]), int(one["EndpointPort"])) for one in found.get("PortOverrides", [])
        ),
        endpoints=tuple(
            Endpoint(
                id=str(one["EndpointId"]),
                weight=int(one.get("Weight", 128)),
                health=str(one.get("HealthState", "INITIAL")),
                health_reason=str(one.get("HealthReason") or ""),
                keeps_client_address=bool(one.get("ClientIPPreservationEnabled")),
            )
            for one in found.get("EndpointDescriptions", [])
        ),
    )


def _listener_from(document: dict[str, Any]) -> Listener:
    groups = []
    for one in document["groups"]:
        endpoints = tuple(Endpoint(**endpoint) for endpoint in one["endpoints"])
        overrides = tuple((low, high) for low, high in one["port_overrides"])
        groups.append(EndpointGroup(**{**one, "endpoints": endpoints, "port_overrides": overrides}))
    ports = tuple((low, high) for low, high in document["ports"])
    return Listener(**{**document, "ports": ports, "groups": tuple(groups)})


def _percent(value: Any) -> float:
    """AWS keeps a 32-bit float: 33.3 comes back as 33.29999923706055."""
    return round(float(value), 2)


def _elsewhere(found: str, expected: str) -> str:
    return f"It was turned elsewhere meanwhile: found {found}, expected {expected}. Nothing was changed."
