"""Help pressed → desktop held with one warm gateway on ECS, against a cold one of `local`, in turns.

The ECS is the tests' own, which really starts guacd; what a real one takes to start a task is not in these figures,
since a warm gateway is there before. Before each press the pool is whole again.
"""

from __future__ import annotations

import time

from bench import machine as rescue
from bench.figures import Row, percentile, spread
from bench.press import moment
from bench.server import Server, server
from tests.e2e.installation import wait_until
from tests.fakes.ecs import FakeEcs

PRESSES = 30
_MORE_THAN_LOCAL_MS = 300


def measure(presses: int = PRESSES) -> list[Row]:
    took: dict[str, list[float]] = {"cold": [], "warm": []}
    with (
        FakeEcs() as ecs,
        server("--stop-gateways") as local,
        server("--stop-gateways", **ecs.surroundings, **ecs.settings, INSTALLATION="bench", GATEWAY_WARM="1") as on_ecs,
        rescue.simulated(local) as at_local,
        rescue.simulated(on_ecs) as at_ecs,
    ):
        for number in range(presses + 1):
            for name, one, pressing in (("cold", local, at_local), ("warm", on_ecs, at_ecs)):
                if name == "warm":
                    _wait_for_a_warm_one(one)
                session_id, pressed_at = rescue.press(one, pressing)
                session = one.session(session_id)
                gateways = one.gateways_of(session_id)
                rescue.end(one, pressing, session_id)
                assert [bool(row["born_warm"]) for row in gateways] == [name == "warm"], gateways
                if number:  # the first finds nothing warm, neither imports nor pages of files
                    took[name].append((moment(session["ready_at"]) - pressed_at) * 1000)
    shares = (("p50", 0.5), ("p95", 0.95))
    return [
        Row(
            f"help pressed → desktop held, warm on ECS, more than local, {name}",
            percentile(took["warm"], share) - percentile(took["cold"], share), _MORE_THAN_LOCAL_MS, "ms",
            peer=f"local, cold: {percentile(took['cold'], share):.0f} ms {name}",
            detail={**spread(took["warm"], "warm"), **spread(took["cold"], "local")},
        )
        for name, share in shares
    ]  # fmt: skip


def _wait_for_a_warm_one(one: Server) -> None:
    query = "SELECT 1 FROM support_gateway WHERE session_id IS NULL AND state = 'ready'"
    wait_until(lambda: one.rows(query), what="a gateway was warm", within_s=30)
    # What is still being stopped takes the processor from whoever presses next.
    left = "SELECT 1 FROM support_gateway WHERE session_id IS NOT NULL AND state <> 'stopped'"
    wait_until(lambda: not one.rows(left), what="the last rescue's gateway was stopped", within_s=30)
    time.sleep(0.2)
