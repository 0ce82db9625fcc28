"""Gateways that join the VPN themselves, as tasks on AWS do: a real OpenVPN, join.py and guacd in namespaces."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from portal.demo.vpn.namespaces import Namespaces, inside, ip, processes_in
from tests.vpn.bed import Installation, installed, name_of, wait_until
from tests.vpn.machines import DistantMachine
from tests.vpn.test_admission import is_written_down, joined
from tests.vpn.test_isolation import API, ready

pytestmark = pytest.mark.timeout(240)
SERIALS = ["A1", "A2"]
DOOR, GUACD = 4823, 4822


@pytest.fixture(scope="module")
def tasks() -> Iterator[dict[str, str]]:
    """Namespaces for tasks, and the address that each will have."""
    with Namespaces() as spaces:
        yield {spaces.add(f"t{number}"): f"10.88.0.1{number}" for number in (1, 2)}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """What tasks keep, in memory."""
    made = Path(tempfile.mkdtemp(prefix="pf-tasks-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def vpn(tasks: dict[str, str], folder: Path) -> Iterator[Installation]:
    """An installation with such gateways, one of them ready before anybody presses.

    They know the VPN's server by its address in their own network.
    """
    values = {
        "GATEWAY": "tests.vpn.tasks.Tasks",
        "TASKS": ",".join(f"{space}={address}" for space, address in tasks.items()),
        "TASKS_FOLDER": str(folder),
        "GATEWAY_VPN_REMOTE": "10.88.0.1",
        "GATEWAY_WARM": "1",
        "MACHINE_TELL_DEADLINE_S": "5",
    }
    with installed(SERIALS, **values) as installation:
        link(installation.bed.server, tasks)
        yield installation
        said = "\n".join(installation.log_of(name) for name in ("server", "authorise"))
        assert "Traceback" not in said, said[-4000:]


def link(server: str, tasks: dict[str, str]) -> None:
    """One network for the server and the tasks, as a VPC is; what its security groups forbid is not looked at here."""
    ip("-n", server, "link", "add", "br0", "type", "bridge")
    ip("-n", server, "addr", "add", "10.88.0.1/24", "dev", "br0")
    ip("-n", server, "link", "set", "br0", "up")
    for number, (space, address) in enumerate(tasks.items()):
        ip("link", "add", f"t{number}", "netns", server, "type", "veth", "peer", "eth0", "netns", space)
        ip("-n", server, "link", "set", f"t{number}", "master", "br0", "up")
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        ip("-n", space, "route", "add", "default", "via", "10.88.0.1")


class Task:
    """A gateway that is ready: its row, and what is where it runs."""

    def __init__(self, vpn: Installation, row: dict[str, Any]) -> None:
        self.vpn, self.number = vpn, row["id"]
        handle = json.loads(row["handle"])
        self.space, self.address = handle["space"], handle["vpn_address"]

    @property
    def identity(self) -> dict[str, Any]:
        query = "SELECT * FROM machines_gatewayidentity WHERE replace(attempt_id, '-', '') = ?"
        (row,) = self.vpn.rows(query, self.number)
        return row

    def folder(self, of: Path) -> Path:
        return of / str(self.identity["attempt_id"])

    def program(self, name: str) -> int:
        """The process of that name in the task."""
        pids = processes_in(self.space)
        return next((pid for pid in pids if name_of(pid) == name), 0)


def gateways(vpn: Installation, *, warm: bool) -> list[dict[str, Any]]:
    return vpn.rows(
        f"SELECT * FROM support_gateway WHERE state = 'ready' AND session_id IS {'' if warm else 'NOT'} NULL"
    )


@pytest.fixture(scope="module")
def machine(vpn: Installation) -> Iterator[DistantMachine]:
    with vpn.machine("A1") as a1:
        yield a1


@pytest.fixture(scope="module")
def both(vpn: Installation, machine: DistantMachine, folder: Path) -> tuple[Task, Task]:
    """The gateway of A1's rescue, which holds its desktop through its tunnel, and the next one, which waits."""

    def wait(holds: Callable[[], object], what: str) -> None:
        wait_until(holds, what=lambda: f"{what}: {logs(vpn, folder)}", within_s=60)

    wait(lambda: gateways(vpn, warm=True), "one is ready before anybody presses")
    machine.press()
    wait(lambda: ready(vpn, "A1"), "the desktop of A1 is held")
    wait(lambda: gateways(vpn, warm=True), "the next one is ready")
    (own,), (waiting,) = gateways(vpn, warm=False), gateways(vpn, warm=True)
    return Task(vpn, own), Task(vpn, waiting)


def logs(vpn: Installation, folder: Path) -> str:
    said = [path.read_text("utf-8", "replace") for path in folder.glob("*.log")]
    return "\n".join([*said, vpn.log_of("server")])[-6000:]


