"""A scripted server and agent settings that point to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import api as agent_api
from agent.config import AgentConfig
from tests.agent.scripted_api import ScriptedApi
from tests.agent.tunnel_files import TunnelFiles


@pytest.fixture
def server() -> Iterator[ScriptedApi]:
    with ScriptedApi() as scripted:
        yield scripted


@pytest.fixture
def config(server: ScriptedApi, tmp_path: Path) -> AgentConfig:
    return AgentConfig(
        api_url=server.url,
        token=server.token,
        state_dir=tmp_path / "state",
        source_address="127.64.7.7",
        timeout_s=30,
        poll_wait_s=60,
        rdp_port=3391,
        software="aurora 9.4",
    )


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses of milliseconds: what is tested is what happens between them."""
    monkeypatch.setattr(agent_api.Backoff, "next_s", _next_s)


def _next_s(self: agent_api.Backoff) -> float:
    self.tries += 1
    return 0.01


@pytest.fixture
def far_end(tmp_path: Path) -> TunnelFiles:
    """A profile, and a stand-in for the openvpn program."""
    return TunnelFiles(tmp_path / "far")
