"""What a channel is: something that hands one parcel over, or says in words why it could not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import Protocol
from uuid import UUID

from django.conf import settings

# No send takes longer, whatever the channel does; leases are longer still.
LONGEST_SEND_S = 20.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """All that a channel needs to know of one delivery; it never looks at a row.

    `id` is the same at every try: what a receiver may tell duplicates by. `address` is an e-mail address or a phone
    number, `endpoint`, `p256dh` and `auth` are a browser's.
    """

    id: UUID
    kind: str
    title: str
    body: str
    url: str
    tag: str
    expires_at: datetime
    created_at: datetime
    subject: str = ""
    actions: tuple[str, ...] = ()
    urgency: str = "high"
    is_silent: bool = False
    address: str = ""
    endpoint: str = field(default="", repr=False)
    p256dh: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)


class DeliveryError(Exception):
    """A parcel was not handed over; the text is what supervisors read, without a secret.

    `permanent`: this parcel will never be taken there. `retry_after_s`: not before that. `is_gone`: neither this nor
    any other parcel, for the address is no more.
    """

    def __init__(
        self, words: str, *, permanent: bool = False, retry_after_s: float | None = None, is_gone: bool = False
    ) -> None:
        super().__init__(words)
        self.permanent = permanent or is_gone
        self.retry_after_s = retry_after_s
        self.is_gone = is_gone


class Channel(Protocol):
    """A way out. Lives in one event loop; what it keeps open ends with `close`, if it has one."""

    async def send(self, parcel: Parcel) -> None:
        """Hands the parcel over; raises DeliveryError. Called again with the same parcel it may be a duplicate."""
        ...


@dataclass(frozen=True, slots=True)
class Lane:
    """How many parcels one channel carries at once, so that one that hangs keeps no other from its turn.

    `at_once` counts those that began within the last second; `most` counts all, also those that hang.
    """

    path: str
    at_once: int
    most: int
    words: str

    def open(self) -> Channel:
        module, _, name = self.path.rpartition(".")
        factory: Callable[[], Channel] = getattr(import_module(module), name)
        return factory()


def lanes() -> dict[str, Lane]:
    """The channels of this installation, by the name that rows have; a channel's module is loaded when it is opened."""
    found = {}
    if settings.VAPID_PRIVATE_KEY:
        found["web_push"] = Lane(
            "notifications.channels.web_push.WebPush",
            at_once=settings.SENDER_AT_ONCE,
            most=4 * settings.SENDER_AT_ONCE,
            words="The push service took it.",
        )
    # These two hold a thread each.
    if settings.NOTIFY_EMAIL_URL:
        found["email"] = Lane("notifications.channels.email.Email", at_once=4, most=4, words="The mail server took it.")
    if settings.SMS == "sns":
        found["sms"] = Lane("notifications.channels.sns.SmsChannel", at_once=4, most=4, words="Amazon SNS took it.")
    return found