def test_desktop_is_held_through_the_gateways_own_tunnel(
    vpn: Installation, both: tuple[Task, Task], tasks: dict[str, str], folder: Path
) -> None:
    own, waiting = both
    assert {own.address, waiting.address} == {"10.77.0.2", "10.77.0.3"}
    assert own.identity["remote_address"] == tasks[own.space]
    assert f"{own.address} . {vpn.clerk('address', 'A1')} . 3389" in vpn.nft()
    assert waiting.address not in vpn.nft()
    # Nobody else reads what is kept there.
    files = {path.name: path.stat().st_mode & 0o777 for path in own.folder(folder).iterdir()}
    assert own.folder(folder).stat().st_mode & 0o777 == 0o700
    assert files.pop("key.pem") == files.pop("profile.ovpn") == 0o600


def test_gateway_reaches_its_machine_and_nothing_else(vpn: Installation, both: tuple[Task, Task]) -> None:
    own, waiting = both
    other = vpn.openvpn("A2", vpn.clerk("profile", "A2"))
    joined(other)
    is_written_down(vpn, "A2")
    machine, foreign = vpn.clerk("address", "A1"), vpn.clerk("address", "A2")
    with vpn.listener("A2", "0.0.0.0", 3389):
        assert vpn.opens("A2", foreign, 3389)  # there is something to reach
        assert vpn.opens_from(own.space, machine, 3389)
        closed = [(machine, 22), (foreign, 3389), (waiting.address, GUACD), (waiting.address, DOOR), API]
        assert vpn.connects_from(own.space, closed) == ["silent"] * len(closed)
        closed = [(machine, 3389), (foreign, 3389), (own.address, GUACD), API]
        assert vpn.connects_from(waiting.space, closed) == ["silent"] * len(closed)
    # What is closed to gateways is open to machines, and the other way round.
    assert vpn.opens("A2", *API)
    assert vpn.connects_from(vpn.bed.namespaces["A1"], [(own.address, GUACD), (own.address, DOOR)]) == ["silent"] * 2
    vpn.bed.supervisor.end([other])


def test_gateway_takes_no_second_profile_and_its_place_is_not_to_be_had(
    vpn: Installation, both: tuple[Task, Task], tasks: dict[str, str], folder: Path
) -> None:
    own, _ = both
    profile = (own.folder(folder) / "profile.ovpn").read_text()
    for source in (vpn.bed.server, own.space):
        with inside(source):
            assert post(tasks[own.space], {"profile": profile, "address": "10.77.0.9"}) == 409
    with inside(own.space), pytest.raises(OSError, match="Address already in use"):
        socket.create_server(("", DOOR))


def test_openvpn_that_was_killed_is_back_and_the_rescue_goes_on(vpn: Installation, both: tuple[Task, Task]) -> None:
    own, _ = both
    before = own.identity["connected_at"]
    os.kill(own.program("openvpn"), signal.SIGKILL)
    wait_until(lambda: own.identity["connected_at"] != before, what="it is in the VPN again")
    assert own.identity["address"] == own.address
    assert vpn.opens_from(own.space, vpn.clerk("address", "A1"), 3389)
    assert ready(vpn, "A1") and [row["id"] for row in gateways(vpn, warm=False)] == [own.number]


def test_next_agent_takes_gateways_over_as_they_are(vpn: Installation, both: tuple[Task, Task]) -> None:
    own, _ = both
    before, starts = own.identity, vpn.log_of("authorise").count("At OpenVPN's management socket")
    vpn.bed.authorise.kill()
    wait_until(
        lambda: vpn.log_of("authorise").count("At OpenVPN's management socket") > starts, what="the agent is back"
    )
    assert own.identity == before
    assert "was sent round" not in vpn.log_of("authorise")
    assert vpn.opens_from(own.space, vpn.clerk("address", "A1"), 3389)


def test_withdrawn_gateway_is_cut_off_though_its_task_lives(vpn: Installation, both: tuple[Task, Task]) -> None:
    _, waiting = both
    assert vpn.pings_from(waiting.space, API[0], within_s=20)
    vpn.clerk("withdraw_gateway", waiting.identity["attempt_id"])
    wait_until(lambda: waiting.identity["released_at"], what="it is out of the VPN")
    assert waiting.identity["left_at"] and waiting.program("guacd")
    assert not vpn.pings_from(waiting.space, API[0])


def test_nothing_of_a_gateway_is_left_when_its_rescue_is_over(
    vpn: Installation, machine: DistantMachine, both: tuple[Task, Task], folder: Path
) -> None:
    own, _ = both
    assert own.program("openvpn")
    machine.cancel()
    wait_until(lambda: own.identity["released_at"], what="it is out of the VPN")
    wait_until(lambda: not own.folder(folder).exists(), what="its task has ended")
    wait_until(lambda: f"{own.address} ." not in vpn.nft(), what="its passage is gone")
    kinds = {event["kind"] for event in vpn.clerk("all_security_events")}
    assert "gateway_identity_revoked" in kinds and not kinds & {"gateway_refused", "vpn_duplicate"}


def post(host: str, document: dict[str, str]) -> int:
    line = http.client.HTTPConnection(host, DOOR, timeout=30)
    line.request("POST", "/profile", json.dumps(document))
    return line.getresponse().status
