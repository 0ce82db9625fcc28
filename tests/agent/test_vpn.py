"""The tunnel: had while it is held, brought back when it breaks, one at a time, and never left behind."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import openvpn, vpn
from agent.config import AgentConfig
from agent.files import read_json
from agent.openvpn import ManagementReader
from agent.vpn import Tunnel
from tests.agent.tunnel_files import TunnelFiles, is_alive
from tests.waiting import LONG_S, until

_ROOT = Path(__file__).resolve().parents[2]
_NEVER = threading.Event()


@pytest.fixture
def tunnel_config(far_end: TunnelFiles, config: AgentConfig) -> AgentConfig:
    return dataclasses.replace(config, vpn_profile=far_end.profile, vpn_program=str(far_end.program))


@pytest.fixture
def tunnel(tunnel_config: AgentConfig, far_end: TunnelFiles) -> Iterator[Tunnel]:
    kept = Tunnel(tunnel_config)
    yield kept
    kept.close()
    until(lambda: not far_end.running, "no program is left")
    assert far_end.never_two_at_once


def test_tunnel_is_up_while_it_is_held(tunnel: Tunnel, far_end: TunnelFiles) -> None:
    assert tunnel.address == ""
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S) and tunnel.address == "127.64.7.7"
    (run,) = far_end.runs
    assert run["group"] == run["pid"] != os.getpgid(0), "a group of its own: Ctrl-C is for the agent"
    tunnel.hold()
    tunnel.release()
    assert tunnel.address == "127.64.7.7", "the first holder still needs it"
    tunnel.release()
    assert tunnel.address == "" and not far_end.running and len(far_end.runs) == 1


def test_state_file_names_the_process_and_goes_with_it(
    tunnel: Tunnel, far_end: TunnelFiles, config: AgentConfig
) -> None:
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    path = config.state_dir / "vpn.json"
    until(lambda: (read_json(path) or {}).get("state") == "up", "the file says so too")
    document = read_json(path) or {}
    assert document["pid"] in far_end.running and path.stat().st_mode & 0o777 == 0o600
    tunnel.release()
    assert not path.exists() and not (config.state_dir / "openvpn.sock").exists()


def test_refused_machine_tries_again_and_knows_for_how_long(tunnel: Tunnel, far_end: TunnelFiles) -> None:
    far_end.script("refuse", "refuse", "silent", "connect")
    seen: list[str] = []
    tunnel.on_break = lambda: seen.append(tunnel.state.detail)
    tunnel.hold()
    until(lambda: len(far_end.runs) == 3, "a third try after the second refusal")
    assert tunnel.state.name == "refused", "what the server said last holds until it says otherwise"
    assert tunnel.state.is_ended_by_server and tunnel.state.ended_for_s > 0
    os.kill(far_end.running[0], signal.SIGTERM)
    assert tunnel.wait_until_up(_NEVER, LONG_S) and len(far_end.runs) == 4
    assert tunnel.state.ended_for_s == 0
    assert "no open support  session" in seen, "the server's reason, without its control characters"


def test_halt_is_told_from_a_refusal_and_from_a_crash(tunnel: Tunnel, far_end: TunnelFiles) -> None:
    far_end.script("crash", "connect")
    names: list[str] = []
    tunnel.on_break = lambda: names.append(tunnel.state.name)
    tunnel.hold()
    until(lambda: tunnel.state.is_up, "it is up after the crash")
    far_end.do("halt")
    until(lambda: "halted" in names, "the halt is told")
    assert tunnel.wait_until_up(_NEVER, LONG_S), "somebody still holds it: it comes back"
    assert [run["word"] for run in far_end.runs] == ["crash", "connect", "connect"]


def test_expected_halt_is_the_end(tunnel: Tunnel, far_end: TunnelFiles) -> None:
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    tunnel.expect_end()
    far_end.do("halt")
    until(lambda: not far_end.running, "it ended")
    until(lambda: tunnel.state.name == "halted", "its end was expected")
    tunnel.release()
    assert len(far_end.runs) == 1
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S), "the next rescue has one of its own"


def test_end_that_one_holder_expects_does_not_take_it_from_another(tunnel: Tunnel, far_end: TunnelFiles) -> None:
    """`when = always`: the server halts at the end of each rescue, and the tunnel is back soon."""
    tunnel.hold()
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    tunnel.expect_end()
    tunnel.release()
    far_end.do("halt")
    until(lambda: len(far_end.runs) == 2 and tunnel.state.is_up, "it is back")


def test_lost_line_is_waited_for_and_said_when_it_is_back(tunnel: Tunnel, far_end: TunnelFiles) -> None:
    breaks: list[str] = []
    tunnel.on_break = lambda: breaks.append(tunnel.state.name)
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    far_end.do("lose")
    until(lambda: breaks, "the loss is told")
    assert tunnel.address == "" and breaks == ["lost"]
    far_end.do("back")
    until(lambda: tunnel.address, "it is back")
    assert len(far_end.runs) == 1, "OpenVPN came back by itself"


def test_silence_ends_the_calls_that_waited_through_it(
    tunnel: Tunnel, far_end: TunnelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaks: list[str] = []
    tunnel.on_break = lambda: breaks.append(tunnel.state.name)
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    far_end.do("traffic 100")
    far_end.do("traffic 200")
    far_end.do("traffic 200")
    # Events are followed in their order: once this loss is told, so is the traffic before it.
    far_end.do("lose")
    until(lambda: breaks, "the loss is told")
    assert breaks == ["lost"]
    far_end.do("back")
    until(lambda: tunnel.address, "it is back")
    breaks.clear()
    monkeypatch.setattr(vpn, "SILENCE_S", 0.0)
    far_end.do("traffic 200")
    far_end.do("traffic 300")
    until(lambda: breaks == ["up"], "the line is heard again")


def test_tunnel_of_another_process_is_shared_and_taken_over(
    tunnel: Tunnel, tunnel_config: AgentConfig, far_end: TunnelFiles
) -> None:
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    # Another open file, so to the lock another process.
    second = Tunnel(tunnel_config)
    second.hold()
    assert second.wait_until_up(_NEVER, LONG_S) and second.address == "127.64.7.7" and len(far_end.runs) == 1
    tunnel.release()
    until(lambda: len(far_end.runs) == 2 and second.address, "the second runs its own now")
    second.close()
    assert not far_end.running


def _agent_that_is_killed(tunnel_config: AgentConfig) -> subprocess.Popen[bytes]:
    code = (
        "import sys, threading, pathlib; from agent.config import AgentConfig; from agent.vpn import Tunnel\n"
        "t = Tunnel(AgentConfig(api_url='http://127.0.0.1:1', token='a.b', state_dir=pathlib.Path(sys.argv[1]),"
        " vpn_profile=pathlib.Path(sys.argv[2]), vpn_program=sys.argv[3]))\n"
        "t.hold(); t.wait_until_up(threading.Event(), 60); threading.Event().wait()"
    )
    return subprocess.Popen(
        [
            *(sys.executable, "-c", code, str(tunnel_config.state_dir)),
            *(str(tunnel_config.vpn_profile), tunnel_config.vpn_program),
        ],
        cwd=_ROOT,
    )


def test_killed_agent_leaves_a_program_that_the_next_run_ends(
    tunnel: Tunnel, tunnel_config: AgentConfig, far_end: TunnelFiles
) -> None:
    path = tunnel_config.state_dir / "vpn.json"
    with _agent_that_is_killed(tunnel_config) as agent:
        until(lambda: (read_json(path) or {}).get("state") == "up", "the first agent's tunnel is up")
        (first,) = far_end.running
        os.kill(first, signal.SIGSTOP)  # it cannot end by itself, as it would
        agent.kill()
    assert is_alive(first)
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    assert not is_alive(first) and len(far_end.running) == 1


def test_program_ends_by_itself_when_its_agent_is_killed(tunnel_config: AgentConfig, far_end: TunnelFiles) -> None:
    path = tunnel_config.state_dir / "vpn.json"
    with _agent_that_is_killed(tunnel_config) as agent:
        until(lambda: (read_json(path) or {}).get("state") == "up", "the tunnel is up")
        agent.kill()
    until(lambda: not far_end.running, "the program ended")


def test_process_that_only_has_the_number_of_a_leftover_is_left_alone(
    tunnel: Tunnel, tunnel_config: AgentConfig
) -> None:
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as innocent:
        (tunnel_config.state_dir / "vpn.json").write_text(f'{{"pid": {innocent.pid}, "birth": "1"}}')
        tunnel.hold()
        assert tunnel.wait_until_up(_NEVER, LONG_S)
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.parametrize("missing", ["profile", "program"])
def test_what_is_missing_is_named_and_nothing_is_tried(
    tunnel_config: AgentConfig, far_end: TunnelFiles, missing: str
) -> None:
    (far_end.profile if missing == "profile" else far_end.program).unlink()
    tunnel = Tunnel(tunnel_config)
    tunnel.hold()
    assert tunnel.state.is_hopeless and f"{far_end.folder}" in tunnel.state.detail and "expected" in tunnel.state.detail
    assert not tunnel.wait_until_up(_NEVER, 0.1)
    tunnel.release()
    assert far_end.runs == []


def test_socket_finds_room_for_its_name_below_a_long_path(
    tunnel_config: AgentConfig, far_end: TunnelFiles, tmp_path: Path
) -> None:
    config = dataclasses.replace(tunnel_config, state_dir=tmp_path / ("deep" * 25))
    tunnel = Tunnel(config)
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    tunnel.release()


def test_steps_are_logged_one_line_each(tunnel: Tunnel, far_end: TunnelFiles, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    tunnel.hold()
    assert tunnel.wait_until_up(_NEVER, LONG_S)
    tunnel.release()
    steps = [record.getMessage().split(",")[0].split("(")[0].strip() for record in caplog.records]
    assert steps == [f"vpn: started {far_end.program}", "vpn: up", "vpn: no longer needed"]


_SAID = (
    b">INFO:OpenVPN Management Interface Version 5\r\nSUCCESS: real-time state notification set to ON\r\n"
    b"1795440247,CONNECTING,,,,,,\r\nEND\r\n>STATE:1795440247,CONNECTED,SUCCESS,10.77.1.1,192.0.2.1,1194,,\r\n"
    b">BYTECOUNT:2367,3015\r\n>NOTIFY:info,server-pushed-halt,operator closed it\r\n>STATE:1,EXITING,x,,,,,\r\n"
    b">PASSWORD:Verification Failed: 'Auth'\r\n>LOG:1,I,\xff\xfe\r\n>STATE:nonsense\r\n"
)


def test_management_lines_mean_the_same_however_they_are_cut() -> None:
    whole = ManagementReader().feed(_SAID)
    assert [event.kind for event in whole] == ["connecting", "connected", "traffic", "halted", "refused"]
    assert (whole[1].address, whole[2].received, whole[3].detail) == ("10.77.1.1", 2367, "operator closed it")
    for size in (1, 2, 7):
        reader = ManagementReader()
        pieces = [_SAID[at : at + size] for at in range(0, len(_SAID), size)]
        assert [event for piece in pieces for event in reader.feed(piece)] == whole


def test_endless_management_line_takes_no_endless_memory() -> None:
    reader = ManagementReader()
    for _ in range(20):
        assert reader.feed(b"x" * 100_000) == []
    assert len(reader._rest) <= openvpn._LINE_LIMIT
