"""What the tests of the pool share: a house with a worker and a stoker, whose gateways are in memory."""

from __future__ import annotations

from sessions.models import Gateway, SupportSession
from sessions.states import GatewayState
from sessions.worker import Stoker, Worker
from tests.fakes.gateway_driver import FakeGateways
from tests.sessions.rescues import Clock, fleet, machine, press
from tests.sessions.working import hold_desktop


class House:
    """A worker and a stoker with gateways in memory; Alice's machine A1 can press."""

    def __init__(self) -> None:
        self.clock, self.driver = Clock(), FakeGateways()
        self.worker = Worker("worker", now=self.clock, driver_for=lambda _: self.driver)
        self.stoker = Stoker("stoker", now=self.clock, driver_for=lambda _: self.driver)
        machine("A1")

    def stoke(self, passes: int = 3, *, every_s: float = 1) -> None:
        for _ in range(passes):
            self.stoker.run_pass()
            self.clock.tick(every_s)

    def work(self, passes: int = 2) -> None:
        for _ in range(passes):
            self.worker.run_pass()
            self.stoker.run_pass()
            self.clock.tick(1)

    def press(self, serial: str = "A1") -> SupportSession:
        session = press(serial, now=self.clock())
        self.clock.tick(0.001)  # two at the same moment have no order
        return session

    def warm(self, state: GatewayState = GatewayState.READY, *, of: str = "North") -> list[Gateway]:
        return list(Gateway.objects.filter(session=None, state=state, fleet=fleet(of)).order_by("ready_at", "pk"))

    def of(self, session: SupportSession) -> Gateway:
        return session.gateways.order_by("-attempt")[0]

    def hold_desktop(self, session: SupportSession) -> None:
        """What the keeper does, at a gateway that is ready."""
        assert self.of(session).state == GatewayState.READY
        hold_desktop(session, self.clock)
