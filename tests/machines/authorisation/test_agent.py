"""The agent's thread at a management socket that is strict, breaks off, falls silent or talks nonsense."""

from __future__ import annotations

import ipaddress
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import pytest

from machines.authorisation import admission
from machines.authorisation import agent as agent_module
from machines.authorisation.agent import Agent
from machines.authorisation.allow_list import Allowed, AllowList
from machines.authorisation.hands import Fresh, Hands
from machines.authorisation.outcomes import Alarm, Heard, Joined, Left
from machines.authorisation.rows import Fact, Wishes
from machines.authorisation.ways import Way
from tests.fakes.openvpn import FakeOpenVpn
from tests.machines.authorisation.bed import until

FLEET = {f"m-{number}": f"{number:064x}" for number in range(1, 401)}
LIST = AllowList(
    {name: Allowed(f"10.77.{1 + at // 250}.{at % 250 + 1}", frozenset({FLEET[name]})) for at, name in enumerate(FLEET)}
)


class IdleHands:
    """Takes what it is given and does nothing, as while the database hangs."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.fresh: Fresh | None = Fresh(Wishes(LIST), 0)
        self.on_fresh: Callable[[], None] = lambda: None
        self.heard: Mapping[uuid.UUID, Heard] = {}

    def put(self, fact: Fact) -> None:
        self.facts.append(fact)

    def put_heard(self, heard: Mapping[uuid.UUID, Heard], ways: Iterable[Way]) -> None:
        self.heard = heard

    def wish(self, allow_list: AllowList) -> None:
        self.fresh = Fresh(Wishes(allow_list), time.monotonic())
        self.on_fresh()

    def kinds(self) -> list[type[Fact]]:
        return [type(fact) for fact in self.facts]


@pytest.fixture
def server() -> Iterator[FakeOpenVpn]:
    # A socket's path is short in the kernel; pytest's folders are not.
    folder = Path(tempfile.mkdtemp(prefix="pf-"))
    server = FakeOpenVpn(folder / "m.sock")
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)
    assert server.misunderstood == []


@pytest.fixture
def hands() -> IdleHands:
    return IdleHands()


@pytest.fixture
def agent(server: FakeOpenVpn, hands: IdleHands) -> Iterator[Agent]:
    network = ipaddress.IPv4Network("10.77.0.0/20")
    agent = Agent(server.path, network, cast(Hands, hands), allow_list=LIST, known=[])
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    until(lambda: agent.is_answering)
    yield agent
    stop.set()
    agent.wake()
    thread.join(30)
    assert not thread.is_alive()


def test_second_openvpn_that_hangs_keeps_nobody_from_the_first(
    monkeypatch: pytest.MonkeyPatch, server: FakeOpenVpn, hands: IdleHands
) -> None:
    monkeypatch.setattr(agent_module, "_ANSWER_S", 60)
    second = FakeOpenVpn(server.path.with_name("t.sock"))
    second.start()
    routes: list[frozenset[str]] = []
    network = ipaddress.IPv4Network("10.77.0.0/20")
    agent = Agent(
        server.path, network, cast(Hands, hands), allow_list=LIST, known=[], tcp_socket_path=second.path,
        want_routes=routes.append,
    )  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        until(lambda: agent.is_answering and agent.is_answering_at(Way.TCP))
        # Both number their clients alike.
        one, other = server.asks("m-1", FLEET["m-1"]), second.asks("m-2", FLEET["m-2"])
        until(lambda: one.state == other.state == "inside")
        until(lambda: routes[-1:] == [{other.inside_address}])
        with monkeypatch.context() as patch:
            patch.setattr(second, "_obey", lambda line, body: second.said.append(line))
            second.hang_up()
            until(lambda: not agent.is_answering_at(Way.TCP))
            third = server.asks("m-3", FLEET["m-3"])
            until(lambda: third.state == "inside")  # within half of the time that the second one is waited for
        monkeypatch.setattr(agent_module, "_ANSWER_S", 0.3)
        until(lambda: agent.is_answering_at(Way.TCP))
        assert other.state == "inside" and hands.kinds().count(Left) == 0
        server.leaves(one)
        until(lambda: Left in hands.kinds())
        assert routes[-1] == {other.inside_address}
    finally:
        stop.set()
        agent.wake()
        thread.join(30)
        second.kill()
    assert second.misunderstood == []


def test_machine_gets_in_by_its_own_address(server: FakeOpenVpn, agent: Agent, hands: IdleHands) -> None:
    client = server.asks("m-1", FLEET["m-1"])
    until(lambda: client.state == "inside")
    assert client.inside_address == "10.77.1.1"
    until(lambda: Joined in hands.kinds())
    server.sends(client, 500)
    until(lambda: [one.bytes_received for one in hands.heard.values()] == [500])
    server.leaves(client)
    until(lambda: hands.kinds() == [Joined, Left])


def test_hostile_values_let_nobody_in_and_break_nothing(server: FakeOpenVpn, agent: Agent, hands: IdleHands) -> None:
    lies = {"UV_common_name": "m-1", "IV_X": "END", "UV_Y": '"; client-auth 0 1', "IV_Z": "x" * 10_000}
    stranger = server.asks("m-1\\n", FLEET["m-1"], **lies)
    other = server.asks("m-999", "0" * 64, **lies)
    honest = server.asks("m-2", FLEET["m-2"], **lies)
    until(lambda: honest.state == "inside")
    until(lambda: (stranger.state, other.state) == ("denied", "denied"))
    assert hands.kinds().count(Alarm) == 2


def test_200_machines_at_once_get_in_while_the_database_hangs(server: FakeOpenVpn, agent: Agent) -> None:
    begun = time.monotonic()
    clients = [server.asks(name, print_) for name, print_ in list(FLEET.items())[:200]]
    until(lambda: all(client.state == "inside" for client in clients))
    assert len({client.inside_address for client in clients}) == 200
    assert time.monotonic() - begun < 10


def test_revoked_machine_is_told_at_once(server: FakeOpenVpn, agent: Agent, hands: IdleHands) -> None:
    client, other = server.asks("m-1", FLEET["m-1"]), server.asks("m-2", FLEET["m-2"])
    until(lambda: (client.state, other.state) == ("inside", "inside"))
    hands.wish(AllowList({"m-2": LIST.machines["m-2"]}))
    until(lambda: "client-kill 0 HALT" in server.said)
    until(lambda: client.state == "gone")
    server.renegotiates(other)
    until(lambda: "client-auth-nt 1 2" in server.said)
    assert other.state == "inside"


def test_machine_that_does_not_hear_halt_is_dropped(server: FakeOpenVpn, agent: Agent, hands: IdleHands) -> None:
    server.goodbye_s = 60
    client = server.asks("m-1", FLEET["m-1"])
    until(lambda: client.state == "inside")
    hands.wish(AllowList())
    until(lambda: client.state == "gone")
    assert server.said[-1] == "kill 192.0.2.7:40000"


def test_broken_connection_is_made_again_and_nobody_is_sent_away(
    server: FakeOpenVpn, agent: Agent, hands: IdleHands
) -> None:
    client = server.asks("m-1", FLEET["m-1"])
    until(lambda: client.state == "inside" and Joined in hands.kinds())
    server.hang_up()
    until(lambda: server.said.count("status 3") >= 2)
    late = server.asks("m-2", FLEET["m-2"])
    until(lambda: late.state == "inside")
    assert client.state == "inside"
    assert not any(line.startswith("client-kill") for line in server.said)


def test_killed_server_comes_back_and_its_tunnels_have_ended(
    server: FakeOpenVpn, agent: Agent, hands: IdleHands
) -> None:
    client = server.asks("m-1", FLEET["m-1"])
    until(lambda: client.state == "inside" and Joined in hands.kinds())
    server.kill()
    server.start()
    until(lambda: hands.kinds() == [Joined, Left])
    again = server.asks("m-1", FLEET["m-1"])
    until(lambda: again.state == "inside")


def test_who_waited_at_a_server_that_was_killed_is_not_answered_at_the_next(
    server: FakeOpenVpn, agent: Agent, hands: IdleHands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers begin anew there: the answer would be for somebody else."""
    monkeypatch.setattr(admission, "FRESH_LIST_S", 60)
    hands.fresh = None
    for name in ("m-998", "m-999"):
        server.asks(name, "0" * 64)
    # Who comes after them is in: the agent knows that they wait.
    known = server.asks("m-2", FLEET["m-2"])
    until(lambda: known.state == "inside")
    server.kill()
    server.start()
    until(lambda: server.said.count("status 3") >= 2 and agent.is_answering)
    newcomer = Allowed("10.77.5.5", frozenset({"0" * 64}))
    hands.wish(AllowList({"m-999": newcomer, "m-1": LIST.machines["m-1"]}))
    client = server.asks("m-1", FLEET["m-1"])
    until(lambda: client.state == "inside")
    assert [line for line in server.said if line.startswith("client-")] == ["client-auth 2 1", "client-auth 0 1"]


