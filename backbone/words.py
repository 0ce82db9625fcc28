"""What an accelerator's state means, in sentences for people; pure functions of what was read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backbone.accelerator import Accelerator, Endpoint, EndpointGroup, Listener

HEALTH = {"HEALTHY": "healthy", "UNHEALTHY": "unhealthy", "INITIAL": "being checked"}
_STAY = "Existing connections stay where they are until they end."


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that somebody should look at. `is_outage`: it is why what comes to a listener gets nowhere at all."""

    words: str
    is_outage: bool


def shown(value: float, *, is_weight: bool = False) -> str:
    """A dial's percentage, its sign not broken off at a line's end, or a weight."""
    return f"{value:g}" if is_weight else f"{value:g}\N{NO-BREAK SPACE}%"


def troubles(accelerator: Accelerator) -> list[Trouble]:
    """A sentence or two for each thing, the most urgent first."""
    found = []
    if not accelerator.is_enabled:
        words = (
            "The accelerator is disabled: nobody gets through its addresses. Enable it at AWS, or in the edge stack."
        )
        found.append(Trouble(words, is_outage=True))
    if not accelerator.listeners:
        words = "The accelerator has no listener, so it takes no connections. The edge stack makes them."
        found.append(Trouble(words, is_outage=True))
    for listener in accelerator.listeners:
        if not listener.groups:
            words = f"{listener.title}: there is no endpoint group, so connections go nowhere."
            found.append(Trouble(words, is_outage=True))
    of_endpoints: list[Trouble] = []
    of_dials: list[Trouble] = []
    for listener, group in accelerator.groups():
        of_endpoints += _of_endpoints(listener, group)
        of_dials += _of_dial(listener, group)
    return found + of_endpoints + of_dials


def _of_endpoints(listener: Listener, group: EndpointGroup) -> Iterator[Trouble]:
    where = f"{listener.title} in {group.region}"
    is_deaf = not any(map(_takes, listener.groups))
    if not group.endpoints:
        words = f"{where}: the group has no endpoint, so connections go elsewhere or nowhere."
        yield Trouble(words, is_outage=is_deaf)
    for endpoint in group.endpoints:
        if endpoint.health == "UNHEALTHY":
            reason = f" AWS says: {endpoint.health_reason}." if endpoint.health_reason else ""
            words = f"{where}: {endpoint_name(endpoint.id)} is unhealthy.{reason} {asked(group, endpoint)}"
            yield Trouble(words, is_outage=is_deaf and endpoint.weight > 0)
        elif endpoint.health != "HEALTHY":
            words = f"{where}: {endpoint_name(endpoint.id)} has not been found healthy yet. {asked(group, endpoint)}"
            yield Trouble(words, is_outage=False)
        if not endpoint.keeps_client_address:
            words = (
                f"{where}: {endpoint_name(endpoint.id)} does not see from where people and machines come (client IP "
                "preservation is off), so records and limits name the accelerator's own addresses."
            )
            yield Trouble(words, is_outage=False)
    if group.endpoints and not any(endpoint.weight for endpoint in group.endpoints):
        words = f"{where}: every endpoint has the weight 0, so new connections go to another region or nowhere."
        yield Trouble(words, is_outage=is_deaf)


def _takes(group: EndpointGroup) -> bool:
    """Whether new connections that come to a group get somewhere, as far as AWS knows."""
    return group.dial > 0 and any(one.weight > 0 and one.health != "UNHEALTHY" for one in group.endpoints)


def _of_dial(listener: Listener, group: EndpointGroup) -> Iterator[Trouble]:
    """Somebody has turned it, for a reason that stands in the record."""
    if group.dial < 100:
        words = f"{listener.title} in {group.region}: the dial is at {shown(group.dial)}. {_left_over(listener, group)}"
        yield Trouble(words, is_outage=not group.dial and not any(map(_takes, listener.groups)))


def _left_over(listener: Listener, group: EndpointGroup) -> str:
    return _elsewhere(listener, group, rest="The other new connections" if group.dial else "New connections")


def asked(group: EndpointGroup, endpoint: Endpoint) -> str:
    """Who asks an endpoint for its health, and where; a load balancer is asked by its own checks only."""
    if _kind(endpoint.id):
        return (
            "Its load balancer's own checks say so: look at its targets (the VPN host and the portal answer /healthz)."
        )
    return f"It is asked by {check(group)}."


def check(group: EndpointGroup) -> str:
    """As in: HTTP /healthz at port 8080, every 10 s, 3 in a row."""
    path = f" {group.health_path}" if group.health_protocol.startswith("HTTP") and group.health_path else ""
    port = f" at port {group.health_port}" if group.health_port else ""
    return f"{group.health_protocol}{path}{port}, every {group.health_interval_s} s, {group.health_threshold} in a row"


def endpoint_name(endpoint_id: str) -> str:
    """As people call it: network load balancer portafilter-vpn, instance i-0abc."""
    kind = _kind(endpoint_id)
    if kind:
        return f"{kind} {endpoint_id.split('/')[-2]}"
    for prefix, name in (("i-", "instance"), ("eipalloc-", "Elastic IP address")):
        if endpoint_id.startswith(prefix):
            return f"{name} {endpoint_id}"
    return endpoint_id


def _kind(endpoint_id: str) -> str:
    for part, name in ((":loadbalancer/app/", "load balancer"), (":loadbalancer/net/", "network load balancer")):
        if part in endpoint_id and endpoint_id.count("/") >= 3:
            return name
    return ""


def share(group: EndpointGroup, endpoint: Endpoint) -> str:
    """Which part of its group's new connections an endpoint gets while all are healthy, as in 33 %."""
    whole = sum(one.weight for one in group.endpoints)
    return f"{endpoint.weight / whole:.0%}" if whole else "0%"


def what_will_happen(listener: Listener, group: EndpointGroup, endpoint: Endpoint | None, to: int) -> list[str]:
    """Sentences for whoever is about to turn something."""
    if endpoint is None:
        return [*_of_turning(listener, group, to), _STAY]
    others = sum(one.weight for one in group.endpoints if one.id != endpoint.id)
    if not to and not others:
        words = [f"{endpoint_name(endpoint.id)} gets no new connections, and no other endpoint in {group.region} does."]
        words.append(_elsewhere(listener, group, rest="They"))
    elif not to:
        words = [f"{endpoint_name(endpoint.id)} gets no new connections; the others in {group.region} share them."]
    else:
        part = f"{to / (to + others):.0%}"
        words = [f"{endpoint_name(endpoint.id)} gets {part} of the new connections that come to {group.region}."]
    return [words[0][0].upper() + words[0][1:], *words[1:], _STAY]


def _of_turning(listener: Listener, group: EndpointGroup, to: int) -> Iterator[str]:
    if to == 100:
        yield f"{group.region} gets all new connections on {listener.title} that are meant for it."
        return
    if to == 0:
        yield f"{group.region} gets no new connections on {listener.title} any more."
    else:
        yield f"{group.region} gets {shown(to)} of the new connections on {listener.title} that are meant for it."
    yield _elsewhere(listener, group, rest="The others" if to else "They")
    if listener.protocol == "UDP" and to < group.dial:
        yield "A VPN tunnel over UDP that falls silent for 30 s counts as a new connection afterwards."


def _elsewhere(listener: Listener, group: EndpointGroup, *, rest: str) -> str:
    others = sorted({one.region for one in listener.groups if one.arn != group.arn and _takes(one)})
    if others:
        return f"{rest} go to {_and(others)}."
    return f"{rest} have no other region to go to: expect them to fail."


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
