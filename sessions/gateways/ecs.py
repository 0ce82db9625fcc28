"""One ECS task a session: guacd, and in tunnel mode an OpenVPN client beside it, on computers of one's own cluster.

RunTask's clientToken is the attempt's id: the same order given twice, after a lost answer or by another worker after a
crash, is one task (for 24 hours, ECS API Reference, RunTask). Tags say whose it is: the installation's, the attempt's,
the session's. Nothing of the machine goes to AWS, and no login ever.

ECS says what becomes of a task, guacd itself whether it answers. A ready gateway that answers stays ready while ECS
cannot be asked: an outage of AWS' API ends no rescue. See docs/operations.md, "Gateways on ECS".
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable

from django.conf import settings

from machines.aws import Aws, AwsError, Kind
from sessions.gateways import door, ecs_events, ecs_orders, ecs_tasks, ecs_words, probe
from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus, Handle, StillStopping
from sessions.gateways.ecs_attempts import Attempts
from sessions.gateways.ecs_calls import ANSWER_S, CONNECT_S, NO_CLUSTER, EcsCalls
from sessions.gateways.ecs_probes import Probes
from sessions.gateways.ecs_tasks import Task, Tasks

logger = logging.getLogger(__name__)

PORT = 4822
_PROBE_TIMEOUT_S = 1.0
_JOIN_TIMEOUT_S = 2.0
# DescribeTasks and ListTasks may not know a new task for so long: it is starting, not gone.
_UNKNOWN_S = 30
# What may be stale is to be said again: so many seconds later of a starting task, so often while guacd answers.
_APART_S, _SEVERAL = 3.0, 3
# An order whose answer was lost shows in ListTasks by then, or it came to nothing; the sweep finds what is later still.
_UNANSWERED_S = 15
_SEARCH_EVERY_S = 3
# A computer that is being started is waited for so long; a session's own deadline is sooner.
_COMPUTER_S = 600
_SAY_SO_AFTER_S = 4
# A call of a driver has 15 s (base.py): an order, or a look that may wait for another's, and then guacd is asked.
_ORDER_S, _LOOK_S, _ALL_S = 11.0, 7.0, 14.0
# What takes minutes is looked for so often, of each gateway that is ready.
_LINE_EVERY_S = 30.0
# After StopTask we look so long whether it was quick; a task with a network interface takes ten seconds and more.
_STOP_LOOKS_S = (0.2, 0.6)
_REASON = "Portafilter does not need it any more"
_ATTEMPT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")

NewHandle = dict[str, str | int]


class EcsGateways:
    """Gateways in ECS_CLUSTER; any number of threads and processes may use it at once."""

    can_be_warm = True

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        for name in ("AWS_REGION", "ECS_CLUSTER", "ECS_TASK_DEFINITION", "ECS_SUBNETS", "ECS_SECURITY_GROUPS"):
            if not getattr(settings, name):
                raise GatewayError(f"GATEWAY=ecs needs {name}: found nothing.", permanent=True)
        self._now = now
        self._since = int(now())
        self._aws = Aws(settings.AWS_REGION, connect_s=CONNECT_S, answer_s=ANSWER_S)
        self._calls = EcsCalls(self._aws, settings.ECS_CLUSTER)
        self._installation = ecs_orders.tag_value(str(settings.INSTALLATION))
        self._tasks = Tasks(lambda arns: self._calls.describe(arns, deadline=time.monotonic() + _LOOK_S))
        self._probes = Probes()
        self._events = ecs_events.Events(self._tasks, installation=self._installation)
        self._attempts = Attempts()
        # Which tasks the last sweep found: leftovers are stopped without a handle.
        self._swept: dict[str, str] = {}

    def start(self, request: GatewayRequest) -> GatewayStatus:
        _check_attempt_id(request.attempt_id)
        attempt_id = request.attempt_id
        # Before it is sent: this thread may never come to know the answer.
        self._attempts.of(attempt_id).unanswered_at = time.monotonic()
        try:
            answer = self._calls.run_task(
                ecs_orders.order(request, installation=self._installation), deadline=time.monotonic() + _ORDER_S
            )
        except AwsError as error:
            if arn := _existing(error):
                # Given before with other settings, by a worker that has been replaced since: it is this attempt's.
                return GatewayStatus("starting", handle={"task": arn, "at": int(self._now())})
            self._attempts.of(attempt_id).unanswered_at = time.monotonic() if error.may_have_happened else None
            raise ecs_words.of_error(error) from error
        failures = answer.get("failures") or []
        task = next(filter(None, map(ecs_tasks.parse, answer.get("tasks") or [])), None)
        if task is not None or failures:
            self._attempts.of(attempt_id).unanswered_at = None
        if task is None:
            words = ecs_words.of_failures(failures)
            return GatewayStatus("failed", detail=words.detail, record=words.record, no_room=words.no_room)
        self._tasks.learn(task, attempt=attempt_id)
        return self._look_on(attempt_id, self._new_handle(task.arn), task)

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        if not handle:
            return GatewayStatus("stopped", detail="No gateway was ordered yet.")
        if "ready" in handle:
            return self._look_after(attempt_id, dict(handle))
        arn = str(handle["task"])
        try:
            look = self._tasks.look(arn, attempt=attempt_id, pace=self._starting_pace(arn))
        except AwsError as error:
            if error.is_permanent:
                raise ecs_words.of_error(error) from error
            # It may well be starting: what ends its time is the time.
            self._attempts.of(attempt_id).last_words = str(error)
            return self._within_time(attempt_id, dict(handle), self._tasks.known(arn))
        if look.missing and look.missing_s >= _APART_S and _is_old(handle, self._now()):
            return GatewayStatus("stopped", detail="AWS has forgotten the gateway.", record=_gone(handle))
        return self._look_on(attempt_id, dict(handle), look.task)

    def stop(self, attempt_id: str, handle: Handle) -> None:
        """Raises StillStopping until ECS says STOPPED, or has not known the task for half a minute.

        A task whose cluster has been deleted has stopped with it.
        """
        _check_attempt_id(attempt_id)
        if settings.ECS_NETWORK == "tunnel":
            door.leave(attempt_id)
        deadline = time.monotonic() + _ALL_S
        try:
            self._stop(attempt_id, handle, deadline)
        except AwsError as error:
            # By the ARN in its row alone: that ECS_CLUSTER names no cluster says nothing about a task.
            if not (handle and self._has_lost_its_cluster(str(handle["task"]), error, deadline)):
                raise ecs_words.of_error(error) from error
            logger.warning("Gateway %s is taken for stopped: its cluster has been deleted. %s", attempt_id, error)
        self._attempts.forget(attempt_id)

    def running(self) -> list[str]:
        """The attempts whose tasks shall run; those that have been told to stop end by themselves."""
        try:
            tasks = self._list("RUNNING", time.monotonic() + _ALL_S)
        except AwsError as error:
            raise ecs_words.of_error(error) from error
        self._swept = {task.attempt: task.arn for task in tasks if not task.is_ending}
        return sorted(self._swept)

    def mark(self) -> dict[str, str | int]:
        return {"mark": ecs_orders.mark(), "since": self._since}

    def watch(self, stop: threading.Event, changed: Callable[[list[str]], None]) -> None:
        """Hears from ECS_EVENTS_QUEUE what becomes of tasks; without one it returns at once."""
        if settings.ECS_EVENTS_QUEUE:
            self._events.watch(stop, changed)

    # --- starting -----------------------------------------------------------------------------------------------------

    def _new_handle(self, arn: str) -> NewHandle:
        return {"task": arn, "at": int(self._now()), **self.mark()}

    def _look_on(self, attempt_id: str, handle: NewHandle, task: Task | None) -> GatewayStatus:
        """How far a starting gateway has come; what is new of it is in the status's handle."""
        if task is None:
            return self._within_time(attempt_id, handle, None)
        if task.is_ending:
            words = ecs_words.of_end(task)
            state = "stopped" if task.is_stopped else "failed"
            return GatewayStatus(state, handle=handle, detail=words.detail, record=words.record)  # type: ignore[arg-type]
        if task.is_placed and "placed" not in handle:
            handle["placed"] = int(self._now())
        if task.address:
            handle["address"] = task.address
        try:
            has_joined = bool(task.address) and self._has_joined(attempt_id, handle)
        except GatewayError as error:
            # Known for good, so not raised: who calls would ask again, and the door would raise its alarm again.
            detail = "The gateway could not join the VPN."
            return GatewayStatus("failed", handle=handle, detail=detail, record=error.record)
        if has_joined and task.last_status == "RUNNING":
            try:
                probe.answers(task.address, PORT, timeout_s=_PROBE_TIMEOUT_S)
            except (OSError, probe.NotGuacd) as error:
                self._attempts.of(attempt_id).last_words = f"guacd at {task.address}:{PORT}: {error}."
            else:
                self._attempts.of(attempt_id).last_words = ""
                handle["ready"] = int(self._now())
                return GatewayStatus("ready", task.address, PORT, handle)
        return self._within_time(attempt_id, handle, task)

    def _has_joined(self, attempt_id: str, handle: NewHandle) -> bool:
        """Whether the gateway is in the VPN, or need not be; it tries once. Raises GatewayError for good only."""
        if settings.ECS_NETWORK != "tunnel" or "vpn_address" in handle:
            return True
        try:
            handle["vpn_address"] = door.join(
                str(handle["address"]), door.PORT, attempt_id, timeout_s=_JOIN_TIMEOUT_S
            )  # fmt: skip
        except GatewayError as error:
            if error.permanent:
                raise
            self._attempts.of(attempt_id).last_words = str(error)
            return False
        return True

    def _within_time(self, attempt_id: str, handle: NewHandle, task: Task | None) -> GatewayStatus:
        """It is starting, or has had its time."""
        now = self._now()
        # Only a capacity provider has tasks wait. Elsewhere a first look that was late must not lengthen the time.
        may_wait = bool(settings.ECS_CAPACITY_PROVIDER)
        waits_for_computer = may_wait and task is not None and not task.is_placed and task.last_status == "PROVISIONING"
        # Another process may have seen it wait, while this one has not had an answer yet.
        may_be_waiting = waits_for_computer or (may_wait and task is None and "placed" not in handle)
        since = int(handle.get("placed", handle["at"]) if may_wait and not may_be_waiting else handle["at"])
        limit_s = _COMPUTER_S if may_be_waiting else settings.ECS_READY_S
        if now - since > limit_s:
            words = ecs_words.of_slow_start(task, limit_s, self._attempts.of(attempt_id).last_words)
            return GatewayStatus(
                "failed", handle=handle, detail=words.detail, record=words.record, no_room=waits_for_computer
            )
        detail = ecs_words.NO_ROOM_YET if waits_for_computer and now - since >= _SAY_SO_AFTER_S else ""
        return GatewayStatus("starting", handle=handle, detail=detail, no_room=bool(detail))

    # --- ready --------------------------------------------------------------------------------------------------------

    def _look_after(self, attempt_id: str, handle: NewHandle) -> GatewayStatus:
        arn, host = str(handle["task"]), str(handle["address"])
        ready = GatewayStatus("ready", host, PORT, handle)
        wrong = self._probes.look(host, PORT)
        try:
            pace = self._ready_pace() if wrong is None else ecs_tasks.AT_ONCE
            look = self._tasks.look(arn, attempt=attempt_id, pace=pace)
        except AwsError as error:
            if wrong is None:
                return ready
            record = f"guacd at {host}:{PORT}: {wrong}. {error}"
            raise GatewayError("Neither the gateway nor AWS answers.", record=record) from error
        task = look.task
        # While guacd answers, AWS has to say so several times.
        is_gone = look.missing >= _SEVERAL and look.missing_s >= _UNKNOWN_S
        if is_gone or (look.missing > 1 and wrong is not None and _is_old(handle, self._now())):
            return GatewayStatus("stopped", detail="AWS has forgotten the gateway.", record=_gone(handle))
        if task is not None and task.is_ending:
            words = ecs_words.of_end(task)
            return GatewayStatus("stopped", detail=words.detail, record=words.record)
        if "vpn_address" in handle and self._has_lost_line(attempt_id):
            record = f"The gateway at {host} left the VPN minutes ago. Has the VPN's server another address now?"
            return GatewayStatus("failed", detail="The gateway has lost the VPN.", record=record)
        if wrong is None:
            return ready
        if isinstance(wrong, ConnectionRefusedError):
            record = f"Nothing listens at {host}:{PORT}; ECS has not noticed yet."
            return GatewayStatus("stopped", detail="The gateway's guacd has ended.", record=record)
        if task is not None and not task.is_connected:
            words = ecs_words.of_lost_host(task)
            return GatewayStatus("failed", detail=words.detail, record=words.record)
        raise GatewayError("The gateway does not answer.", record=f"guacd at {host}:{PORT}: {wrong}.")

    def _has_lost_line(self, attempt_id: str) -> bool:
        """Whether it has been out of the VPN for minutes; asked of the database seldom, as there may be many."""
        known = self._attempts.of(attempt_id)
        if time.monotonic() - known.line_looked_at >= _LINE_EVERY_S:
            known.line_looked_at, known.has_lost_line = time.monotonic(), door.is_lost(attempt_id)
        return known.has_lost_line

    def _starting_pace(self, arn: str) -> tuple[float, ...]:
        is_told = self._events.is_hearing() and self._tasks.is_heard_of(arn)
        return ecs_tasks.STARTING_PACE_HEARING if is_told else ecs_tasks.STARTING_PACE

    def _ready_pace(self) -> tuple[float, ...]:
        return ecs_tasks.READY_PACE_HEARING if self._events.is_hearing() else ecs_tasks.READY_PACE

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _stop(self, attempt_id: str, handle: Handle, deadline: float) -> None:
        arn = str(handle["task"]) if handle else self._search(attempt_id, deadline)
        if not arn:
            return
        known = self._tasks.known(arn)
        if known is None or known.desired_status != "STOPPED":
            known = self._tell_to_stop(arn, attempt_id, deadline)
        for pause_s in (*_STOP_LOOKS_S, None):
            if known is not None and known.is_stopped:
                return
            if time.monotonic() + _LOOK_S > deadline:
                break
            pace = self._starting_pace(arn) if pause_s is None else ecs_tasks.AT_ONCE
            look = self._tasks.look(arn, attempt=attempt_id, pace=pace)
            known = look.task
            # StopTask did not know it either, or this is one stale answer about a task that was there just now.
            is_missing = look.missing > 1 or (look.missing and known is None)
            if is_missing and (look.missing_s >= _UNKNOWN_S or (handle and _is_old(handle, self._now()))):
                return
            if pause_s is None or known is None or not known.is_connected:
                break
            time.sleep(pause_s)
        if known is None or not known.is_stopped:
            stage = known.last_status if known else "unknown to ECS"
            raise StillStopping("The gateway is still stopping.", record=f"Task {arn.rpartition('/')[2]} is {stage}.")

    def _has_lost_its_cluster(self, arn: str, error: AwsError, deadline: float) -> bool:
        # Two calls more: begun late, they would outlive the lease, and another worker would stop it, too.
        if error.code != NO_CLUSTER or time.monotonic() + _LOOK_S > deadline:
            return False
        try:
            return self._calls.has_lost_its_cluster(arn, deadline=deadline - CONNECT_S - ANSWER_S)
        except AwsError as unknown:
            logger.warning("Whether the cluster of %s has been deleted cannot be told: %s", arn, unknown)
            return False

    def _tell_to_stop(self, arn: str, attempt_id: str, deadline: float) -> Task | None:
        """The task as StopTask answers; None for one that ECS does not know, or not yet."""
        try:
            answer = self._calls.stop(arn, reason=_REASON, deadline=deadline)
        except AwsError as error:
            if error.kind is Kind.NOT_FOUND and error.code != NO_CLUSTER:
                return None
            # A right to stop what has our tag does not cover what is no longer there, and has none.
            if error.kind is Kind.FORBIDDEN and self._tasks.look(arn, pace=ecs_tasks.AT_ONCE).missing:
                return None
            raise
        task = ecs_tasks.parse(answer)
        if task is not None:
            self._tasks.learn(task, attempt=attempt_id)
        return task

    # --- finding ------------------------------------------------------------------------------------------------------

    def _search(self, attempt_id: str, deadline: float) -> str:
        """The task of an attempt without a handle; empty when there is none. StillStopping: that is not known yet."""
        known = self._attempts.of(attempt_id)
        if arn := known.found or self._swept.get(attempt_id, ""):
            return arn
        asked_at = known.unanswered_at
        is_in_doubt = asked_at is not None and time.monotonic() - asked_at < _UNANSWERED_S
        if not is_in_doubt or time.monotonic() - known.searched_at >= _SEARCH_EVERY_S:
            arn = self._find(attempt_id, deadline)
            known = self._attempts.of(attempt_id)
            known.searched_at, known.found = time.monotonic(), arn
            if arn:
                return arn
        if is_in_doubt:
            raise StillStopping("It is not known yet whether AWS started the gateway.")
        return ""

    def _find(self, attempt_id: str, deadline: float) -> str:
        """The task of an attempt by its tags, also one that has stopped within the last hour; empty: there is none."""
        for desired_status in ("RUNNING", "STOPPED"):
            for task in self._list(desired_status, deadline):
                if task.attempt == attempt_id:
                    self._tasks.learn(task, attempt=attempt_id)
                    return task.arn
        return ""

    def _list(self, desired_status: str, deadline: float) -> list[Task]:
        """The tasks of this installation that have an attempt."""
        described = self._calls.listed(desired_status, deadline=deadline)
        tasks = [task for task in map(ecs_tasks.parse, described) if task is not None]
        return [
            task for task in tasks
            if task.installation == self._installation and _ATTEMPT_ID.fullmatch(task.attempt)
        ]  # fmt: skip


def _existing(error: AwsError) -> str:
    """The task that has an order's clientToken already, as ConflictException says; or empty."""
    return next(iter(error.resource_ids), "") if error.code == "ConflictException" else ""


def _is_old(handle: Handle, now: float) -> bool:
    """Whether ECS would know the task by now."""
    return now - int(handle.get("at", 0)) >= _UNKNOWN_S


def _gone(handle: Handle) -> str:
    return f"DescribeTasks does not know task {str(handle['task']).rpartition('/')[2]} (MISSING)."


def _check_attempt_id(attempt_id: str) -> None:
    if not _ATTEMPT_ID.fullmatch(attempt_id):
        raise GatewayError(
            f"Found {attempt_id!r}, expected an attempt id of letters, digits and dashes.", permanent=True
        )
