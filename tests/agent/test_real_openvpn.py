"""The agent with the real OpenVPN, in network namespaces: up, halted, refused, killed, cut off."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.scripted_api import ScriptedApi
from tests.agent.vpn_lab import MACHINE, SERVER, VpnLab, missing
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120), pytest.mark.skipif(bool(missing()), reason=missing())]

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[VpnLab]:
    with VpnLab(tmp_path / "vpn") as running:
        yield running


@pytest.fixture
def api(lab: VpnLab) -> Iterator[ScriptedApi]:
    with lab.at_the_server(lambda: ScriptedApi(address=SERVER)) as scripted:
        yield scripted


@pytest.fixture
def settings(lab: VpnLab, api: ScriptedApi, tmp_path: Path) -> Path:
    path = tmp_path / "agent.ini"
    note = "import sys, pathlib; sys.stdin.read(); open({!r}, 'a').write('{}\\n'); pathlib.Path({!r}).{}"
    opens, closes = (
        note.format(str(tmp_path / "hooks"), word, str(tmp_path / "open"), deed)
        for word, deed in (("open", "touch()"), ("close", "unlink(missing_ok=True)"))
    )
    path.write_text(
        f"[api]\nurl = {api.url}\ntoken = {api.token}\n[vpn]\nprofile = {lab.profile}\n"
        f"[rdp]\nopen_command =\n    {sys.executable}\n    -c\n    {opens}\n"
        f"close_command =\n    {sys.executable}\n    -c\n    {closes}\n",
        encoding="utf-8",
    )
    return path


def _agent(lab: VpnLab, settings: Path, *arguments: str) -> subprocess.Popen[str]:
    # `ip netns exec` becomes the program: a signal to it is one to the agent.
    return subprocess.Popen(
        lab.at_the_machine(sys.executable, "-m", "agent", "--config", str(settings), *arguments),
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _hooks(settings: Path) -> list[str]:
    """What the agent had done with RDP, in order."""
    return (settings.parent / "hooks").read_text(encoding="utf-8").split()


def test_rescue_goes_through_the_tunnel_and_ends_with_the_servers_halt(
    lab: VpnLab, api: ScriptedApi, settings: Path
) -> None:
    press = _agent(lab, settings, "press", "--code", "E17")
    api.wait_for_calls("GET", 1)
    assert {call.peer for call in api.calls} == {MACHINE} and len(lab.tunnels()) == 1
    assert (settings.parent / "open").exists()
    api.update("r1", state="closing", end_reason="resolved", message="Solved.")
    until(lambda: not (settings.parent / "open").exists(), "RDP is shut")
    lab.halt()
    out, err = press.communicate(timeout=60)
    assert press.returncode == 0 and out.splitlines()[-1] == "closed: Solved.", err
    assert "the server ended the tunnel" in err and lab.tunnels() == []


def test_halt_in_the_middle_of_a_rescue_shuts_rdp_and_the_agent_asks_how_it_stands(
    lab: VpnLab, api: ScriptedApi, settings: Path
) -> None:
    press = _agent(lab, settings, "press")
    api.wait_for_calls("GET", 1)
    lab.halt()
    until(lambda: _hooks(settings) == ["open", "close", "open"], "RDP is shut, until the server says that it goes on")
    api.update("r1", state="closed", message="Done.")
    assert press.communicate(timeout=60)[0].splitlines()[-1] == "closed: Done." and lab.tunnels() == []


def test_machine_that_is_not_admitted_is_told_so_and_gets_in_when_it_is(
    lab: VpnLab, api: ScriptedApi, settings: Path
) -> None:
    lab.admit(False)
    _, err = _agent(lab, settings, "heartbeat").communicate(timeout=60)
    assert err.splitlines()[-1] == "the tunnel is not up: refused (AUTH_FAILED)" and api.calls == []
    press = _agent(lab, settings, "press")
    assert press.stdout is not None
    while "does not let this machine in" not in (line := press.stdout.readline()):
        assert line, "the press ended"
    lab.admit(True)
    api.wait_for_calls("GET", 1, timeout_s=60)
    api.update("r1", state="closed")
    press.communicate(timeout=60)
    assert press.returncode == 0 and lab.tunnels() == []


def test_killed_agent_leaves_no_tunnel(lab: VpnLab, api: ScriptedApi, settings: Path) -> None:
    press = _agent(lab, settings, "press")
    api.wait_for_calls("GET", 1)
    press.kill()
    press.communicate(timeout=60)
    until(lambda: not lab.tunnels(), "OpenVPN ended by itself")
    assert _agent(lab, settings, "cancel").communicate(timeout=60)[0] == "The request is withdrawn.\n"
    assert api.requests["r1"]["end_reason"] == "cancelled" and not (settings.parent / "open").exists()


def test_terminated_agent_takes_the_tunnel_down(lab: VpnLab, api: ScriptedApi, settings: Path) -> None:
    press = _agent(lab, settings, "press")
    api.wait_for_calls("GET", 1)
    press.send_signal(signal.SIGTERM)
    press.communicate(timeout=60)
    assert press.returncode == 130 and lab.tunnels() == [] and not (settings.parent / "open").exists()


def test_rescue_outlives_a_line_that_is_gone_for_five_seconds(lab: VpnLab, api: ScriptedApi, settings: Path) -> None:
    press = _agent(lab, settings, "press")
    api.wait_for_calls("GET", 1)
    lab.cut_the_line()
    api.update("r1", state="active", message="Alice is looking.")
    time.sleep(5)  # that is the fault
    lab.mend_the_line()
    assert press.stdout is not None
    mended_at = time.monotonic()
    while not press.stdout.readline().startswith("active: Alice"):
        assert time.monotonic() - mended_at < 60, "the news did not come"
    assert (settings.parent / "open").exists() and len(api.requests) == 1
    api.update("r1", state="closed")
    press.communicate(timeout=60)
    assert lab.tunnels() == []
