"""Whether the portal answers at its name: SNS subscribes nothing that it does not reach, and a name takes a while."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable

_ANSWER_S = 10
_TRIES, _PAUSE_S = 6, 10.0


def wait(origin: str, sleep: Callable[[float], None]) -> str:
    """Empty as soon as the portal answers there that it is well; else, after a minute or two, why it does not."""
    why = ""
    for number in range(_TRIES):
        if number:
            sleep(_PAUSE_S)
        why = look(origin)
        if not why:
            return ""
    return why


def look(origin: str) -> str:
    """Empty when the portal answers there that it is well, else why not, in a few words."""
    try:
        # By the template's pattern it is https.
        with urllib.request.urlopen(f"{origin}/healthz", timeout=_ANSWER_S) as answer:  # nosec B310
            return "" if answer.status == 200 else f"it answers {answer.status}"
    except urllib.error.HTTPError as error:
        return f"it answers {error.code}"
    except (OSError, http.client.HTTPException) as error:
        return _words_of(getattr(error, "reason", error))


def _words_of(reason: object) -> str:
    if isinstance(reason, socket.gaierror):
        return "the name is not known"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate does not hold: {reason.verify_message}"
    if isinstance(reason, TimeoutError):
        return f"nothing comes within {_ANSWER_S} s"
    return type(reason).__name__
