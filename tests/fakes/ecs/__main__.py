"""`python -m tests.fakes.ecs [--port N] [--pace-s S] [--tunnel]`: prints what leads to it, and serves."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.fakes.ecs import FakeEcs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.ecs")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pace-s", type=float, default=0.02, help="how long a task is in each state on its way")
    parser.add_argument("--tunnel", action="store_true", help="tasks join the VPN themselves, as far as a fake can")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    with FakeEcs(port=options.port, pace_s=options.pace_s, tunnel=options.tunnel) as ecs:
        for name, value in {**ecs.surroundings, **ecs.settings, "ECS_EVENTS_QUEUE": ecs.queue_url}.items():
            print(f"{name}={value}")
        print("Ready; Ctrl-C ends it.", flush=True)
        while True:
            time.sleep(0.25)  # a signal that came to another thread is seen between two of them


if __name__ == "__main__":
    main()
