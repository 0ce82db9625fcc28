"""A simulated machine as it really runs: X server, Tk screen, FreeRDP server, agent."""

from __future__ import annotations

import functools
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.config import ConfigError
from agent.credentials import Credentials
from agent.processes import birth_of
from agent.rdp import RdpError
from agent.simulator import Fleet, MachineConfig, SimulatedMachine
from agent.simulator.fleet import ask_simulator
from agent.simulator.rdp_server import is_listening
from tests.agent.guacd import login
from tests.agent.scripted_api import ScriptedApi
from tests.agent.tunnel_files import TunnelFiles
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]

_ROOT = Path(__file__).resolve().parents[2]
_ADDRESS = "127.64.9.1"


@pytest.fixture
def machine_config(server: ScriptedApi, tmp_path: Path) -> MachineConfig:
    return MachineConfig.write(
        tmp_path / "IT-0042",
        token=server.token,
        serial="IT-0042",
        name="Lobby left",
        site="Stazione Centrale, Milano",
        time_zone="Europe/Rome",
        address=_ADDRESS,
        api_url=server.url,
        rdp_port=0,
        fault="E17",
        heartbeat_s=0.2,
    )


@pytest.fixture
def machine(machine_config: MachineConfig) -> Iterator[SimulatedMachine]:
    with SimulatedMachine(machine_config) as running:
        yield running


def _did(actions: int, machine: SimulatedMachine) -> bool:
    return bool(machine.screen["counters"]["actions"] == actions)


