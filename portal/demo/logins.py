"""The passwords of the demo's people: made once at random, kept in a file that only its owner reads.

Whoever changes a password in the portal keeps it: the demo then says that it does not know it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from agent.files import private_folder, read_json, write_json
from machines.models import User

# Nothing that looks like something else: people type it from a terminal into a phone.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


def ensure_passwords(path: Path, usernames: Iterable[str]) -> dict[str, str | None]:
    """Every person's password by user name; None for one who has chosen another since.

    A person without a password in the file gets a new one: the file is new, or was lost.
    """
    kept = {name: value for name, value in (read_json(path) or {}).items() if isinstance(value, str)}
    known: dict[str, str | None] = {}
    for user in User.objects.filter(username__in=list(usernames)).order_by("pk"):
        password = kept.get(user.username)
        if password is None or not user.has_usable_password():
            # In force before it is on disk: after a crash between the two, the next run finds none and makes another.
            password = kept[user.username] = _made_up()
            user.set_password(password)
            user.save(update_fields=["password"])
            private_folder(path.parent)
            write_json(path, kept)
            known[user.username] = password
        else:
            known[user.username] = password if user.check_password(password) else None
    return known


def _made_up() -> str:
    """Sixteen random characters in fours: 79 bits."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(4)) for _ in range(4))
