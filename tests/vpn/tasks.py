"""A gateway driver for tests: what ECS does with a task in tunnel mode, in network namespaces of this computer.

A task is join.py and guacd, in a namespace that has one link to the server: its own network, and no way to the server's
programs but that. TASKS says which namespaces there are, as in `pf-1-t1=10.88.0.11,…`;
TASKS_FOLDER, in memory, has their logs and what each keeps.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from portal.demo.vpn.namespaces import enter, processes_in
from sessions.gateways import door, probe, processes
from sessions.gateways.base import GatewayError, GatewayRequest, GatewayStatus, Handle

JOIN = Path(__file__).resolve().parents[2] / "backbone/images/gateway/join.py"
# As the containers have it: join.py is root with NET_ADMIN alone, guacd is nobody with nothing.
_ROOT = ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs"]
_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--no-new-privs"]
_GUACD = [*_NOBODY, "guacd", "-f", "-b", "0.0.0.0", "-l", "4822"]
_MARK = "PORTAFILTER_TASK"


def folder_of(attempt_id: str) -> Path:
    """Where join.py keeps the key, in memory."""
    return Path(os.environ["TASKS_FOLDER"]) / attempt_id


def _join(attempt_id: str) -> list[str]:
    return [*_ROOT, sys.executable, str(JOIN), "--folder", str(folder_of(attempt_id))]


class Tasks:
    """One attempt a namespace."""

    def __init__(self) -> None:
        self._spaces = dict(one.split("=") for one in os.environ["TASKS"].split(","))
        self._children: list[subprocess.Popen[bytes]] = []

    def start(self, request: GatewayRequest) -> GatewayStatus:
        if not processes.find(**{_MARK: request.attempt_id}):
            space = next((one for one in self._spaces if not processes_in(one)), None)
            if space is None:
                raise GatewayError("No namespace is free for another task.")
            self._run(request.attempt_id, space, _join(request.attempt_id))
            self._run(request.attempt_id, space, _GUACD)
            return GatewayStatus("starting", handle={"space": space})
        return GatewayStatus("starting")

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        known = dict(handle)
        space = str(known.get("space", ""))
        if not self._is_there(attempt_id, "join.py"):
            return GatewayStatus("stopped", detail="The task has ended.")
        address = self._spaces[space]
        if "vpn_address" not in known:
            try:
                known["vpn_address"] = door.join(address, door.PORT, attempt_id, timeout_s=2)
            except GatewayError as error:
                if error.permanent:
                    return GatewayStatus("failed", handle=known, detail=str(error))
                return GatewayStatus("starting", handle=known, detail=str(error))
        try:
            probe.answers(address, 4822, timeout_s=2)
        except (OSError, probe.NotGuacd) as error:
            return GatewayStatus("starting", handle=known, detail=str(error))
        return GatewayStatus("ready", address, 4822, known)

    def stop(self, attempt_id: str, handle: Handle) -> None:
        door.leave(attempt_id)
        for process in sorted(processes.find(**{_MARK: attempt_id}), key=lambda one: one.started):
            processes.end(process, kill=False)
        for child in list(self._children):
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.01)
                self._children.remove(child)
        if processes.find(**{_MARK: attempt_id}):
            raise GatewayError("The task is still stopping.")
        shutil.rmtree(folder_of(attempt_id), ignore_errors=True)

    def running(self) -> list[str]:
        marked = processes.find(PORTAFILTER_INSTALLATION=os.environ["STATE_DIR"])
        return sorted({one.environment[_MARK] for one in marked if _MARK in one.environment})

    def _run(self, attempt_id: str, space: str, command: list[str]) -> None:
        with open(Path(os.environ["TASKS_FOLDER"]) / f"{space}.log", "ab") as log:
            child = subprocess.Popen(
                [*enter(space), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                # What a task has of its surroundings: no setting, no secret.
                env={"PATH": os.environ["PATH"], "HOME": "/dev/shm", "LANG": "C.UTF-8", _MARK: attempt_id,
                     "PORTAFILTER_INSTALLATION": os.environ["STATE_DIR"]},
            )  # fmt: skip
        self._children.append(child)

    def _is_there(self, attempt_id: str, program: str) -> bool:
        found = processes.find(**{_MARK: attempt_id})
        return any(program in Path(f"/proc/{one.pid}/cmdline").read_text() for one in found)
