"""One-off RDP users and passwords: made for one rescue, never used again."""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass, field

# Letters and digits only, none that look alike: the name goes through SAM files, net user and PAM unharmed.
_ALPHABET = "".join(sorted(set(string.ascii_letters + string.digits) - set("0O1lI")))
_PASSWORD_LENGTH = 28  # 57 symbols: 163 bits; Windows' `net user` asks back from 15 on, hooks should use New-LocalUser


@dataclass(frozen=True)
class Credentials:
    """A user and a password; the password is in no repr."""

    username: str
    password: str = field(repr=False)


def one_off_credentials() -> Credentials:
    """A user name of at most 20 characters (Windows' limit) and a password with all that password rules ask for."""
    username = "help-" + "".join(secrets.choice(string.ascii_lowercase + "23456789") for _ in range(10))
    while True:
        password = "".join(secrets.choice(_ALPHABET) for _ in range(_PASSWORD_LENGTH))
        if any(map(str.islower, password)) and any(map(str.isupper, password)) and any(map(str.isdigit, password)):
            return Credentials(username=username, password=password)
