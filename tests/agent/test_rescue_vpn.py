"""A rescue through a tunnel: first the line, then RDP, then the call; and at the end nothing of the three."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import rescue as rescue_module
from agent.api import ApiError, Stopped
from agent.config import AgentConfig
from agent.notices import Notice
from agent.rescue import Rescue
from agent.store import Problem, RescueStore
from agent.vpn import Tunnel, way_to_support
from tests.agent.scripted_api import ScriptedApi
from tests.agent.test_rescue import FakeHook, Machine
from tests.agent.tunnel_files import TunnelFiles
from tests.waiting import until

_ROOT = Path(__file__).resolve().parents[2]


class TunnelMachine(Machine):
    """A machine that reaches the server through a tunnel only."""

    def __init__(self, config: AgentConfig, far_end: TunnelFiles) -> None:
        super().__init__(dataclasses.replace(config, source_address=None))
        self.far_end = far_end
        self.hook: _WatchingHook = _WatchingHook(far_end)
        self.api, line = way_to_support(self.config)
        assert isinstance(line, Tunnel)
        self.tunnel = line
        self.rescue = Rescue(
            self.config, api=self.api, hook=self.hook, display=self._show, store=self.store, line=self.tunnel
        )

    def nothing_is_left(self) -> bool:
        return not (self.hook.users or self.store.read() or self.far_end.running)


class _WatchingHook(FakeHook):
    """Knows whether the tunnel ran when RDP was opened and shut."""

    def __init__(self, far_end: TunnelFiles) -> None:
        super().__init__()
        self.far_end = far_end
        self.tunnels: list[int] = []

    def open(self, credentials: object) -> int:
        self.tunnels.append(len(self.far_end.running))
        return super().open(credentials)  # type: ignore[arg-type]


@pytest.fixture
def machine(config: AgentConfig, far_end: TunnelFiles) -> Iterator[TunnelMachine]:
    settings = dataclasses.replace(config, vpn_profile=far_end.profile, vpn_program=str(far_end.program))
    made = TunnelMachine(settings, far_end)
    yield made
    made.rescue.stop()
    made.tunnel.close()
    until(lambda: not far_end.running, "no program is left")
    assert far_end.never_two_at_once


def test_press_has_the_tunnel_first_and_leaves_with_the_servers_halt(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles
) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    assert machine.hook.tunnels == [1], "RDP opens when the tunnel is there"
    assert {call.peer for call in server.calls} == {"127.64.7.7"}, "calls leave from the tunnel's address"
    server.update("r1", state="closing", end_reason="resolved", message="Solved. Thank you.")
    machine.wait_until_shown("closing")
    assert not machine.hook.users
    far_end.do("halt")
    ending = machine.joined()
    assert isinstance(ending, Notice)
    assert (ending.state, ending.message, ending.end_reason) == ("closed", "Solved. Thank you.", "resolved")
    assert machine.nothing_is_left() and len(far_end.runs) == 1


def test_agent_ends_a_tunnel_that_the_server_does_not_halt(
    server: ScriptedApi, machine: TunnelMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue_module, "_LAST_WORD_S", 0.3)
    machine.press_in_background()
    machine.wait_until_shown("requested")
    server.update("r1", state="closing", end_reason="resolved", message="Solved.")
    ending = machine.joined()
    assert isinstance(ending, Notice) and (ending.state, ending.message) == ("closed", "Solved.")
    assert machine.nothing_is_left()


def test_halt_in_the_middle_shuts_rdp_until_the_server_says_that_it_goes_on(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles
) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    server.wait_for_calls("GET", 1)
    far_end.script("silent")  # the tunnel does not come back yet
    far_end.do("halt")
    until(lambda: not machine.hook.users, "RDP is shut")
    assert "has ended the line" in machine.wait_until_shown("offline").message
    until(lambda: len(far_end.runs) == 2, "the tunnel is tried again")
    assert not machine.hook.users
    os.kill(far_end.running[0], signal.SIGTERM)
    # A poll for news would be held for 60 s.
    until(lambda: machine.hook.users, "RDP is open again, also without news")
    assert machine.hook.steps == ["open", "close", "open"]
    server.update("r1", state="closed")
    machine.joined()
    assert machine.nothing_is_left()


def test_halted_machine_that_gets_no_tunnel_any_more_gives_up(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a machine that was revoked meanwhile: its next handshakes get no answer."""
    monkeypatch.setattr(rescue_module, "HALTED_FOR_S", 0.3)
    monkeypatch.setattr(rescue_module, "_LINE_S", 0.1)
    machine.press_in_background()
    machine.wait_until_shown("requested")
    server.wait_for_calls("GET", 1)
    far_end.script("silent")
    far_end.do("halt")
    ending = machine.joined()
    assert isinstance(ending, Notice) and ending.state == "failed"
    assert machine.hook.steps.count("open") == 1 and machine.nothing_is_left()


