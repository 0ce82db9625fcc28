"""The operators' web app and the commands that start everything."""

from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.db.models.signals import post_migrate


class PortalConfig(AppConfig):
    name = "portal"
    verbose_name = "Portal"

    def ready(self) -> None:
        from portal import checks  # noqa: F401  (they register themselves)

        # Django says it once for each app that has models, after all migrations: one app's word is enough.
        post_migrate.connect(_give_rights, sender=apps.get_app_config("machines"))

        if settings.ACCELERATOR:
            from backbone.passes import AcceleratorPasses
            from sessions import worker

            worker.register_hands("accelerator", lambda name: AcceleratorPasses().run)


def _give_rights(using: str, **_: Any) -> None:
    from django.db import connections

    from portal import database_rights

    database_rights.give_to_app(connections[using])
