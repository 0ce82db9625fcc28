"""Devices for tests: subscriptions as good as a browser's."""

from __future__ import annotations

import base64
import itertools
import secrets

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from machines.models import User
from notifications import subscriptions
from notifications.models import PushDevice

VAPID_PRIVATE_KEY = base64.urlsafe_b64encode(bytes(range(1, 33))).decode().rstrip("=")
_numbers = itertools.count(1)


def subscription() -> dict[str, str]:
    """What a page sends of a browser that has just subscribed."""
    point = ec.generate_private_key(ec.SECP256R1()).public_key()
    return {
        "endpoint": f"https://fcm.googleapis.com/fcm/send/{next(_numbers)}",
        "p256dh": _base64url(point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)),
        "auth": _base64url(secrets.token_bytes(16)),
        "browser": "chrome",
        "name": "Chrome on Android",
    }


def subscribe(user: User, **changes: str) -> PushDevice:
    """A device of the user's; needs a VAPID key in the settings."""
    return subscriptions.subscribe(user, user_agent="Test", **{**subscription(), **changes})


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
