"""What is to go wrong: the answers that calls get, and the lives that tasks have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

FOR_EVER = math.inf


class Answer(StrEnum):
    """What becomes of one call. GOOD, LOST, LATE, FAILED_LATE and BROKEN have done what they were asked for."""

    GOOD = "good"
    LOST = "lost"  # it was done; the connection ends without an answer
    LATE = "late"  # it was done; the answer comes after 30 s, when nobody reads it any more
    FAILED_LATE = "failed_late"  # it was done, and yet the answer is 500
    THROTTLED = "throttled"
    SERVER_ERROR = "server_error"
    NO_CAPACITY = "no_capacity"  # RunTask: 200 with `failures`
    NOTHING = "nothing"  # RunTask: 200 with neither a task nor a failure
    NO_INSTANCES = "no_instances"  # RunTask: the cluster has no computers at all
    EXPIRED = "expired"
    UNKNOWN_CREDENTIALS = "unknown_credentials"
    DENIED = "denied"
    CLUSTER_GONE = "cluster_gone"
    BROKEN = "broken"  # it was done; 200 with something that is no JSON


@dataclass(frozen=True, slots=True)
class Life:
    """What becomes of one task, in seconds; None is the fake's own pace, FOR_EVER is stuck there."""

    provisioning_s: float | None = None
    pending_s: float | None = None
    runs_s: float = FOR_EVER  # then its guacd ends by itself
    stopping_s: float | None = None
    failure: str = ""  # it never runs: TaskFailedToStart with this reason, after PENDING
    lag_s: float | None = None  # how long DescribeTasks and ListTasks do not show what became of it
    joins_s: float = 0.0  # in a task with a tunnel: from the profile until its openvpn is in the VPN
    guacd_after: Literal["HEALTHY", "START"] = "HEALTHY"  # what guacd waits for there, as its `dependsOn` says
    stops_refused: int = 0  # so many StopTasks fail with 500 before one works
