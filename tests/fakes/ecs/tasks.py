"""The tasks of a cluster, and the thread that leads each through its life."""

from __future__ import annotations

import copy
import heapq
import itertools
import math
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from tests.fakes.ecs.guacd import Addresses, Guacd
from tests.fakes.ecs.plans import Life
from tests.fakes.ecs.tunnel import Tunnel
from tests.waiting import LONG_S

# How often it is looked whether a guacd has ended by itself.
_LOOK_S = 0.05


@dataclass
class Task:
    """A task as AWS describes it, what it was like at each moment, and what runs in it.

    Its first container is guacd's; one with a tunnel has another one.
    """

    shape: dict[str, Any]
    life: Life
    tags: list[dict[str, str]]
    history: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    guacd: Guacd | None = None
    tunnel: Tunnel | None = None
    address: str = ""
    stops_refused: int = 0

    @property
    def arn(self) -> str:
        return str(self.shape["taskArn"])

    @property
    def status(self) -> str:
        return str(self.shape["lastStatus"])

    def kill(self) -> None:
        """Whatever runs in it, at once."""
        for program in (self.guacd, self.tunnel):
            if program is not None:
                program.kill()

    def is_alive(self) -> bool:
        """Whether anything runs in it."""
        return any(program is not None and program.is_alive() for program in (self.guacd, self.tunnel))

    def container(self, name: str) -> dict[str, Any]:
        (found,) = [one for one in self.shape["containers"] if one["name"] == name]
        return cast("dict[str, Any]", found)

    @property
    def has_tunnel(self) -> bool:
        return len(self.shape["containers"]) > 1

    def as_of(self, at: float) -> dict[str, Any] | None:
        """What it was like then; None when it was not yet there."""
        shown = [shape for since, shape in self.history if since <= at]
        return shown[-1] if shown else None


