"""The fleet: whose machines, where, which people look after them."""

from django.apps import AppConfig


class MachinesConfig(AppConfig):
    name = "machines"
    verbose_name = "Fleet"
