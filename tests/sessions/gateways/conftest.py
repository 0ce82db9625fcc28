"""A driver of each kind, with real guacd behind it, and a way to kill what is behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from machines.aws import Aws
from sessions.gateways import probe
from sessions.gateways.base import GatewayDriver, GatewayRequest, GatewayStatus, StillStopping
from sessions.gateways.ecs import EcsGateways
from sessions.gateways.fixed import FixedGateways
from sessions.gateways.local import LocalGateways
from tests.fakes.ecs import FakeEcs
from tests.waiting import LONG_S, until

GUACD = "/usr/sbin/guacd"


def new_request() -> GatewayRequest:
    return GatewayRequest(str(uuid.uuid4()), str(uuid.uuid4()), "127.64.0.1", 3389)


@dataclass
class Case:
    """A driver under contract."""

    driver: GatewayDriver
    kill: Callable[[GatewayStatus], None]  # kills the guacd behind a gateway, as a crash would
    owns_processes: bool

    def start(self, request: GatewayRequest) -> GatewayStatus:
        """A gateway of that driver, when it is no longer starting."""
        status = self.driver.start(request)
        deadline = time.monotonic() + LONG_S
        while status.state == "starting":
            assert time.monotonic() < deadline, f"still starting: {status.detail}"
            time.sleep(0.02)
            status = self.driver.describe(request.attempt_id, status.handle)
        return status

    def stop(self, request: GatewayRequest, status: GatewayStatus) -> None:
        """Returns when it is confirmed, as the worker comes again for it."""
        deadline = time.monotonic() + LONG_S
        while True:
            try:
                self.driver.stop(request.attempt_id, status.handle)
                return
            except StillStopping:
                assert time.monotonic() < deadline, "still stopping"
                time.sleep(0.02)


def place(status: GatewayStatus) -> tuple[str, str, int]:
    """Which gateway it is; its handle may have grown since."""
    return status.state, status.host, status.port


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guacd that is there answers at once, on a busy computer perhaps after seconds; it is not to seem to hang."""
    monkeypatch.setattr("sessions.gateways.ecs._PROBE_TIMEOUT_S", LONG_S)
    monkeypatch.setattr("sessions.gateways.ecs_probes._TIMEOUT_S", LONG_S)
    monkeypatch.setattr("sessions.gateways.fixed._PROBE_TIMEOUT_S", LONG_S)
    monkeypatch.setattr("sessions.gateways.fixed._START_TIMEOUT_S", LONG_S)


@pytest.fixture
def local(settings: Settings, tmp_path: Path) -> Iterator[LocalGateways]:
    settings.INSTALLATION = f"test-{uuid.uuid4()}"
    driver = LocalGateways()
    yield driver
    for attempt_id in driver.running():
        driver.stop(attempt_id, {})
    assert not driver._folder.exists()


@pytest.fixture
def guacd_host() -> Iterator[subprocess.Popen[bytes]]:
    """A guacd that somebody else runs; its port is in `args[5]`."""
    with socket.socket() as held:
        # Bound, and listening to nobody: guacd can have the port beside us, and nobody else, also when it is dead.
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port = int(held.getsockname()[1])
        process = subprocess.Popen(
            [GUACD, "-f", "-b", "127.0.0.1", "-l", str(port), "-L", "error"], start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(lambda: _answers(port), what="guacd of one's own answers")
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="package")
def shared_ecs() -> Iterator[FakeEcs]:
    with FakeEcs() as fake:
        yield fake


@pytest.fixture(scope="package")
def shared_aws(shared_ecs: FakeEcs) -> Aws:
    """Its clients are made once: boto3 takes a third of a second for one."""
    return Aws(shared_ecs.region, connect_s=LONG_S, answer_s=LONG_S)


@pytest.fixture
def fake_ecs(
    shared_ecs: FakeEcs, shared_aws: Aws, settings: Settings, monkeypatch: pytest.MonkeyPatch, patient: None
) -> Iterator[FakeEcs]:
    """An ECS of an installation of its own, chosen by the settings, which nothing is left in afterwards."""
    for name, value in shared_ecs.surroundings.items():
        monkeypatch.setenv(name, value)
    for name, value in shared_ecs.settings.items():
        is_list = name in ("ECS_SUBNETS", "ECS_SECURITY_GROUPS")
        setattr(settings, name, value.split(",") if is_list else value)
    settings.INSTALLATION = f"test-{uuid.uuid4()}"
    monkeypatch.setattr("sessions.gateways.ecs.Aws", lambda *args, **kwargs: shared_aws)
    # The fake is quicker than AWS, and so are looks at it.
    monkeypatch.setattr("sessions.gateways.ecs_tasks.STARTING_PACE", (0.05,))
    yield shared_ecs
    shared_ecs.clear()


@pytest.fixture(params=["local", "fixed", "ecs"])
def case(request: pytest.FixtureRequest, settings: Settings, patient: None) -> Case:
    if request.param == "ecs":
        ecs: FakeEcs = request.getfixturevalue("fake_ecs")
        return Case(EcsGateways(), lambda status: ecs.kill_guacd(status.host), True)
    if request.param == "local":

        def kill_process(status: GatewayStatus) -> None:
            os.kill(int(status.handle["pid"]), signal.SIGKILL)

        return Case(request.getfixturevalue("local"), kill_process, True)
    process = request.getfixturevalue("guacd_host")
    settings.GATEWAY_FIXED_HOSTS = [f"127.0.0.1:{process.args[5]}"]

    def kill_host(status: GatewayStatus) -> None:
        process.kill()
        process.wait()

    return Case(FixedGateways(), kill_host, False)


def _answers(port: int) -> bool:
    try:
        probe.answers("127.0.0.1", port, timeout_s=LONG_S)
    except OSError:
        return False
    return True
