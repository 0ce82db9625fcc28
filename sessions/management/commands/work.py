"""`manage.py work`: the worker in a process of its own."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser

from django.conf import settings
from django.core.checks import Tags
from django.core.management.base import BaseCommand, CommandError

from sessions import bell
from sessions.signs_of_life import SignOfLife
from sessions.worker import start_threads


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
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        with SignOfLife() as process:
            running = start_threads(threads, process=process.name, stop=stop)
            self.stdout.write(f"Working with {threads} threads; Ctrl-C ends it.")
            self.stdout.flush()
            stop.wait()
            bell.ring()
            for thread in running:
                # A driver's call takes 15 s at most, and is better finished than taken up by another worker later.
                thread.join(20)
