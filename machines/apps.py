"""The fleet: whose machines, where, which people look after them."""

from django.apps import AppConfig
from django.core.checks import register


class MachinesConfig(AppConfig):
    name = "machines"
    verbose_name = "Fleet"

    def ready(self) -> None:
        from machines.telemetry import checks

        register(checks.check_driver, checks.TAG)