def test_halt_that_overtook_the_news_of_the_end_is_asked_about(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles
) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    server.wait_for_calls("GET", 1)
    far_end.do("lose")
    until(lambda: machine.tunnel.state.name == "lost", "the line is gone")
    server.update("r1", state="closed", end_reason="resolved", message="Solved.")
    far_end.do("halt")
    ending = machine.joined()
    assert isinstance(ending, Notice) and ending.end_reason == "resolved"
    assert machine.hook.steps.count("open") == 1 and machine.nothing_is_left()


def test_refused_machine_opens_nothing_and_says_so(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue_module, "_LINE_S", 0.1)
    far_end.script(*["refuse"] * 500)
    machine.press_in_background()
    until(lambda: "does not let this machine in" in machine.wait_until_shown("offline").message, "it is said")
    monkeypatch.setattr(rescue_module, "REFUSED_FOR_S", 0.1)
    ending = machine.joined()
    assert isinstance(ending, Notice) and ending.state == "failed" and "call the number" in ending.message
    assert machine.hook.steps == ["close"] and server.calls == [] and machine.nothing_is_left()


def test_machine_that_is_refused_for_a_moment_gets_its_rescue(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles
) -> None:
    far_end.script("refuse", "refuse", "connect")
    machine.press_in_background()
    machine.wait_until_shown("requested")
    server.update("r1", state="closed")
    machine.joined()
    assert machine.nothing_is_left()


def test_line_that_is_gone_for_a_while_costs_neither_rescue_nor_desktop(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles
) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    server.wait_for_calls("GET", 1)  # a poll that would be held for 60 s
    far_end.do("lose")
    until(lambda: machine.tunnel.state.name == "lost", "the line is gone")
    server.update("r1", state="active", message="Alice is looking.")
    far_end.do("back")
    machine.wait_until_shown("active")
    assert machine.hook.steps == ["open"] and len(server.requests) == 1
    server.update("r1", state="closed")
    machine.joined()
    assert machine.nothing_is_left()


def test_cancel_does_not_wait_for_a_tunnel_that_does_not_come_up(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles
) -> None:
    far_end.script("silent")
    machine.press_in_background()
    until(lambda: far_end.running, "it tries")
    machine.wait_until_shown("preparing")  # the tunnel is wanted before there is anything to cancel
    assert machine.rescue.cancel()
    ending = machine.joined()
    assert isinstance(ending, Notice) and ending.state == "cancelled"
    assert server.calls == [] and machine.nothing_is_left()


def test_shutdown_during_a_rescue_takes_rdp_and_tunnel_down(server: ScriptedApi, machine: TunnelMachine) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    machine.rescue.stop()
    assert isinstance(machine.joined(), Stopped)
    assert not machine.hook.users and not machine.far_end.running
    record = machine.store.read()
    assert record is not None and record.request_id == "r1"


def test_missing_profile_is_said_and_what_a_crash_left_open_is_shut(
    server: ScriptedApi, machine: TunnelMachine, far_end: TunnelFiles
) -> None:
    far_end.profile.unlink()
    assert machine.rescue.press(Problem("E17")).state == "failed"
    assert machine.hook.steps == ["close"] and server.calls == [] and machine.nothing_is_left()


def test_no_call_leaves_by_another_way_while_the_tunnel_is_down(server: ScriptedApi, machine: TunnelMachine) -> None:
    with pytest.raises(ApiError, match="tunnel to support is not up") as caught:
        machine.api.heartbeat(software="")
    assert caught.value.retryable and server.calls == []


# As programs of their own


