"""The keeper with what it is made for: guacd, FreeRDP and a simulated machine, as the worker starts them."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from pytest_django.fixtures import Settings

from agent.simulator import MachineConfig, SimulatedMachine
from sessions import bell, presses, services
from sessions.gateways.base import get_driver
from sessions.gateways.local import LocalGateways
from sessions.keeper import Limits
from sessions.models import Gateway, GuacamoleConnection, RdpCredential, SessionEvent, SupportSession
from sessions.services import RdpLogin
from sessions.states import GatewayState, State
from sessions.worker import start_threads
from tests.agent.scripted_api import ScriptedApi
from tests.sessions import rescues
from tests.sessions.keeping import again, keeping, until_lost, until_state
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]

_ADDRESS = "127.64.9.7"
# guacd, FreeRDP and the machine's screen take a second or two where nothing else runs.
_SLOW_S = 60.0


@dataclass
class Place:
    """A machine with a person in front of it; what its agent would tell the machine API is taken over by hand."""

    machine: SimulatedMachine
    api: ScriptedApi
    login: dict[str, Any] = field(default_factory=dict)

    def press(self, *, password: str = "", port: int = 0) -> SupportSession:
        """Help is pressed; `password` or `port` in place of the machine's own makes the login a wrong one."""
        before = len(self._logins())
        self.machine.press()
        until(lambda: len(self._logins()) > before, "the machine asks for help", timeout_s=_SLOW_S)
        self.login = self._logins()[-1]
        session, is_new = presses.request_support(
            rescues.machine("IT-0042"),
            login=RdpLogin(
                self.login["username"], password or self.login["password"], port or self.login["port"],
                security=self.login["security"],
            ),
            idempotency_key=str(uuid.uuid4()),
        )  # fmt: skip
        assert is_new
        return session

    def _logins(self) -> list[dict[str, Any]]:
        return [call.body["rdp"] for call in list(self.api.calls) if call.body and "rdp" in call.body]

    def close(self, session: SupportSession) -> None:
        services.cancel(again(session))
        services.machine_told(again(session))
        (open_one,) = [one for one, document in self.api.requests.items() if document["state"] != "closed"]
        self.api.update(open_one, state="closed", end_reason="cancelled")
        until_state(session, State.CLOSED, timeout_s=_SLOW_S)
        self.machine.wait_for(lambda one: one.rescue.state in ("", "closed"), timeout_s=_SLOW_S)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ScriptedApi() as api:
        config = MachineConfig.write(
            tmp_path / "IT-0042", token=api.token, serial="IT-0042", address=_ADDRESS, api_url=api.url,
            rdp_port=0, fault="E17",
        )  # fmt: skip
        with SimulatedMachine(config) as machine:
            row = rescues.machine("IT-0042")
            type(row).objects.filter(pk=row.pk).update(vpn_address=_ADDRESS)
            yield Place(machine, api)


@pytest.fixture
def limits() -> Limits:
    """The keepers' own."""
    return Limits()


@pytest.fixture
def installation(settings: Settings, limits: Limits) -> Iterator[str]:
    """Worker threads and keepers of an installation of its own; nothing of it may run afterwards."""
    settings.GATEWAY, settings.INSTALLATION = "local", f"test-{uuid.uuid4()}"
    get_driver.cache_clear()
    stop = threading.Event()
    threads = start_threads(2, process="test", stop=stop)
    try:
        with keeping(limits=limits):
            yield settings.INSTALLATION
    finally:
        stop.set()
        bell.ring()
        for thread in threads:
            thread.join(_SLOW_S)
    driver = get_driver("local")
    assert isinstance(driver, LocalGateways)
    for attempt_id in driver.running():
        driver.stop(attempt_id, {})
    shutil.rmtree(driver._folder, ignore_errors=True)
    get_driver.cache_clear()
    connections.close_all()
    assert not any(thread.is_alive() for thread in threads)


def test_every_press_brings_a_desktop_and_every_close_lets_go_of_it(installation: str, place: Place) -> None:
    for _ in range(3):
        session = place.press()
        ready = until_state(session, State.READY, timeout_s=_SLOW_S)
        (record,) = GuacamoleConnection.objects.filter(session=session)
        assert record.connection_id and record.hostname == _ADDRESS
        assert ready.notice == ""
        place.close(session)
        record.refresh_from_db()
        assert record.connection_id is None and record.closed_at is not None


def test_killed_guacd_is_replaced_and_the_desktop_comes_back(installation: str, place: Place) -> None:
    session = until_state(place.press(), State.READY, timeout_s=_SLOW_S)
    first = Gateway.objects.get(session=session, state=GatewayState.READY)
    os.killpg(int(first.handle["pid"]), signal.SIGKILL)
    until_lost(session)
    session = until_state(session, State.READY, timeout_s=_SLOW_S)
    assert Gateway.objects.get(session=session, state=GatewayState.READY).pk != first.pk
    place.close(session)


# As many seconds are left over for a computer that is busy; that the keepers' own limits come to less than twenty is
# test_keeper.py's.
@pytest.mark.parametrize("limits", [replace(Limits(), silence_s=9)])
def test_hung_guacd_is_replaced_within_twenty_seconds_and_named(installation: str, place: Place) -> None:
    session = until_state(place.press(), State.READY, timeout_s=_SLOW_S)
    first = Gateway.objects.get(session=session, state=GatewayState.READY)
    os.killpg(int(first.handle["pid"]), signal.SIGSTOP)
    given_up = Gateway.objects.filter(pk=first.pk).exclude(state=GatewayState.READY)
    until(given_up.exists, "it is given up", timeout_s=20)
    assert given_up.get().failure.startswith("The gateway hangs. ")
    session = until_state(session, State.READY, timeout_s=_SLOW_S)
    assert Gateway.objects.get(session=session, state=GatewayState.READY).pk != first.pk
    place.close(session)


def test_wrong_login_is_told_and_a_new_one_of_the_machine_brings_the_desktop(installation: str, place: Place) -> None:
    session = place.press(password="not-the-machines-own")
    told = SessionEvent.objects.filter(session=session, kind="attempt_failed")
    until(told.exists, "it is told", timeout_s=_SLOW_S)
    detail = str(told[0].detail["detail"])
    assert _ADDRESS in detail and "refused" in detail and "not-the-machines-own" not in detail
    RdpCredential.objects.filter(session=session).update(password=place.login["password"])
    until_state(session, State.READY, timeout_s=_SLOW_S)
    place.close(session)


def test_machine_whose_rdp_comes_late_is_reached(installation: str, place: Place) -> None:
    """Nobody listens at first: FreeRDP gives up at once, and the keeper tries again."""
    session = place.press(port=9)
    told = SessionEvent.objects.filter(session=session, kind="attempt_failed")
    until(told.exists, "it is told", timeout_s=_SLOW_S)
    RdpCredential.objects.filter(session=session).update(port=place.login["port"])
    until_state(session, State.READY, timeout_s=_SLOW_S)
    place.close(session)
