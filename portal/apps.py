"""The operators' web app and the commands that start everything."""

from django.apps import AppConfig
from django.conf import settings


class PortalConfig(AppConfig):
    name = "portal"
    verbose_name = "Portal"

    def ready(self) -> None:
        from portal import checks  # noqa: F401  (they register themselves)

        if settings.ACCELERATOR:
            from backbone.passes import AcceleratorPasses
            from sessions import worker

            worker.register_hands("accelerator", lambda name: AcceleratorPasses().run)
