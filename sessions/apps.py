"""The heart: support sessions, from press to close.

The label is not "sessions": django.contrib.sessions has that one.
"""

from django.apps import AppConfig


class SupportConfig(AppConfig):
    name = "sessions"
    label = "support"
    verbose_name = "Rescues"

    def ready(self) -> None:
        from machines import passages
        from sessions import selectors

        passages.register(selectors.passages)
