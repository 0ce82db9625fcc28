"""What the tests of the driver for ECS share: a clock, what was asked of ECS, and a look at one gateway."""

from __future__ import annotations

from typing import Any

from sessions.gateways.base import GatewayStatus
from sessions.gateways.ecs import EcsGateways
from tests.fakes.ecs import FakeEcs


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


def called(ecs: FakeEcs, name: str) -> list[dict[str, Any]]:
    return [call.arguments for call in ecs.calls if call.name == name]


def look(driver: EcsGateways, attempt_id: str, status: GatewayStatus) -> GatewayStatus:
    return driver.describe(attempt_id, status.handle)
