"""AWS for people who deploy: patient calls, and what is said when it does not go well."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from backbone import accelerator
from machines.aws import Aws, AwsError, Kind

_TRIES = 5
_T = TypeVar("_T")


class DeployError(Exception):
    """It did not go well; the text says in which stack, why, and what to do."""


class Cloud:
    """Calls for people who deploy: patient ones, tried again while AWS takes no more or fails."""

    def __init__(self, region: str, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.region = region
        self.aws = Aws(region, setting="--region", connect_s=5, answer_s=60)
        patient = Aws(accelerator.REGION, setting="", connect_s=5, answer_s=60)
        self.accelerators = accelerator.GlobalAccelerator(patient)
        self.sleep = sleep

    def again(self, call: Callable[[], _T]) -> _T:
        """The answer, at the fifth try at last; only for calls that may be made twice. Raises AwsError."""
        for number in range(1, _TRIES + 1):
            try:
                return call()
            except AwsError as error:
                if number == _TRIES or error.kind not in {Kind.THROTTLED, Kind.FAILED, Kind.TIMEOUT, Kind.UNREACHABLE}:
                    raise
                self.sleep(2.0**number)
        raise AssertionError("the last try returns or raises")