def test_nonsense_ends_the_connection_and_the_next_one_works(server: FakeOpenVpn, agent: Agent) -> None:
    server.noise(b">CLIENT:CONNECT,one,two\r\n")
    until(lambda: server.said.count("status 3") >= 2)
    client = server.asks("m-1", FLEET["m-1"])
    until(lambda: client.state == "inside")


def test_silent_server_is_left_and_tried_again(monkeypatch: pytest.MonkeyPatch, server: FakeOpenVpn) -> None:
    monkeypatch.setattr(agent_module, "_ANSWER_S", 0.5)
    monkeypatch.setattr(server, "_obey", lambda line, body: server.said.append(line))
    stop = threading.Event()
    hands = IdleHands()
    agent = Agent(server.path, ipaddress.IPv4Network("10.77.0.0/20"), cast(Hands, hands), allow_list=LIST, known=[])
    thread = threading.Thread(target=agent.run, args=(stop,))
    thread.start()
    try:
        until(lambda: server.said.count("status 3") >= 2)
        assert not agent.is_answering
        monkeypatch.setattr(server, "_obey", FakeOpenVpn._obey.__get__(server))
        until(lambda: agent.is_answering)
    finally:
        stop.set()
        agent.wake()
        thread.join(30)


def test_same_trouble_again_and_again_is_recorded_once(server: FakeOpenVpn, agent: Agent, hands: IdleHands) -> None:
    clients = [server.asks("m-999", "0" * 64) for _ in range(3)]
    until(lambda: all(client.state == "denied" for client in clients))
    assert hands.kinds() == [Alarm]