def _processes_of(folder: Path) -> list[str]:
    """The command lines of everything that runs for this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and int(path.parent.name) != os.getpid():
            found.append(line)
    return found


def test_rdp_is_open_during_the_rescue_only_and_the_sam_file_goes(
    server: ScriptedApi, machine: SimulatedMachine
) -> None:
    sam = machine.config.folder / "run" / "sam"
    assert machine.rdp_port is None and not sam.exists()
    machine.click_widget("help")
    machine.wait_for(lambda machine: machine.rescue.state == "requested")
    body = server.wait_for_calls("POST", 1)
    request = next(call for call in body if "support-requests" in call.path)
    assert request.peer == _ADDRESS and request.body["problem"] == {"code": "E17", "text": "Grinder jammed"}
    port = request.body["rdp"]["port"]
    assert port == machine.rdp_port and is_listening(_ADDRESS, port)
    assert stat.S_IMODE(sam.stat().st_mode) == 0o600
    assert request.body["rdp"]["password"] not in sam.read_text()
    running = _processes_of(machine.config.folder)
    assert sum("freerdp-shadow-cli" in line for line in running) == 1
    assert not any(request.body["rdp"]["password"] in line for line in running)

    server.update("r1", state="closing", end_reason="resolved", message="Repaired.")
    machine.wait_for(lambda machine: machine.rescue.state == "closing")
    assert not is_listening(_ADDRESS, port) and not sam.exists() and machine.rdp_port is None
    assert not (machine.config.folder / "agent" / "rescue.json").exists()
    server.update("r1", state="closed", message="Enjoy your coffee.")
    machine.wait_for(lambda machine: machine.screen["help"]["message"] == "Enjoy your coffee.")


def test_rdp_listens_on_the_tunnels_address_while_the_tunnel_is_up(
    server: ScriptedApi, tmp_path: Path, far_end: TunnelFiles
) -> None:
    config = MachineConfig.write(
        tmp_path / "IT-0043",
        token=server.token,
        serial="IT-0043",
        api_url=server.url,
        rdp_port=0,
        heartbeat_s=0.2,
        vpn_profile=os.path.relpath(far_end.profile, tmp_path / "IT-0043"),
        openvpn_program=str(far_end.program),
    )
    with SimulatedMachine(config) as machine:
        assert not far_end.runs, "no press, no tunnel"
        machine.press()
        machine.wait_for(lambda machine: machine.rescue.state == "requested")
        port = machine.rdp_port
        assert port and machine.line.address == "127.64.7.7" and is_listening("127.64.7.7", port)
        assert {call.peer for call in server.calls} == {"127.64.7.7"}
        server.update("r1", state="closing", end_reason="resolved", message="Solved.")
        machine.wait_for(lambda machine: machine.rescue.state == "closing")
        assert not is_listening("127.64.7.7", port)
        far_end.do("halt")
        machine.wait_for(lambda machine: machine.rescue.state == "closed")
        until(lambda: not far_end.running, "the tunnel is down", timeout_s=60)


def test_guacd_logs_in_with_the_one_off_password_only_and_works_the_machine(
    server: ScriptedApi, machine: SimulatedMachine
) -> None:
    machine.press()
    machine.wait_for(lambda machine: machine.rescue.state == "requested")
    rdp = next(call for call in server.calls if "support-requests" in call.path).body["rdp"]
    with login(_ADDRESS, rdp["port"], rdp["username"], "wrong" + rdp["password"]) as desktop:
        assert not desktop.shows_a_screen()
    with login(_ADDRESS, rdp["port"], rdp["username"], rdp["password"]) as desktop:
        assert desktop.shows_a_screen()
        for name in ("reset_grinder", "clear_fault"):
            x, y, width, height = machine.screen["widgets"][name]
            actions = machine.screen["counters"]["actions"] + 1
            desktop.click(x + width // 2, y + height // 2)
            machine.wait_for(functools.partial(_did, actions))
        assert machine.screen["fault"] is None and machine.screen["serving"]
        desktop.type_text("bean")
        machine.wait_for(lambda machine: machine.screen["note"] == "bean")
    server.update("r1", state="closed")
    machine.wait_for(lambda machine: machine.rescue.state == "closed")


def test_buttons_keys_and_typing_change_the_machine_and_its_picture(machine: SimulatedMachine) -> None:
    badge = (60, 170)  # the square that holds the fault's code
    red = machine.pixel(*badge)
    assert machine.screenshot().startswith(b"\x89PNG")
    machine.key("F4")
    machine.wait_for(lambda machine: machine.screen["log"][-1]["text"] == "E17 stays: The grinder is still jammed.")
    machine.click_widget("reset_grinder")
    machine.key("F4")
    machine.wait_for(lambda machine: machine.screen["fault"] is None)
    machine.wait_for(lambda machine: machine.pixel(*badge) != red)
    machine.type_text("é ok?")
    machine.wait_for(lambda machine: machine.screen["note"] == "é ok?")
    assert machine.screen["help"]["state"] == ""


def test_person_at_the_machine_reads_how_it_stands_and_can_withdraw(
    server: ScriptedApi, machine: SimulatedMachine
) -> None:
    machine.click_widget("help")
    machine.wait_for(lambda machine: machine.screen["help"]["state"] == "requested")
    server.update("r1", state="active", message="Alice is repairing.", operator_name="Alice Rossi")
    machine.wait_for(lambda machine: machine.screen["help"]["operator"] == "Alice Rossi")
    server.wait_for_poll("r1")  # between two calls a cancel would not wait for the server's word of the end
    machine.click_widget("cancel")
    machine.wait_for(lambda machine: machine.rescue.state == "closing")
    assert server.requests["r1"]["end_reason"] == "cancelled" and machine.rdp_port is None


def test_heartbeat_tells_the_fault_that_the_screen_shows(server: ScriptedApi, machine: SimulatedMachine) -> None:
    def told(faults: list[str]) -> Callable[[], bool]:
        return lambda: any((call.body or {}).get("faults") == faults for call in server.calls)

    until(told(["E17 Grinder jammed"]), "a heartbeat with E17", timeout_s=60)
    machine.break_down("E31")
    until(told(["E31 Payment terminal offline"]), "a heartbeat with E31", timeout_s=60)


def test_screen_that_dies_comes_back_with_what_support_said(server: ScriptedApi, machine: SimulatedMachine) -> None:
    machine.press()
    machine.wait_for(lambda machine: machine.screen["help"]["state"] == "requested")
    dead = machine._screen.pid
    os.kill(dead, signal.SIGSTOP)  # it draws no more, so what is drawn next is the next one's
    (machine.config.folder / "state.json").unlink()
    os.kill(dead, signal.SIGKILL)
    until((machine.config.folder / "state.json").exists, "the screen drawn again", timeout_s=60)
    assert machine._screen.pid != dead
    machine.wait_for(lambda machine: machine.screen["help"]["state"] == "requested")


def test_switching_off_leaves_nothing_and_switching_on_takes_the_rescue_up(
    server: ScriptedApi, machine_config: MachineConfig
) -> None:
    with SimulatedMachine(machine_config) as machine:
        machine.press()
        machine.wait_for(lambda machine: machine.rescue.state == "requested")
        port = machine.rdp_port
    assert port and not is_listening(_ADDRESS, port) and _processes_of(machine_config.folder) == []
    with SimulatedMachine(machine_config) as machine:
        machine.wait_for(lambda machine: machine.rescue.state == "requested" and machine.rdp_port is not None)
        assert machine.rdp_port == port and len(server.requests) == 1
        server.update("r1", state="closed")
        machine.wait_for(lambda machine: machine.rescue.state == "closed")


def test_killed_simulator_leaves_no_process_and_the_next_start_no_user(
    server: ScriptedApi, machine_config: MachineConfig
) -> None:
    folder = machine_config.folder
    ready = folder / "ready"
    command = [sys.executable, "-m", "agent.simulator"]
    simulator = subprocess.Popen(
        [*command, "run", "--folder", str(folder), "--street-port", "0", "--ready-file", str(ready)],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(ready.exists, "the simulator ready", timeout_s=60)
        press = subprocess.run(
            [*command, "press", "--folder", str(folder), "--code", "E17", "--text", "It smokes", "--no-wait"],
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert press.stdout.splitlines()[-1] == "requested: We have your request."
        (described,) = next(iter(ask_simulator(folder, {"do": "list"})))["machines"]
        assert described["rdp_port"] and birth_of(simulator.pid)
    finally:
        simulator.kill()
        simulator.wait()
    until(lambda: _processes_of(folder) == [], "all children dead", timeout_s=60)
    assert (folder / "run" / "sam").exists()
    server.update("r1", state="closed")
    with SimulatedMachine(machine_config) as machine:
        machine.wait_for(lambda machine: machine.rescue.state == "closed")
        assert not (folder / "run" / "sam").exists() and machine.rdp_port is None


def test_one_machine_runs_once(machine: SimulatedMachine) -> None:
    with pytest.raises(ConfigError, match="runs already in another process"):
        SimulatedMachine(machine.config).start()


def test_taken_rdp_port_is_said_and_nothing_is_left_open(
    server: ScriptedApi, machine: SimulatedMachine, machine_config: MachineConfig
) -> None:
    with socket.socket() as other:
        other.bind((_ADDRESS, 0))
        other.listen()
        machine._rdp._wanted_port = other.getsockname()[1]
        with pytest.raises(RdpError, match="is taken by another program"):
            machine._rdp.open(Credentials("help-abc", "pw"))
    assert not (machine_config.folder / "run" / "sam").exists()


def test_fleet_answers_the_terminal(server: ScriptedApi, machine_config: MachineConfig) -> None:
    folder = machine_config.folder.parent
    with Fleet(folder, street_port=None) as fleet:
        assert list(fleet.machines) == ["IT-0042"]
        state = next(iter(ask_simulator(folder, {"do": "state", "machine": "IT-0042"})))
        assert state["screen"]["fault"]["code"] == "E17"
        with pytest.raises(ValueError, match="found machine 'IT-9', expected one of IT-0042"):
            next(iter(ask_simulator(folder, {"do": "state", "machine": "IT-9"})))
        told = ask_simulator(folder, {"do": "press"})
        assert next(told)["state"] == "preparing"
        server.wait_for_calls("GET", 1)
        server.update("r1", state="closed", message="Done.")
        assert [line["state"] for line in told][-1] == "closed"
        assert not next(iter(ask_simulator(folder, {"do": "cancel"})))["was_open"]
    with pytest.raises(ConfigError, match="no simulator runs here"):
        next(iter(ask_simulator(folder, {"do": "list"})))
