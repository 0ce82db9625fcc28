"""The built-in telemetry: the contract, and how rows become an answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, time

import pytest

from machines import services
from machines.models import Machine, Operator, Shift
from machines.telemetry.builtin import BuiltinTelemetry
from tests.machines.telemetry.contract import Arrangement, TelemetryContract

ALWAYS = {"weekdays": "0123456", "starts": time(0), "ends": time(0)}


class Rows:
    """Answers arranged by the rota's rows and by heartbeats."""

    source = "builtin"

    def __init__(self) -> None:
        self.driver = BuiltinTelemetry()

    def make_responsible(self, machine: Machine, usernames: Sequence[str]) -> None:
        people = Operator.objects.filter(fleets=machine.fleet)
        Shift.objects.filter(fleet=machine.fleet).delete()
        people.update(is_available=False)
        for rank, name in enumerate(usernames, start=1):
            people.filter(user__username=name).update(is_available=True)
            operator = people.get(user__username=name)
            Shift.objects.create(fleet=machine.fleet, site=machine.site, operator=operator, rank=rank, **ALWAYS)

    def let_say(self, machine: Machine, *, at: datetime, software: str, faults: Sequence[str]) -> None:
        services.record_heartbeat(machine, software=software, faults=list(faults), rtt_ms=20, now=at)


class TestBuiltin(TelemetryContract):
    @pytest.fixture
    def arrangement(self) -> Arrangement:
        return Rows()
