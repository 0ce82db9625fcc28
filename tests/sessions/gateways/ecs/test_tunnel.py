"""Gateways on ECS that join the VPN themselves: worker, driver, door and the real join.py, with a fake ECS between."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from pytest_django.fixtures import Settings

from machines import gateway_identities
from machines.aws import Aws
from machines.models import GatewayIdentity, SecurityEvent
from machines.passages import Passage
from sessions import gateway_rows, selectors, services
from sessions.gateways import door, probe
from sessions.gateways.ecs import EcsGateways
from sessions.models import Gateway, SupportSession
from sessions.states import GatewayState, State
from sessions.worker import Worker
from tests.fakes.ecs import FOR_EVER, FakeEcs, Life, Task
from tests.sessions.rescues import Clock, press
from tests.sessions.working import FakeVpn
from tests.waiting import LONG_S, until

pytestmark = [pytest.mark.real, pytest.mark.django_db]


class Killed(BaseException):
    """kill -9 of a worker, at this line."""


class House:
    """A fake ECS, one rescue, and the worker that is at it just now; each has a driver of its own, as processes do."""

    def __init__(self, ecs: FakeEcs) -> None:
        self.ecs, self.clock = ecs, Clock()
        self.employ("one")

    def employ(self, name: str) -> None:
        """Another worker; what the last one knew is forgotten, and whose leases it had."""
        gateway_rows.forget_process("one")
        driver = EcsGateways()
        self.worker = Worker(f"{name}:1", now=self.clock, driver_for=lambda _: driver, vpn=FakeVpn)

    def press(self) -> SupportSession:
        return press(now=self.clock())

    def work(self, *, until: Callable[[], object], what: str) -> None:
        """Passes until something holds, which only passes bring about."""
        deadline = time.monotonic() + LONG_S
        while not until():
            found = list(Gateway.objects.values_list("state", "failure", "handle"))
            assert time.monotonic() < deadline, f"waited in vain until {what}: {found}"
            self.worker.run_pass()
            self.clock.tick(1.1)
            time.sleep(0.02)

    def task(self, number: int = -1) -> Task:
        return self.ecs.tasks()[number]


@pytest.fixture(scope="module")
def module_ecs() -> Iterator[FakeEcs]:
    with FakeEcs(tunnel=True) as ecs:
        yield ecs


@pytest.fixture(scope="module")
def module_aws(module_ecs: FakeEcs) -> Aws:
    return Aws(module_ecs.region, connect_s=LONG_S, answer_s=LONG_S)


@pytest.fixture
def house(
    module_ecs: FakeEcs, module_aws: Aws, settings: Settings, monkeypatch: pytest.MonkeyPatch, patient: None
) -> Iterator[House]:
    for name, value in module_ecs.surroundings.items():
        monkeypatch.setenv(name, value)
    for name, value in module_ecs.settings.items():
        is_list = name in ("ECS_SUBNETS", "ECS_SECURITY_GROUPS")
        setattr(settings, name, value.split(",") if is_list else value)
    settings.VPN_NETWORK = ipaddress.ip_network("10.77.0.0/20")
    # The house's clock goes on with each pass, and on a busy computer there are many before a task is there.
    settings.GATEWAY_DEADLINE_S = settings.ANSWER_DEADLINE_S = settings.MACHINE_GONE_S = 86_400
    monkeypatch.setattr("sessions.gateways.ecs.Aws", lambda *args, **kwargs: module_aws)
    # The fake is quicker than AWS, and who waits at a door that stays shut need not wait long.
    monkeypatch.setattr("sessions.gateways.ecs_tasks.STARTING_PACE", (0.02,))
    monkeypatch.setattr("sessions.gateways.ecs_tasks.AT_ONCE", (0.02,))
    monkeypatch.setattr("sessions.gateways.ecs._JOIN_TIMEOUT_S", 0.5)
    yield House(module_ecs)
    assert module_ecs.refused == []
    module_ecs.clear()


def gateway_of(session: SupportSession, attempt: int = 1) -> Gateway:
    return Gateway.objects.get(session=session, attempt=attempt)


def is_ready(session: SupportSession, attempt: int = 1) -> Callable[[], bool]:
    return lambda: Gateway.objects.filter(session=session, attempt=attempt, state=GatewayState.READY).exists()


def identity_of(gateway: Gateway) -> GatewayIdentity:
    return GatewayIdentity.objects.get(attempt_id=str(gateway.pk))


def sources() -> list[str]:
    return [passage.source for passage in selectors.passages()]


def alarms() -> list[SecurityEvent]:
    return list(SecurityEvent.objects.filter(kind="gateway_refused"))


def is_closed(session: SupportSession) -> bool:
    return SupportSession.objects.filter(pk=session.pk, state=State.CLOSED).exists()


def _answers(address: str) -> bool:
    try:
        probe.answers(address, 4822, timeout_s=LONG_S)
    except OSError:
        return False
    return True


def story(task: Task) -> list[tuple[str, str, str]]:
    """What DescribeTasks showed of it, one after the other: the task's status, guacd's, and the tunnel's health."""
    told = []
    for _, shape in task.history:
        guacd, openvpn = shape["containers"]
        told.append((shape["lastStatus"], guacd["lastStatus"], openvpn["healthStatus"]))
    return list(dict.fromkeys(told))


