"""The fake's face: HTTP as AWS speaks it, and what a test can see and choose."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.fakes.ecs import calls as ecs_calls
from tests.fakes.ecs import wire
from tests.fakes.ecs.calls import Calls
from tests.fakes.ecs.faces import Server, handler_of
from tests.fakes.ecs.faults import DONE_FIRST, FAULTS, denied, fault_of
from tests.fakes.ecs.plans import Answer, Life
from tests.fakes.ecs.queue import Queue
from tests.fakes.ecs.tasks import Engine, Task
from tests.fakes.ecs.tunnel import Tunnel
from tests.fakes.ecs.wire import AwsFault
from tests.waiting import LONG_S, until

_PREFIXES = {"AmazonEC2ContainerServiceV20141113.": "ecs", "AmazonSQS.": "sqs"}
_KEY, _SECRET = "AKIAFAKEFAKEFAKEFAKE", "fake-secret"
_WHO = b"Action=GetCallerIdentity"
_LATE_S = 30.0
_CONTAINERS = {False: ("guacd",), True: ("guacd", "openvpn")}


@dataclass(frozen=True)
class Call:
    """One request as it came, and the code of its answer: "" for a good one."""

    name: str
    arguments: dict[str, Any] = field(repr=False)
    at: float
    code: str = ""


@dataclass(frozen=True)
class _Killer:
    """Who is killed, and at which of the calls of a name ("": any) that come after those that there were."""

    pid: int
    number: int
    when: str
    name: str
    known: int


@dataclass
class _Wish:
    answer: Answer
    name: str
    of: str
    left: float


class FakeEcs:
    """ECS and its queue of events at `url`; use it as a context manager, and everything ends with it.

    `tunnel`: its tasks join the VPN themselves, by a real join.py beside each guacd.
    """

    def __init__(self, *, port: int = 0, region: str = "eu-west-1", pace_s: float = 0.02, tunnel: bool = False) -> None:
        self.region, self.tunnel = region, tunnel
        self.queue = Queue(account=ecs_calls.ACCOUNT, region=region)
        self.engine = Engine(pace_s=pace_s, on_change=self.queue.task_changed)
        self.api = Calls(self.engine, region=region, life_of=self._life_of, containers=_CONTAINERS[tunnel])
        self.secrets = {_KEY: _SECRET}  # who may call: access key → secret
        self.calls: list[Call] = []
        self.refused: list[str] = []  # what a client did wrong, which a right one never does
        self.faults: list[str] = []  # what the fake itself did wrong
        self._wishes: list[_Wish] = []
        self._lives: list[tuple[str, float, Life]] = []
        self._arrived = threading.Condition()
        self._door = threading.Event()
        self._door.set()
        self._killer: _Killer | None = None
        self._over = threading.Event()
        self._server = Server(("127.0.0.1", port), handler_of(self.answer, self.faults))
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="fake ECS HTTP", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> FakeEcs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Is no longer there, and neither is what ran in its tasks."""
        self._over.set()
        self._door.set()
        self.queue.close()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(LONG_S)
        self.engine.close()

    # --- where and what it is ----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def queue_url(self) -> str:
        return f"{self.url}{self.queue.path}"

    @property
    def surroundings(self) -> dict[str, str]:
        """The environment by which boto3 finds it and may call it."""
        return {
            "AWS_ENDPOINT_URL_ECS": self.url,
            "AWS_ENDPOINT_URL_SQS": self.url,
            "AWS_ENDPOINT_URL_STS": self.url,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def settings(self) -> dict[str, str]:
        """Portafilter's settings for it; without the queue."""
        return {
            "GATEWAY": "ecs",
            "AWS_REGION": self.region,
            "ECS_CLUSTER": ecs_calls.CLUSTER,
            "ECS_TASK_DEFINITION": ecs_calls.FAMILY,
            "ECS_SUBNETS": ",".join(ecs_calls.SUBNETS),
            "ECS_SECURITY_GROUPS": ",".join(ecs_calls.SECURITY_GROUPS),
            "ECS_NETWORK": "tunnel" if self.tunnel else "routed",
        }

    # --- what is to go wrong -----------------------------------------------------------------------------------------

    def will(self, answer: Answer, name: str, *, times: float = 1, of: str = "") -> None:
        """The next `times` calls of this name ("*": any) get this answer; `of`: only RunTasks with this startedBy."""
        with self._arrived:
            self._wishes.append(_Wish(answer, name, of, times))

    def lives(self, life: Life, *, times: float = 1, of: str = "") -> None:
        """The next `times` tasks have this life; `of`: only those with this startedBy."""
        with self._arrived:
            self._lives.append((of, times, life))

    def be_good(self) -> None:
        """Forgets what was to go wrong with calls and with tasks to come."""
        with self._arrived:
            self._wishes.clear()
            self._lives.clear()
            self.api.lag_s, self._killer = 0.0, None

    def kill(self, pid: int, *, before: int = 0, after: int = 0, name: str = "") -> None:
        """kill -9 for the process `pid` at the request of this number, counted from now on; `name`: of those alone.

        `before`: the request has no effect. `after`: it has, and its answer is never sent.
        """
        with self._arrived:
            number, when = (before, "before") if before else (after, "after")
            self._killer = _Killer(pid, number, when, name, len(self.calls))

    def make_room(self, capacity: int) -> None:
        """So many tasks have room from now on; those that run stay."""
        self.engine.make_room(capacity)

    def forget_stopped(self) -> None:
        """Stopped tasks, as AWS does after an hour."""
        with self.engine.lock:
            for task in self.tasks():
                if task.status == "STOPPED":
                    del self.engine.tasks[task.arn]

    def clear(self) -> None:
        """Is as new: nothing goes wrong, nothing is left; AssertionError when the fake itself has failed."""
        self.be_good()
        self.make_room(1000)
        with self.engine.lock:
            for task in self.tasks():
                self.engine.remove(task)
        with self._arrived:
            self.calls.clear()
            self.refused.clear()
        self.api.forget_tokens()
        self.queue.visibility_s, self.queue.delay_s, self.queue.is_silent = 30, 0, False
        self.queue.purge()
        assert self.faults == []

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Calls wait at the door meanwhile, so that what they get can be chosen by whose they are."""
        self._door.clear()
        try:
            yield
        finally:
            self._door.set()

    def kill_guacd(self, address: str) -> None:
        """As a crash of guacd would."""
        with self.engine.lock:
            task = self._at(address)
            assert task.guacd is not None, f"the task at {address} runs no guacd"
            task.guacd.kill()

    def kill_tunnel(self, address: str) -> None:
        """As a crash of join.py would."""
        with self.engine.lock:
            task = self._at(address)
            assert task.tunnel is not None, f"the task at {address} runs no join.py"
            task.tunnel.kill()

    def join(self, address: str) -> None:
        """The task at this address is in the VPN now, however long that was to take."""
        with self.engine.lock:
            task = self._at(address)
            assert task.tunnel is not None, f"the task at {address} runs no join.py"
            task.tunnel.join()

    def usurp(self, address: str) -> None:
        """From now on somebody else answers at the door of the task at this address, with a key of their own."""
        with self.engine.lock:
            task = self._at(address)
            assert task.tunnel is not None, f"the task at {address} runs no join.py"
            task.tunnel.kill()
            task.tunnel = Tunnel(task.address, task.arn, joins_s=task.life.joins_s)

    def finish(self, task: Task) -> None:
        """A task that is stopping has stopped, however long that was to take."""
        with self.engine.lock:
            assert task.status == "STOPPING", f"found {task.status}"
            self.engine._deprovisioning(task)

    def _at(self, address: str) -> Task:
        (task,) = [one for one in self.engine.tasks.values() if one.address == address]
        return task

    # --- what has become of it ---------------------------------------------------------------------------------------

    def tasks(self, *, of: str = "") -> list[Task]:
        """All tasks there ever were; `of`: with this startedBy."""
        with self.engine.lock:
            return [one for one in self.engine.tasks.values() if of in ("", one.shape.get("startedBy"))]

    def alive(self, *, of: str = "") -> list[Task]:
        """Those that nobody has asked to stop: each costs money, and may reach a machine."""
        return [one for one in self.tasks(of=of) if one.shape["desiredStatus"] == "RUNNING"]

    def names(self) -> list[str]:
        """What was called, in order."""
        with self._arrived:
            return [call.name for call in self.calls]

    def wait_for(self, holds: Callable[[FakeEcs], object], *, timeout_s: float = LONG_S, what: str = "") -> None:
        """Returns as soon as something holds of the fake; AssertionError after the deadline."""
        until(lambda: holds(self), what or f"{holds}", timeout_s=timeout_s)

    # --- answering ---------------------------------------------------------------------------------------------------

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes] | None:
        """Status and body; None: hang up."""
        self._door.wait()
        name, arguments, answer = "?", {}, Answer.GOOD
        try:
            if body.startswith(_WHO):
                return self._say_who(method, path, headers, body)
            service, name = _operation(headers)
            region = wire.check_signature(method, path, headers, body, secrets=self.secrets)
            operation = wire.model(service).operation_model(name)
            arguments = wire.read(operation, body)
            answer = self._answer_for(name, arguments)
        except AwsFault as fault:
            self.refused.append(f"{name}: {fault.code}: {fault}")
            self._note(name, arguments, fault.code)
            return fault.status, json.dumps(fault.body).encode()
        number = self._note(name, arguments, "" if answer == Answer.GOOD else answer.value)
        if self._strike(number, "before"):
            return None
        try:
            if answer in FAULTS and answer not in DONE_FIRST:
                raise fault_of(answer)
            if answer == Answer.DENIED:
                raise denied(service, name, arguments, self.region)
            done = self._do(service, name, arguments, answer, region)
            self._strike(number, "after")
        except AwsFault as fault:
            if answer == Answer.GOOD:
                self._amend(number, fault, is_mistake=fault.status == 400 and region == self.region)
            self._strike(number, "after")
            return fault.status, json.dumps(fault.body).encode()
        if answer == Answer.FAILED_LATE:
            late = fault_of(answer)
            return late.status, json.dumps(late.body).encode()
        if answer == Answer.LATE:
            self._over.wait(_LATE_S)
        if answer in (Answer.LOST, Answer.LATE):
            return None
        return 200, b"<html>It works!</html>" if answer == Answer.BROKEN else wire.write(operation, done)

    def _say_who(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes] | None:
        """STS, which speaks XML."""
        wire.check_signature(method, path, headers, body, secrets=self.secrets, of="sts")
        self._note("GetCallerIdentity", {}, "")
        told = f"<GetCallerIdentityResult><Account>{ecs_calls.ACCOUNT}</Account></GetCallerIdentityResult>"
        is_good = self._answer_for("GetCallerIdentity", {}) == Answer.GOOD
        return (200, f"<GetCallerIdentityResponse>{told}</GetCallerIdentityResponse>".encode()) if is_good else None

    def _do(self, service: str, name: str, arguments: dict[str, Any], answer: Answer, region: str) -> dict[str, Any]:
        if answer == Answer.NOTHING:
            return {"tasks": [], "failures": []}
        there: object = self.api if service == "ecs" else self.queue
        do = getattr(there, _snake(name), None)
        if do is None:
            raise AwsFault("UnknownOperationException", f"The fake has no {name}.")
        if region != self.region:
            # Each region has its own clusters and queues, and in the others there are none.
            code = "ClusterNotFoundException" if service == "ecs" else "com.amazonaws.sqs#QueueDoesNotExist"
            raise AwsFault(code, "Cluster not found." if service == "ecs" else "The specified queue does not exist.")
        if answer == Answer.NO_CAPACITY:
            return self.api.run_task(arguments, has_capacity=False)
        found: dict[str, Any] = do(arguments)
        return found

    def _answer_for(self, name: str, arguments: dict[str, Any]) -> Answer:
        with self._arrived:
            for wish in self._wishes:
                if wish.name in (name, "*") and wish.of in ("", arguments.get("startedBy")) and wish.left > 0:
                    wish.left -= 1
                    return wish.answer
        return Answer.GOOD

    def _life_of(self, started_by: str) -> Life:
        with self._arrived:
            for number, (of, left, life) in enumerate(self._lives):
                if of in ("", started_by) and left > 0:
                    self._lives[number] = (of, left - 1, life)
                    return life
        return Life()

    def _note(self, name: str, arguments: dict[str, Any], code: str) -> int:
        """The call's number, from 1."""
        with self._arrived:
            self.calls.append(Call(name, arguments, time.monotonic(), code))
            self._arrived.notify_all()
            return len(self.calls)

    def _amend(self, number: int, fault: AwsFault, *, is_mistake: bool) -> None:
        """The call broke a rule."""
        with self._arrived:
            call = self.calls[number - 1]
            self.calls[number - 1] = Call(call.name, call.arguments, call.at, fault.code)
            if is_mistake:
                self.refused.append(f"{call.name}: {fault.code}: {fault}")

    def _strike(self, number: int, when: str) -> bool:
        """Whether somebody was killed: nobody waits for an answer any more."""
        with self._arrived:
            killer = self._killer
            if killer is None or killer.when != when or killer.name not in ("", self.calls[number - 1].name):
                return False
            those = [call for call in self.calls[killer.known : number] if killer.name in ("", call.name)]
            if len(those) != killer.number:
                return False
            self._killer = None
        with contextlib.suppress(ProcessLookupError):
            os.kill(killer.pid, signal.SIGKILL)
        return True


def _operation(headers: dict[str, str]) -> tuple[str, str]:
    target = headers.get("x-amz-target", "")
    for prefix, service in _PREFIXES.items():
        name = target.removeprefix(prefix)
        if name != target and name in wire.model(service).operation_names:
            version = wire.model(service).metadata["jsonVersion"]
            if headers.get("content-type") != f"application/x-amz-json-{version}":
                raise AwsFault(
                    "SerializationException", f"found {headers.get('content-type')}, expected JSON {version}"
                )
            return service, name
    raise AwsFault("UnknownOperationException", f"found {target!r}")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
