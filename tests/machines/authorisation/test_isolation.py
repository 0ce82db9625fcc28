"""The firewall's rules in a namespace: a link named as OpenVPN's device stands for the tunnel to one machine."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from machines.authorisation import isolation, nft
from machines.authorisation.isolation import IsolationConfig
from machines.authorisation.nft import NftError
from machines.management.commands import authorise
from machines.passages import Passage
from tests.machines.authorisation.bed import ROOT, ip, said, text, until

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="rules of nftables need root and nft"),
]
CONFIG = IsolationConfig(
    "tun-pf", IPv4Address("10.77.0.1"), 8001, range(61000, 61010), gateways=IPv4Network("10.77.0.0/24"),
    network=IPv4Network("10.77.0.0/20"),
)  # fmt: skip
MACHINE = "10.77.1.1"
RDP = 3389


class Link:
    """A server's namespace, a machine's, and a private network's behind the server."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = f"pf-{secrets.token_hex(3)}"
        self.server, self.machine, self.behind = f"{name}-s", f"{name}-m", f"{name}-p"
        self.running: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        for space in (self.server, self.machine, self.behind):
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        self._join("tun-pf", "10.77.0.1/20", self.machine, f"{MACHINE}/20")
        self._join("lan", "10.88.0.1/24", self.behind, "10.88.0.2/24")
        ip("-n", self.machine, "route", "add", "10.88.0.0/24", "via", "10.77.0.1")
        ip("-n", self.behind, "route", "add", "10.77.0.0/20", "via", "10.88.0.1")
        ip("netns", "exec", self.server, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.allow()
        self.listen(self.machine, MACHINE, RDP)
        self.listen(self.machine, MACHINE, 5432)
        self.listen(self.server, "0.0.0.0", 8001)
        self.listen(self.server, "0.0.0.0", 5432)
        self.listen(self.behind, "10.88.0.2", 5432)

    def _join(self, device: str, address: str, space: str, other: str) -> None:
        ip("link", "add", device, "netns", self.server, "type", "veth", "peer", "eth0", "netns", space)
        ip("-n", self.server, "addr", "add", address, "dev", device)
        ip("-n", self.server, "link", "set", device, "up")
        ip("-n", space, "addr", "add", other, "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")

    def allow(self, *passages: Passage, config: IsolationConfig = CONFIG) -> None:
        subprocess.run(
            ["ip", "netns", "exec", self.server, "nft", "-f", "-"],
            input=isolation.script(config, passages) + isolation.door(config), text=True, check=True, timeout=30,
        )  # fmt: skip

    def run(self, space: str, *arguments: str, user: int | None = None) -> tuple[subprocess.Popen[bytes], Path]:
        log = self.folder / f"{len(self.running)}.log"
        setpriv = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"] if user is not None else []
        with open(log, "wb") as file:
            peer = [sys.executable, str(ROOT / "tests/machines/authorisation/peer.py"), *arguments]
            process = subprocess.Popen(["ip", "netns", "exec", space, *setpriv, *peer], stdout=file, stderr=file)
        self.running.append(process)
        return process, log

    def listen(self, space: str, host: str, port: int) -> None:
        _, log = self.run(space, "listen", host, str(port))
        until(lambda: said(log, "listening"), what=lambda: text(log))

    def hold(
        self, space: str, host: str, port: int, *, user: int | None = None
    ) -> tuple[subprocess.Popen[bytes], Path]:
        return self.run(space, "hold", host, str(port), user=user)

    def reaches(self, space: str, host: str, port: int, *, user: int | None = None) -> bool:
        process, log = self.hold(space, host, port, user=user)
        until(lambda: said(log, "connected") or process.poll() is not None, what=lambda: text(log))
        process.kill()
        assert said(log, "connected") != said(log, "no way"), text(log)
        return said(log, "connected")

    def close(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()
        for space in (self.server, self.machine, self.behind):
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


@pytest.fixture(scope="module")
def built() -> Iterator[Link]:
    with tempfile.TemporaryDirectory(prefix="pf-") as folder:
        # The gateways' users read the program, not the folder.
        link = Link(Path(folder))
        try:
            link.build()
            yield link
        finally:
            link.close()


@pytest.fixture
def link(built: Link) -> Iterator[Link]:
    yield built
    built.allow()


def test_machine_reaches_the_private_api_and_nothing_else(link: Link) -> None:
    assert link.reaches(link.machine, "10.77.0.1", 8001)
    assert not link.reaches(link.machine, "10.77.0.1", 5432)
    assert not link.reaches(link.machine, "10.88.0.1", 8001)
    assert not link.reaches(link.machine, "10.88.0.2", 5432)


def test_private_api_is_reached_through_the_tunnel_alone(link: Link) -> None:
    """Linux takes packets for any address of its own on any device: a neighbour would only need a route."""
    assert link.reaches(link.behind, "10.88.0.1", 8001)  # the neighbour's way is fine
    assert not link.reaches(link.behind, "10.77.0.1", 8001)
    assert link.reaches(link.server, "10.77.0.1", 8001)


def test_nothing_goes_even_one_way_between_machines_and_what_is_behind(link: Link) -> None:
    _, behind = link.run(link.behind, "hear", "10.88.0.2", "5353")
    _, at_machine = link.run(link.machine, "hear", MACHINE, "5353")
    until(lambda: said(behind, "listening") and said(at_machine, "listening"))
    link.run(link.machine, "tell", "10.88.0.2", "5353")[0].wait(30)
    link.run(link.behind, "tell", MACHINE, "5353")[0].wait(30)
    link.run(link.server, "tell", MACHINE, "5353")[0].wait(30)
    # Both can hear, and what they hear last comes after all that they must not hear.
    link.run(link.server, "tell", "10.88.0.2", "5353")[0].wait(30)
    link.run(link.machine, "tell", MACHINE, "5353")[0].wait(30)
    until(lambda: text(behind).count("from 10.88.0.1\n") == 3 and text(at_machine).count(f"from {MACHINE}\n") == 3)
    assert text(behind).count("heard") == text(at_machine).count("heard") == 3


def test_machine_cannot_begin_a_talk_with_its_gateway(link: Link) -> None:
    link.listen(link.server, "10.77.0.1", 4822)
    link.allow(Passage("uid:61003", MACHINE, RDP))
    assert not link.reaches(link.machine, "10.77.0.1", 4822)


def test_gateway_reaches_its_machine_and_only_its_port(link: Link) -> None:
    link.allow(Passage("uid:61003", MACHINE, RDP))
    assert link.reaches(link.server, MACHINE, RDP, user=61003)
    assert not link.reaches(link.server, MACHINE, 5432, user=61003)
    assert not link.reaches(link.server, MACHINE, RDP, user=61004)
    assert not link.reaches(link.server, MACHINE, RDP, user=0)
    assert not link.reaches(link.server, MACHINE, RDP, user=33)


def test_gateway_reaches_nothing_but_its_machine(link: Link) -> None:
    link.allow(Passage("uid:61003", MACHINE, RDP))
    assert not link.reaches(link.server, "127.0.0.1", 5432, user=61003)
    assert not link.reaches(link.server, "10.77.0.1", 8001, user=61003)
    assert not link.reaches(link.server, "10.88.0.2", 5432, user=61003)
    assert link.reaches(link.server, "127.0.0.1", 5432, user=33)


def test_gateway_answers_who_connects_to_it(link: Link) -> None:
    _, log = link.run(link.server, "listen", "127.0.0.1", "14822", user=61003)
    until(lambda: said(log, "listening"), what=lambda: text(log))
    assert link.reaches(link.server, "127.0.0.1", 14822)
    assert not link.reaches(link.server, "127.0.0.1", 14822, user=61004)


def test_passage_taken_away_cuts_what_runs_through_it_at_once(link: Link) -> None:
    link.allow(Passage("uid:61003", MACHINE, RDP), Passage("uid:61004", MACHINE, 5432))
    holder, log = link.hold(link.server, MACHINE, RDP, user=61003)
    other, other_log = link.hold(link.server, MACHINE, 5432, user=61004)
    until(lambda: said(log, "connected") and said(other_log, "connected"))
    link.allow(Passage("uid:61004", MACHINE, 5432))
    until(lambda: said(log, "cut"), timeout_s=20, what=lambda: text(log)[-200:])
    holder.wait(30)
    before = len(text(other_log))
    until(lambda: len(text(other_log)) > before + 50)
    assert other.poll() is None and not said(other_log, "cut")


def test_passage_that_comes_late_is_in_time_for_the_second_try(link: Link) -> None:
    _, log = link.hold(link.server, MACHINE, RDP, user=61003)
    until(lambda: _tries(link.server, MACHINE, RDP), what="its first try")
    link.allow(Passage("uid:61003", MACHINE, RDP))
    until(lambda: said(log, "connected"), what=lambda: text(log))


def test_gateway_elsewhere_is_known_by_its_address(link: Link) -> None:
    assert not link.reaches(link.behind, MACHINE, RDP)
    link.allow(Passage("10.88.0.2", MACHINE, RDP))
    assert link.reaches(link.behind, MACHINE, RDP)
    assert not link.reaches(link.behind, MACHINE, 5432)
    holder, log = link.hold(link.behind, MACHINE, RDP)
    until(lambda: said(log, "connected"))
    link.allow()
    before = text(log).count("connected")
    with pytest.raises(AssertionError):
        until(lambda: text(log).count("connected") > before + 3, timeout_s=1)
    holder.kill()


def test_gateway_elsewhere_reaches_a_machine_that_knows_no_way_back(link: Link) -> None:
    """As all machines are: their profiles take no route but to the VPN itself."""
    passage = Passage("10.88.0.2", MACHINE, RDP)
    ip("-n", link.machine, "route", "del", "10.88.0.0/24")
    try:
        link.allow(passage, config=replace(CONFIG, network=None))
        _, lost = link.hold(link.behind, MACHINE, RDP)
        tries_in_vain(link.behind, MACHINE, RDP, lost)
        link.allow(passage)
        _, log = link.hold(link.behind, MACHINE, RDP)
        until(lambda: said(log, "connected"))
        link.allow(passage, Passage("10.88.0.9", MACHINE, RDP))  # the table is replaced all the time
        before = len(text(log))
        until(lambda: len(text(log)) > before + 50, what=lambda: text(log)[-200:])
        link.allow()
        before = len(text(log))
        with pytest.raises(AssertionError):
            until(lambda: len(text(log)) > before + 50, timeout_s=0.5)
    finally:
        ip("-n", link.machine, "route", "add", "10.88.0.0/24", "via", "10.77.0.1")


def test_gateway_in_the_vpn_reaches_its_machine_but_no_service_of_the_server(link: Link) -> None:
    """The far end of the link stands for a gateway: what comes from the beginning of the network is one's."""
    assert link.reaches(link.machine, "10.77.0.1", 8001)  # by the machine's own address
    ip("-n", link.machine, "addr", "add", "10.77.0.9/32", "dev", "eth0")
    ip("-n", link.machine, "route", "add", "10.77.0.1/32", "dev", "eth0", "src", "10.77.0.9")
    try:
        logs = {port: link.hold(link.machine, "10.77.0.1", port)[1] for port in (8001, 5432)}
        for port, log in logs.items():
            tries_in_vain(link.machine, "10.77.0.1", port, log)
    finally:
        ip("-n", link.machine, "addr", "del", "10.77.0.9/32", "dev", "eth0")
        ip("-n", link.machine, "route", "flush", "10.77.0.1/32")


def test_closed_connection_is_ended_at_the_machine_too(link: Link) -> None:
    """The last packets of a closed socket have no owner; were they stopped, the machine's RDP would stay open."""
    link.allow(Passage("uid:61003", MACHINE, RDP))
    before = _connections(link)  # of passages that were cut: the machine has not heard of that
    holder, log = link.hold(link.server, MACHINE, RDP, user=61003)
    until(lambda: said(log, "connected"))
    mine = _connections(link) - before
    assert mine
    holder.kill()
    until(lambda: not mine & _connections(link), what="the machine has heard the end")


def _tries(space: str, host: str, port: int) -> list[int]:
    """Of each connection there that has no answer yet: how often it was asked for again."""
    table = ip("netns", "exec", space, "cat", "/proc/net/tcp")
    other = f"{int.from_bytes(IPv4Address(host).packed, sys.byteorder):08X}:{port:04X}"
    rows = [line.split() for line in table.splitlines()[1:]]
    return [int(row[6], 16) for row in rows if row[2] == other and row[3] == "02"]


def tries_in_vain(space: str, host: str, port: int, log: Path) -> None:
    """A peer's first try got no answer, which takes no time in one computer: it has asked again."""
    until(lambda: any(_tries(space, host, port)) or said(log, "no way"), what=lambda: text(log))
    assert not said(log, "connected")


def _connections(link: Link) -> set[str]:
    """The other ends of connections at the machine, in whatever state, as its kernel lists them (0A: it listens)."""
    table = ip("netns", "exec", link.machine, "cat", "/proc/net/tcp")
    port = f":{RDP:04X}"
    rows = [line.split() for line in table.splitlines()[1:]]
    return {row[2] for row in rows if row[1].endswith(port) and row[3] != "0A"}


def test_one_address_gets_so_many_connections_to_openvpn_over_tcp(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVPN gives each a place before it has said a word; the others' places are not for one to take."""
    monkeypatch.setattr(isolation, "TCP_AT_ONCE", 8)
    config = replace(CONFIG, tcp_ports=frozenset({443}))
    link.allow(config=config)
    link.listen(link.server, "0.0.0.0", 443)
    holder, log = link.run(link.behind, "crowd", "10.88.0.1", "443", "12")
    until(lambda: said(log, "got 8."), what=lambda: text(log))
    link.allow(Passage("uid:61003", MACHINE, RDP), config=config)  # the rules are put back all the time
    assert not link.reaches(link.behind, "10.88.0.1", 443)
    assert link.reaches(link.behind, "10.88.0.1", 8001)  # another port is not OpenVPN's
    ip("-n", link.behind, "addr", "add", "10.88.0.3/24", "dev", "eth0")
    try:
        ip("-n", link.behind, "route", "replace", "10.88.0.1/32", "dev", "eth0", "src", "10.88.0.3")
        assert link.reaches(link.behind, "10.88.0.1", 443)
    finally:
        ip("-n", link.behind, "addr", "del", "10.88.0.3/24", "dev", "eth0")
        ip("-n", link.behind, "route", "flush", "10.88.0.1/32")
    holder.kill()
    until(lambda: link.reaches(link.behind, "10.88.0.1", 443), what="those that have ended leave room")


def test_one_address_gets_so_many_new_connections_to_openvpn_a_second(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "TCP_A_SECOND", 1)
    monkeypatch.setattr(isolation, "_TCP_BURST", 5)
    config = replace(CONFIG, tcp_ports=frozenset({444}))
    link.allow(config=config)
    link.listen(link.server, "0.0.0.0", 444)
    _, log = link.run(link.behind, "crowd", "10.88.0.1", "444", "14")
    until(lambda: said(log, "got "), what=lambda: text(log))
    got = int(text(log).split("got ")[1].split(".")[0])
    assert 5 <= got < 14, text(log)
    assert link.reaches(link.behind, "10.88.0.1", 444)  # its second try, a second later, gets through


def test_room_at_openvpn_is_given_back_with_tcp(link: Link) -> None:
    link.allow(config=replace(CONFIG, tcp_ports=frozenset({443})))
    assert "dport 443" in ip("netns", "exec", link.server, "nft", "list", "ruleset")
    link.allow()
    assert CONFIG.door_table not in ip("netns", "exec", link.server, "nft", "list", "ruleset")


def test_script_can_be_repeated_and_removed(link: Link) -> None:
    passage = Passage("uid:61003", MACHINE, RDP)
    config = replace(CONFIG, tcp_ports=frozenset({443, 1194}))
    link.allow(passage, config=config)
    once = _tables(link)
    assert len(once) == 2
    link.allow(passage, config=config)
    assert _tables(link) == once
    for _ in range(2):
        subprocess.run(
            ["ip", "netns", "exec", link.server, "nft", "-f", "-"],
            input=isolation.removal(CONFIG), text=True, check=True, timeout=30,
        )  # fmt: skip
    assert ip("netns", "exec", link.server, "nft", "list", "ruleset") == ""


def test_kernel_that_cannot_count_connections_keeps_machines_apart_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    carried_out: list[str] = []

    def run(script: str) -> None:
        if "ct count" in script:
            raise NftError("Could not process rule: No such file or directory")
        carried_out.append(script)

    monkeypatch.setattr(nft, "run", run)
    isolate = authorise.isolate_by(replace(CONFIG, tcp_ports=frozenset({443})))
    isolate(frozenset())
    isolate(frozenset())
    assert carried_out == [isolation.script(CONFIG, ())] * 2
    assert caplog.text.count("may take all places of OpenVPN over TCP") == 1


def _tables(link: Link) -> list[str]:
    """One text each, sorted: nft lists them as they were made."""
    listed = ip("netns", "exec", link.server, "nft", "list", "ruleset")
    return sorted(table.strip() for table in listed.split("table ") if table)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Passage("uid:0", MACHINE, RDP),
        lambda: Passage("uid:1; accept", MACHINE, RDP),
        lambda: Passage("10.0.0.1 . 10.0.0.2", MACHINE, RDP),
        lambda: Passage("uid:61003", "10.77.1.1 }", RDP),
        lambda: Passage("uid:61003", MACHINE, 0),
        lambda: IsolationConfig('x" accept', IPv4Address("10.77.0.1"), 8001),
        lambda: IsolationConfig("tun-pf", IPv4Address("10.77.0.1"), 8001, range(0, 10)),
        lambda: IsolationConfig("tun-pf", IPv4Address("10.77.0.1"), 8001, tcp_ports=frozenset({0})),
    ],
)
def test_what_no_rule_can_hold_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError):
        make()
