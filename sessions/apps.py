"""The heart: support sessions, from press to close.

The label is not "sessions": django.contrib.sessions has that one.
"""

from django.apps import AppConfig


class SupportConfig(AppConfig):
    name = "sessions"
    label = "support"
    verbose_name = "Rescues"

    def ready(self) -> None:
        from machines import gateway_identities, passages
        from notifications import outbox
        from sessions import escalation, selectors

        passages.register(selectors.passages)
        gateway_identities.register(selectors.live_attempts)
        outbox.register_judge(escalation.is_wanted)
