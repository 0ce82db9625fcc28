"""`manage.py work`: the worker in a process of its own."""

from __future__ import annotations

import os
import select
import signal
import threading
from argparse import ArgumentParser

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError

from sessions import bell
from sessions.signs_of_life import SignOfLife
from sessions.worker import start_threads


class _Ending:
    """SIGTERM and SIGINT as something to wait for, whichever thread the kernel gives them to.

    Not an Event that a handler sets: handlers run in the main thread alone, which sleeps on when another thread got the
    signal, or when it came just before the sleep; and the handler may want the very lock that its thread holds. What
    `signal.set_wakeup_fd` names is written to at once, in whatever thread.
    """

    def __init__(self) -> None:
        self._told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(tell)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)

    def wait(self) -> None:
        select.select([self._told], [], [])


class Command(BaseCommand):
    # It serves no page: what only pages need may be missing where it runs. It asks telemetry, by that check's own tag.
    requires_system_checks = [Tags.models, "telemetry"]
    help = "Starts and stops gateways, keeps time limits and closes what is over, until it is told to stop."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--threads", type=int, default=settings.WORKER_THREADS, help="How many things at once.")

    def handle(self, *args: object, threads: int, **options: object) -> None:
        if threads < 1:
            raise CommandError(f"--threads: found {threads}, expected 1 or more")
        stop = threading.Event()
        ending = _Ending()
        with SignOfLife() as process:
            running = start_threads(threads, process=process.name, stop=stop)
            self.stdout.write(f"Working with {threads} threads; Ctrl-C ends it.")
            self.stdout.flush()
            ending.wait()
            stop.set()
            bell.ring()
            for thread in running:
                # A driver's call takes 15 s at most, and is better finished than taken up by another worker later.
                thread.join(20)
