"""guacd hosts one runs: those that do not answer are passed over, sessions spread, and errors say what was found."""

from __future__ import annotations

import collections
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from pytest_django.fixtures import Settings

from sessions.gateways import fixed, probe
from sessions.gateways.base import GatewayError
from sessions.gateways.fixed import FixedGateways
from tests.fakes.guacd import FakeGuacd, Fault
from tests.sessions.gateways.conftest import new_request
from tests.waiting import LONG_S


def _driver(settings: Settings, *guacds: FakeGuacd) -> FixedGateways:
    settings.GATEWAY_FIXED_HOSTS = [f"127.0.0.1:{guacd.port}" for guacd in guacds]
    return FixedGateways()


def test_sessions_spread_over_hosts(settings: Settings, patient: None) -> None:
    with FakeGuacd() as one, FakeGuacd() as two:
        driver = _driver(settings, one, two)
        chosen = collections.Counter(driver.start(new_request()).port for _ in range(40))
    # 40 fair coins: fewer than 5 of either has a chance below one in a million.
    assert set(chosen) == {one.port, two.port}
    assert min(chosen.values()) >= 5


def test_dead_nonsensical_and_silent_hosts_are_passed_over(
    settings: Settings, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = probe.answers

    def answers(host: str, port: int, *, timeout_s: float) -> None:
        real(host, port, timeout_s=0.1 if port == frozen.port else timeout_s)

    monkeypatch.setattr(probe, "answers", answers)
    with FakeGuacd() as good, FakeGuacd() as dead, FakeGuacd(fault=Fault.NONSENSE) as web, FakeGuacd() as frozen:
        driver = _driver(settings, dead, web, frozen, good)
        dead.kill()
        frozen.freeze()
        for _ in range(10):
            assert driver.start(new_request()).port == good.port


def test_host_that_hangs_is_not_called_gone(settings: Settings, patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeGuacd() as guacd:
        driver = _driver(settings, guacd)
        request = new_request()
        status = driver.start(request)
        guacd.freeze()
        with monkeypatch.context() as patch, pytest.raises(GatewayError, match="does not answer"):
            patch.setattr(fixed, "_PROBE_TIMEOUT_S", 0.2)
            driver.describe(request.attempt_id, status.handle)
        guacd.thaw()
        monkeypatch.setattr(fixed, "_FRESH_S", 0)
        assert driver.describe(request.attempt_id, status.handle).state == "ready"


def test_hosts_that_hang_are_asked_once_for_all_their_sessions(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = SimpleNamespace(at=1_000.0), list[str]()

    def hang(host: str, port: int, *, timeout_s: float) -> None:
        asked.append(host)
        clock.at += timeout_s
        raise TimeoutError("timed out")

    hosts = [f"127.0.0.{n}" for n in range(1, 6)]
    settings.GATEWAY_FIXED_HOSTS = [f"{host}:4822" for host in hosts]
    driver = FixedGateways()
    monkeypatch.setattr(probe, "answers", hang)
    monkeypatch.setattr(fixed, "time", SimpleNamespace(monotonic=lambda: clock.at))
    for n in range(20):
        with pytest.raises(GatewayError, match="does not answer"):
            driver.describe(str(n), {"host": hosts[n % 5], "port": 4822})
    assert asked == hosts


def test_host_that_hangs_holds_up_one_thread_only(
    settings: Settings, patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, is_over = threading.Event(), threading.Event()

    def hang(host: str, port: int, *, timeout_s: float) -> None:
        is_asked.set()
        assert is_over.wait(LONG_S)
        raise TimeoutError("timed out")

    with FakeGuacd() as guacd:
        driver = _driver(settings, guacd)
        status = driver.start(new_request())
        assert driver.describe("one", status.handle).state == "ready"
    monkeypatch.setattr("sessions.gateways.fixed._FRESH_S", 0)
    monkeypatch.setattr(probe, "answers", hang)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(driver.describe, "one", status.handle)
        try:
            assert is_asked.wait(LONG_S)
            is_asked.clear()
            assert driver.describe("two", status.handle).state == "ready"
            assert not is_asked.is_set()
        finally:
            is_over.set()
        with pytest.raises(GatewayError, match="does not answer"):
            waiting.result(LONG_S)


@pytest.mark.parametrize("hosts", [[], ["guacd.example"], ["guacd.example:x"], [":4822"], ["guacd.example:70000"]])
def test_hosts_that_cannot_be_understood_are_named(settings: Settings, hosts: list[str]) -> None:
    settings.GATEWAY_FIXED_HOSTS = hosts
    with pytest.raises(GatewayError, match=r"GATEWAY_FIXED_HOSTS.* expected host:port") as caught:
        FixedGateways()
    assert caught.value.permanent


def test_no_answer_anywhere_names_every_host_and_may_be_tried_again(settings: Settings) -> None:
    with FakeGuacd() as one, FakeGuacd() as two:
        driver = _driver(settings, one, two)
        one.kill()
        two.kill()
        with pytest.raises(GatewayError, match="None of 2 guacd hosts answers") as caught:
            driver.start(new_request())
    assert str(one.port) in str(caught.value)
    assert str(two.port) in str(caught.value)
    assert not caught.value.permanent