@pytest.fixture
def settings(server: ScriptedApi, tmp_path: Path, far_end: TunnelFiles) -> Path:
    path = tmp_path / "agent.ini"
    touch, remove = (
        f"import sys, pathlib; sys.stdin.read(); pathlib.Path({str(tmp_path / 'open')!r})." + what
        for what in ("touch()", "unlink(missing_ok=True)")
    )
    path.write_text(
        f"[api]\nurl = {server.url}\ntoken = {server.token}\npoll_wait_s = 60\n"
        f"[vpn]\nprofile = {far_end.profile}\nopenvpn_program = {far_end.program}\n"
        f"[rdp]\nopen_command =\n    {sys.executable}\n    -c\n    {touch}\n"
        f"close_command =\n    {sys.executable}\n    -c\n    {remove}\n"
        "[machine]\nheartbeat_s = 1\n",
        encoding="utf-8",
    )
    return path


# The agent, but with time for the last word: its tunnel may be long in coming back on a busy computer.
_AGENT = (
    "import sys\nfrom agent import __main__ as commands, rescue\n"
    "rescue._LAST_WORD_S = 60\nsys.exit(commands.main(sys.argv[1:]))"
)


def _start(settings: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _AGENT, "--config", str(settings), *arguments],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_press_is_withdrawn_over_a_tunnel_of_its_own(
    server: ScriptedApi, settings: Path, far_end: TunnelFiles
) -> None:
    press = _start(settings, "press")
    server.wait_for_calls("GET", 1)
    press.kill()
    press.communicate(timeout=60)
    assert (settings.parent / "open").exists()
    out, err = _start(settings, "cancel").communicate(timeout=60)
    assert out == "The request is withdrawn.\n", err
    assert not (settings.parent / "open").exists() and RescueStore(settings.parent / "state").read() is None
    assert server.requests["r1"]["end_reason"] == "cancelled"
    assert not far_end.running and far_end.never_two_at_once


def test_interrupted_press_takes_rdp_and_tunnel_down(server: ScriptedApi, settings: Path, far_end: TunnelFiles) -> None:
    press = _start(settings, "press")
    server.wait_for_calls("GET", 1)
    press.send_signal(signal.SIGTERM)
    press.communicate(timeout=60)
    assert press.returncode == 130 and not (settings.parent / "open").exists() and not far_end.running


def test_tunnel_that_is_always_up_carries_heartbeats_and_presses_and_comes_back(
    server: ScriptedApi, settings: Path, far_end: TunnelFiles
) -> None:
    text = settings.read_text(encoding="utf-8")
    settings.write_text(text.replace("[vpn]\n", "[vpn]\nwhen = always\n"), encoding="utf-8")
    run = _start(settings, "run")
    try:
        assert server.wait_for_calls("POST", 1)[0].peer == "127.64.7.7"
        press = _start(settings, "press")
        server.wait_for_calls("GET", 1)
        assert len(far_end.runs) == 1, "the press uses the tunnel that is there"
        server.update("r1", state="closing", end_reason="resolved", message="Solved.")
        far_end.do("halt")
        until(lambda: len(far_end.runs) == 2, "the tunnel is back")
        server.update("r1", state="closed", message="All closed.")
        out, err = press.communicate(timeout=60)
        assert out.splitlines()[-1] == "closed: All closed.", err
        assert far_end.running
    finally:
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert not far_end.running and far_end.never_two_at_once


def test_tunnel_for_a_press_is_not_had_for_heartbeats(
    server: ScriptedApi, settings: Path, far_end: TunnelFiles
) -> None:
    run = _start(settings, "run")
    out, err = _start(settings, "heartbeat").communicate(timeout=60)
    assert out == "Support answered.\n", err
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=60)
    assert len(far_end.runs) == 1 and len(server.calls) == 1


def test_refusal_is_said_to_a_technician(server: ScriptedApi, settings: Path, far_end: TunnelFiles) -> None:
    far_end.script(*["refuse"] * 500)  # it tries again while the command is about to say so
    heartbeat = _start(settings, "heartbeat")
    _, err = heartbeat.communicate(timeout=60)
    assert heartbeat.returncode == 1
    assert err.splitlines()[-1] == "the tunnel is not up: refused (no open support  session)"
    assert not far_end.running
