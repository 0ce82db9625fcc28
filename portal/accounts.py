"""How people come by accounts: managers make them in the admin; nobody makes their own."""

from __future__ import annotations

from typing import ClassVar

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]
    """allauth without open sign-up, and without messages that only repeat what the page shows."""

    # "You have signed in as …" and its like say nothing that the next page does not.
    _SILENT = frozenset({"account/messages/logged_in.txt", "account/messages/logged_out.txt"})

    error_messages: ClassVar[dict[str, object]] = {
        **DefaultAccountAdapter.error_messages,
        "username_password_mismatch": "That name and password do not go together. Check both, and try again.",
        "email_password_mismatch": "That email and password do not go together. Check both, and try again.",
    }

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """Never: a stranger's account would be one row away from a machine's desktop."""
        return False

    def add_message(
        self,
        request: HttpRequest,
        level: int,
        message_template: str | None = None,
        message_context: dict[str, object] | None = None,
        extra_tags: str = "",
        message: str | None = None,
    ) -> None:
        if message_template not in self._SILENT:
            super().add_message(request, level, message_template, message_context, extra_tags, message)