class Engine:
    """All tasks. Whoever reads or changes them holds `lock`; time passes in a thread of its own."""

    def __init__(self, *, pace_s: float, on_change: Callable[[dict[str, Any]], None]) -> None:
        self.pace_s, self.on_change = pace_s, on_change
        self.lock = threading.RLock()
        self.tasks: dict[str, Task] = {}
        self.capacity = 1000  # so many tasks have room at once
        self.scaling: list[Task] = []  # those that wait for another computer
        self._addresses = Addresses()
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._number = itertools.count()
        self._changed = threading.Condition(self.lock)
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="fake ECS", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends all that runs in tasks."""
        with self.lock:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join(LONG_S)
        self._addresses.close()

    # --- what calls do -----------------------------------------------------------------------------------------------

    def has_room(self) -> bool:
        return sum(task.address != "" and task.status != "STOPPED" for task in self.tasks.values()) < self.capacity

    def add(self, task: Task, *, waits_for_room: bool) -> None:
        """A new one, PROVISIONING."""
        self.tasks[task.arn] = task
        task.stops_refused = task.life.stops_refused
        if waits_for_room and not self.has_room():
            self.scaling.append(task)
        else:
            self._reserve(task)
        self._change(task)

    def make_room(self, capacity: int) -> None:
        """Another computer has come, or one goes."""
        with self.lock:
            self.capacity = capacity
            while self.scaling and self.has_room():
                self._reserve(self.scaling.pop(0))

    def stop(self, task: Task, *, code: str, reason: str) -> None:
        """Asks it to end; asking again changes nothing."""
        if task.shape["desiredStatus"] == "STOPPED":
            return
        if task in self.scaling:
            self.scaling.remove(task)
        task.shape |= {"desiredStatus": "STOPPED", "stopCode": code, "stoppedReason": reason, "stoppingAt": _now()}
        if task.status == "RUNNING":
            self._change(task, lastStatus="DEACTIVATING")
            self._after(0, lambda: self._stopping(task))
        else:
            self._change(task)
            self._after(self.pace_s, lambda: self._stopping(task))

    def remove(self, task: Task) -> None:
        """It was never there; what was to become of it does not."""
        task.kill()
        task.shape |= {"desiredStatus": "STOPPED", "lastStatus": "STOPPED"}
        if task in self.scaling:
            self.scaling.remove(task)
        del self.tasks[task.arn]

    # --- a life ------------------------------------------------------------------------------------------------------

    def _reserve(self, task: Task) -> None:
        task.address = self._addresses.next()
        self._after(self._pace(task.life.provisioning_s), lambda: self._pending(task))

    def _pending(self, task: Task) -> None:
        if task.shape["desiredStatus"] == "STOPPED":
            return
        (interface,) = task.shape["attachments"]
        eni = {
            "networkInterfaceId": f"eni-{secrets.token_hex(8)}",
            "macAddress": "0a:" + ":".join(secrets.token_hex(1) for _ in range(5)),
            "privateDnsName": f"ip-{task.address.replace('.', '-')}.eu-west-1.compute.internal",
            "privateIPv4Address": task.address,
        }
        interface["status"] = "ATTACHED"
        interface["details"] += [{"name": name, "value": value} for name, value in eni.items()]
        network = {"attachmentId": interface["id"], "privateIpv4Address": task.address}
        for container in task.shape["containers"]:
            container |= {"networkInterfaces": [network], "lastStatus": "PENDING"}
        instance = f"{task.shape['clusterArn'].replace(':cluster/', ':container-instance/')}/{'c1' * 16}"
        self._change(
            task, lastStatus="PENDING", containerInstanceArn=instance, connectivity="CONNECTED", connectivityAt=_now()
        )
        self._after(self._pace(task.life.pending_s), lambda: self._starting(task))

    def _starting(self, task: Task) -> None:
        """Its containers, in the order of their `dependsOn`."""
        if task.shape["desiredStatus"] == "STOPPED":
            return
        if task.life.failure:
            self.stop(task, code="TaskFailedToStart", reason=task.life.failure)
            return
        if task.has_tunnel:
            task.tunnel = Tunnel(task.address, task.arn, joins_s=task.life.joins_s)
            self._change_container(task, "openvpn", lastStatus="RUNNING", runtimeId=secrets.token_hex(32))
            self._wait_for_health(task)
        if not task.has_tunnel or task.life.guacd_after == "START":
            self._running(task)

    def _wait_for_health(self, task: Task) -> None:
        if task.shape["desiredStatus"] == "STOPPED" or task.tunnel is None:
            return
        if not task.tunnel.is_healthy():
            self._after(_LOOK_S, lambda: self._wait_for_health(task))
            return
        self._change_container(task, "openvpn", healthStatus="HEALTHY")
        if task.guacd is None:
            self._running(task)

    def _running(self, task: Task) -> None:
        task.guacd = Guacd(task.address, task.arn)
        task.container("guacd").update(lastStatus="RUNNING", runtimeId=secrets.token_hex(32))
        self._change(task, lastStatus="RUNNING", startedAt=_now())
        if task.life.runs_s != math.inf:
            self._after(task.life.runs_s, task.guacd.kill)

    def _stopping(self, task: Task) -> None:
        if task.status in ("STOPPING", "DEPROVISIONING", "STOPPED"):
            return
        if task.guacd is not None or task.tunnel is not None or task.life.stopping_s is not None:
            self._change(task, lastStatus="STOPPING")
            self._after(self._pace(task.life.stopping_s), lambda: self._deprovisioning(task))
        else:
            self._deprovisioning(task)

    def _deprovisioning(self, task: Task) -> None:
        if task.status == "STOPPED":
            return
        if task.guacd is not None:
            task.guacd.kill()
            code = 137 if task.shape["stopCode"] == "UserInitiated" else 1
            task.container("guacd")["exitCode"] = code
        if task.tunnel is not None:
            task.container("openvpn")["exitCode"] = task.tunnel.kill()
        for container in task.shape["containers"]:
            container["lastStatus"] = "STOPPED"
        self._change(task, lastStatus="DEPROVISIONING", executionStoppedAt=_now())
        self._after(self.pace_s, lambda: self._stopped(task))

    def _stopped(self, task: Task) -> None:
        if task.status == "STOPPED":
            return
        for interface in task.shape["attachments"]:
            interface["status"] = "DELETED"
        self._change(task, lastStatus="STOPPED", stoppedAt=_now())
        self.make_room(self.capacity)

    def _change_container(self, task: Task, name: str, **values: Any) -> None:
        task.container(name).update(values)
        self._change(task)

    def _change(self, task: Task, **values: Any) -> None:
        task.shape |= values
        task.shape["version"] += 1
        shape = copy.deepcopy(task.shape)
        task.history.append((time.monotonic(), shape))
        self.on_change(shape)

    # --- time --------------------------------------------------------------------------------------------------------

    def _pace(self, wanted: float | None) -> float:
        return self.pace_s if wanted is None else wanted

    def _after(self, delay_s: float, do: Callable[[], object]) -> None:
        if delay_s != math.inf:
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._number), do))
            self._changed.notify_all()

    def _run(self) -> None:
        with self.lock:
            while not self._is_over:
                now = time.monotonic()
                while self._due and self._due[0][0] <= now:
                    heapq.heappop(self._due)[2]()
                self._bury()
                next_at = self._due[0][0] if self._due else math.inf
                self._changed.wait(max(0, min(_LOOK_S, next_at - time.monotonic())))
            for task in self.tasks.values():
                task.kill()

    def _bury(self) -> None:
        for task in self.tasks.values():
            programs = {"guacd": task.guacd, "openvpn": task.tunnel} if task.status in ("PENDING", "RUNNING") else {}
            dead = {name: one for name, one in programs.items() if one is not None and not one.is_alive()}
            for name, program in dead.items():
                task.container(name).update(lastStatus="STOPPED", exitCode=program.kill())
            if dead:
                self.stop(task, code="EssentialContainerExited", reason="Essential container in task exited")


def _now() -> datetime:
    return datetime.now(UTC)
