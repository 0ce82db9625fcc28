"""What may pass between machines, gateways and this computer, as one script for nftables. Pure: text out, no I/O.

The table is replaced as a whole, in one transaction: there is no moment without rules, and running the script again
changes nothing. It holds for the VPN's devices alone, by name, so it can be there before they are: one, or a second
for those who come in over TCP, and whatever holds for one device holds for both and between them.

- Machines reach the private API and ping. Not each other, not another service, nothing behind this computer.
- Nobody else reaches the private API from outside: what comes to its address by another device is dropped, as Linux
  would take it.
- A gateway that is in the VPN itself has an address at the network's beginning: to this computer it may ping, as
  machines may, and nothing else; the private API is not for it.
- One elsewhere, known by an address outside of the VPN, reaches its machine under this computer's address there:
  machines have no other way back into the tunnel (their profiles take no routes).
- A gateway reaches its session's machine and port. Every packet towards a machine is looked up (no short cut for
  established connections), so a passage that is taken away cuts what runs through it at once.
- A local gateway is a user (uid). It may answer those who connected to it on loopback; beyond that and its machine it
  reaches nothing, as what runs in it may have been taken over (T5).
- Where OpenVPN listens on TCP, each connection takes one of its places before it has said who it is. So one address
  gets so many at once, and so many new ones a second (UDP needs no such rule: there a stranger takes no place). These
  rules have a table of their own, whose counts are kept while the rules are put back.

A packet of a closed socket has no owner that the kernel still knows: such leftovers may go to machines that have a
passage (they end connections that their owner was allowed to make), new connections without an owner may not.
The first packet of a local gateway without a passage is dropped, not refused: the passage may come in the next moment,
and TCP tries again after a second. What was established and has lost its passage is refused, so that guacd knows.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from machines.passages import Passage
from machines.vpn import networks

_DEVICE = re.compile(networks.DEVICE)
# One address may be that of a whole site, or of a mobile network's customers: room for all of its machines at once, and
# for their coming back together. OpenVPN has 4096 places, and keeps one for some 30 s for who says nothing.
TCP_AT_ONCE = 200
TCP_A_SECOND = 20
_TCP_BURST = 200


@dataclass(frozen=True, slots=True)
class IsolationConfig:
    """What does not change while OpenVPN runs. Raises ValueError."""

    device: str
    server_address: ipaddress.IPv4Address
    api_port: int
    gateway_uids: range = range(0)
    # Where gateways in the VPN have their addresses, and the server has its own.
    gateways: ipaddress.IPv4Network | None = None
    network: ipaddress.IPv4Network | None = None
    # Of those who come in over TCP, with the same rules; empty: there is none.
    tcp_device: str = ""
    # At which an OpenVPN listens; none: UDP alone.
    tcp_ports: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        for device in self.devices:
            if not _DEVICE.fullmatch(device):
                raise ValueError(f"Found device {device[:40]!r}, expected an interface's name.")
        for port in (self.api_port, *self.tcp_ports):
            if not 1 <= port <= 65535:
                raise ValueError(f"Found port {port}, expected 1 to 65535.")
        if self.gateway_uids and (self.gateway_uids.step != 1 or self.gateway_uids[0] < 1):
            raise ValueError(f"Found gateway users {self.gateway_uids}, expected a range without root.")

    @property
    def devices(self) -> list[str]:
        return [self.device, self.tcp_device] if self.tcp_device else [self.device]

    @property
    def table(self) -> str:
        """The table's name, one a device."""
        return "portafilter_" + self.device.removeprefix("tun-").replace("-", "_")

    @property
    def door_table(self) -> str:
        """That of who may connect to OpenVPN over TCP."""
        return f"{self.table}_door"


