"""`manage.py keep`: the keepers in a process of their own."""

from __future__ import annotations

import asyncio
import signal

from django.core.checks import Tags
from django.core.management.base import BaseCommand

from notifications import live
from sessions.keepers import KeeperSupervisor
from sessions.signs_of_life import SignOfLife


class Command(BaseCommand):
    # It serves no page: what only pages need may be missing where it runs.
    requires_system_checks = [Tags.models]
    help = "Logs in to the machines that ask for help and holds their desktops ready, until it is told to stop."

    def handle(self, *args: object, **options: object) -> None:
        asyncio.run(self._keep())

    async def _keep(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        live.use_loop(loop)
        self.stdout.write("Keeping desktops; Ctrl-C ends it.")
        self.stdout.flush()
        with SignOfLife() as process:
            await KeeperSupervisor(f"{process.name}:keeper").run(stop)