def test_gateway_is_ready_once_it_has_joined_and_its_passage_is_of_its_address_in_the_vpn(house: House) -> None:
    session = house.press()
    house.work(until=is_ready(session), what="the gateway is ready")
    gateway = gateway_of(session)
    identity = identity_of(gateway)
    assert gateway.handle["vpn_address"] == identity.address == "10.77.0.2"
    assert gateway.host == house.task().address != identity.address, "the keeper comes through AWS' network"
    assert selectors.passages() == [Passage(identity.address, session.machine.vpn_address, 3390)]
    assert [one.address for one in gateway_identities.allow_list().values()] == [identity.address]
    # As ECS shows a task with `dependsOn: HEALTHY`: it is PENDING until it has joined, and only then guacd begins.
    assert [one for one in story(house.task()) if one[0] != "PROVISIONING"] == [
        ("PENDING", "PENDING", "UNKNOWN"),
        ("PENDING", "PENDING", "HEALTHY"),
        ("RUNNING", "RUNNING", "HEALTHY"),
    ]


@pytest.mark.parametrize("guacd_after", ["START", "HEALTHY"])
def test_gateway_is_not_ready_before_it_has_joined_whatever_answers_meanwhile(
    house: House, guacd_after: Literal["START", "HEALTHY"]
) -> None:
    """With START, as this project's own task definition has it, guacd answers long before."""
    house.ecs.lives(Life(joins_s=FOR_EVER, guacd_after=guacd_after))
    session = house.press()
    house.work(until=lambda: GatewayIdentity.objects.exists(), what="the gateway has its identity")
    task = house.task()
    if guacd_after == "START":
        until(lambda: _answers(task.address), what="guacd answers")
        until(lambda: task.status == "RUNNING", what="ECS has noticed")
    for _ in range(3):
        house.clock.tick(1.1)
        house.worker.run_pass()
    gateway = gateway_of(session)
    assert gateway.state == GatewayState.STARTING and "vpn_address" not in gateway.handle
    assert sources() == [], "no packet of its is let through yet"
    assert task.status == ("RUNNING" if guacd_after == "START" else "PENDING")
    house.ecs.join(task.address)
    house.work(until=is_ready(session), what="the gateway is ready")
    assert sources() == [identity_of(gateway).address]


@pytest.mark.parametrize("after", ["admit", "give", "join"])
def test_worker_that_takes_over_in_the_middle_comes_to_the_same_address_and_one_identity(
    house: House, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when it had an identity; when its profile was pushed; when it was inside, and its row did not say so."""
    where, name = {
        "admit": (gateway_identities, "admit"),
        "give": (door, "_give"),
        "join": (door, "join"),
    }[after]
    real = getattr(where, name)

    def die(*args: Any, **values: Any) -> None:
        real(*args, **values)
        raise Killed

    session = house.press()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(where, name, die)
        house.work(until=lambda: False, what="the worker is killed")
    gateway = gateway_of(session)
    before = identity_of(gateway)
    assert gateway.state == GatewayState.STARTING and "vpn_address" not in gateway.handle
    house.employ("two")
    house.work(until=is_ready(session), what="the gateway is ready")
    gateway.refresh_from_db()
    (identity,) = GatewayIdentity.objects.all()
    assert (identity.pk, identity.address, identity.sha256) == (before.pk, before.address, before.sha256)
    assert gateway.handle["vpn_address"] == identity.address
    assert sources() == [identity.address]
    assert len(house.ecs.tasks()) == 1
    assert alarms() == []


def test_task_that_shows_another_key_is_given_up_with_one_alarm_and_the_rescue_gets_another(house: House) -> None:
    house.ecs.lives(Life(joins_s=FOR_EVER))
    session = house.press()
    house.work(until=lambda: GatewayIdentity.objects.exists(), what="the gateway has its identity")
    hostile = house.task()
    house.ecs.usurp(hostile.address)
    house.work(until=is_ready(session, 2), what="the next gateway is ready")
    first, second = gateway_of(session), gateway_of(session, 2)
    assert first.state in (GatewayState.STOPPING, GatewayState.STOPPED)
    assert "another key" in first.failure
    assert "vpn_address" not in first.handle
    (alarm,) = alarms()
    assert alarm.detail["gateway"] == str(first.pk)
    assert identity_of(first).revoked_at is not None
    assert hostile.shape["desiredStatus"] == "STOPPED"
    # Nobody has seen the first one out of the VPN yet: its address is not another's.
    assert identity_of(first).address != identity_of(second).address
    assert [one.address for one in gateway_identities.allow_list().values()] == [identity_of(second).address]
    assert sources() == [identity_of(second).address]


def test_gateway_that_is_stopped_has_no_identity_any_more(house: House) -> None:
    session = house.press()
    house.work(until=is_ready(session), what="the gateway is ready")
    gateway = gateway_of(session)
    services.cancel(SupportSession.objects.get(pk=session.pk), now=house.clock())
    services.machine_told(SupportSession.objects.get(pk=session.pk), now=house.clock())
    house.work(until=lambda: is_closed(session), what="the rescue is closed")
    identity = identity_of(gateway)
    assert identity.revoked_at is not None and gateway_identities.allow_list() == {}
    assert gateway_identities.leaving() == [(identity.pk, identity.common_name)], "the agent cuts it off"
    assert sources() == []
    assert house.task().status == "STOPPED" and not house.task().is_alive()


def test_task_that_dies_before_it_has_joined_fails_with_words_and_the_rescue_gets_another(house: House) -> None:
    house.ecs.lives(Life(joins_s=FOR_EVER))
    session = house.press()
    house.work(until=lambda: GatewayIdentity.objects.exists(), what="the gateway has its identity")
    house.ecs.kill_tunnel(house.task().address)
    house.work(until=is_ready(session, 2), what="the next gateway is ready")
    first = gateway_of(session)
    assert "EssentialContainerExited" in first.failure and "openvpn ended with 137" in first.failure
    assert identity_of(first).revoked_at is not None
    assert alarms() == [], "it is a fault, and nobody's attack"
    told = session.events.filter(kind="attempt_failed")
    assert [one.detail["detail"] for one in told] == ["The gateway ended by itself."]