def script(config: IsolationConfig, passages: Iterable[Passage]) -> str:
    """Replaces the table with one for exactly these passages."""
    local, routed, reachable = set(), set(), set()
    for passage in passages:
        target = f"{ipaddress.IPv4Address(passage.machine_address)} . {passage.port:d}"
        if passage.uid is not None:
            local.add(f"{passage.uid:d} . {target}")
            reachable.add(target)
        else:
            routed.add(f"{ipaddress.IPv4Address(passage.source)} . {target}")
    api = f"ip {{}}addr {config.server_address} tcp {{}}port {config.api_port:d}"
    names = ", ".join(f'"{name}"' for name in config.devices)
    device = f"{{ {names} }}" if config.tcp_device else names
    return f"""\
table inet {config.table}
delete table inet {config.table}
table inet {config.table} {{
    set local {{
        typeof meta skuid . ip daddr . tcp dport{_elements(local)}
    }}
    set reachable {{
        typeof ip daddr . tcp dport{_elements(reachable)}
    }}
    set routed {{
        typeof ip saddr . ip daddr . tcp dport{_elements(routed)}
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {device} jump from_machines
        iifname != {{ {names}, "lo" }} ip daddr {config.server_address} drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        oifname {device} ip saddr . ip daddr . tcp dport @routed accept
        iifname {device} ip daddr . ip saddr . tcp sport @routed ct direction reply ct state established accept
        oifname {device} drop
        iifname {device} drop
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        oifname {device} jump to_machines{_gateway_jump(config, device)}
    }}
    chain from_machines {{{_from_gateways(config)}
        {api.format("d", "d")} accept
        ip saddr . tcp sport @reachable ct direction reply ct state established accept
        ip daddr {config.server_address} icmp type echo-request accept
        drop
    }}
    chain to_machines {{
        {api.format("s", "s")} ct direction reply ct state established accept
        icmp type echo-reply accept
        meta skuid . ip daddr . tcp dport @local accept{_first_packet(config)}
        meta skuid 0-4294967294 meta l4proto tcp reject with tcp reset
        ip daddr . tcp dport @reachable ct direction original ct state established accept
        meta nfproto ipv4 reject with icmp type admin-prohibited
        drop
    }}{_gateway_chain(config)}{_masquerade(config, device)}
}}
"""


def removal(config: IsolationConfig) -> str:
    """Takes the tables away, also when there are none."""
    return "".join(f"table inet {table}\ndelete table inet {table}\n" for table in (config.table, config.door_table))


def door(config: IsolationConfig) -> str:
    """Sees to the table of who may connect over TCP: a script of its own, which may fail without those for isolation.

    Not replaced as a whole: who has how many connections is in the sets, and would be forgotten each time.

    A full set lets newcomers through: they are as they would be without it. Too many at once are refused, so that
    OpenVPN at a machine goes on to its other way; too fast ones are dropped, as TCP tries again after a second.
    """
    if not config.tcp_ports:
        return f"table inet {config.door_table}\ndelete table inet {config.door_table}\n"
    ports = f"tcp dport {{ {', '.join(str(port) for port in sorted(config.tcp_ports))} }} ct state new"
    too_fast = f"update @hasty {{ ip saddr limit rate over {TCP_A_SECOND}/second burst {_TCP_BURST} packets }}"
    too_many = f"add @holding {{ ip saddr ct count over {TCP_AT_ONCE} }}"
    return f"""\
table inet {config.door_table} {{
    set hasty {{
        type ipv4_addr
        size 65535
        flags dynamic,timeout
        timeout 1m
    }}
    set holding {{
        type ipv4_addr
        size 65535
        flags dynamic
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
    }}
}}
flush chain inet {config.door_table} input
table inet {config.door_table} {{
    chain input {{
        {ports} {too_fast} drop
        {ports} {too_many} reject with tcp reset
    }}
}}
"""


def _elements(elements: set[str]) -> str:
    return f"\n        elements = {{ {', '.join(sorted(elements))} }}" if elements else ""


def _from_gateways(config: IsolationConfig) -> str:
    if config.gateways is None:
        return ""
    ping = f"ip daddr {config.server_address} icmp type echo-request"
    return f"\n        ip saddr {config.gateways} {ping} accept\n        ip saddr {config.gateways} drop"


def _masquerade(config: IsolationConfig, device: str) -> str:
    """For what is forwarded into the tunnel from elsewhere; which packets those may be is for `forward` to say."""
    if config.network is None:
        return ""
    return f"""
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname {device} ip saddr != {config.network} snat ip to {config.server_address}
    }}"""


def _uids(config: IsolationConfig) -> str:
    return f"{config.gateway_uids[0]:d}-{config.gateway_uids[-1]:d}"


def _gateway_jump(config: IsolationConfig, device: str) -> str:
    if not config.gateway_uids:
        return ""
    return f"\n        oifname != {device} meta skuid {_uids(config)} jump of_gateways"


def _first_packet(config: IsolationConfig) -> str:
    if not config.gateway_uids:
        return ""
    return f"\n        meta skuid {_uids(config)} tcp flags & (syn | ack) == syn drop"


def _gateway_chain(config: IsolationConfig) -> str:
    if not config.gateway_uids:
        return ""
    return """
    chain of_gateways {
        oifname "lo" ct direction reply ct state established accept
        meta l4proto tcp reject with tcp reset
        reject
    }"""
