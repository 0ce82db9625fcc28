"""What a check found, and how checks are run: all at once, each within a time limit of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote, urlsplit

from django.conf import settings
from django.db import DatabaseError, connections

logger = logging.getLogger(__name__)

# Shorter ones are words, and every secret of ours is longer.
_SHORTEST_SECRET = 6
_LONGEST_LINE = 600


class Verdict(StrEnum):
    OK = "ok"
    ATTENTION = "attention"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was found and, unless all is well, what to do."""

    verdict: Verdict
    words: str


def ok(words: str) -> Finding:
    return Finding(Verdict.OK, words)


def attention(words: str) -> Finding:
    return Finding(Verdict.ATTENTION, words)


def wrong(words: str) -> Finding:
    return Finding(Verdict.WRONG, words)


@dataclass(frozen=True, slots=True)
class Check:
    """Something to look at. `look` yields what it finds, and nothing where there is nothing to say."""

    name: str
    look: Callable[[], Iterable[Finding]]


@dataclass(eq=False)
class _Run:
    check: Check
    found: list[Finding] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> None:
        try:
            for finding in self.check.look():
                self.found.append(finding)
        except DatabaseError:
            logger.debug("The check %s had no database.", self.check.name, exc_info=True)  # `database` says why
        except Exception as error:  # one check's fault is no other's
            logger.debug("The check %s failed.", self.check.name, exc_info=True)
            # Its text is anybody's: it might hold what must not be shown.
            self.found.append(wrong(f"This could not be looked at ({type(error).__name__})."))
        finally:
            connections.close_all()
            self.over.set()


def examine(checks: Sequence[Check], *, limit_s: float) -> Iterator[tuple[str, Finding]]:
    """The name of each check with its findings, in order. One that hangs is left behind after `limit_s`."""
    begun, runs = time.monotonic(), [_Run(check) for check in checks]
    for run in runs:
        threading.Thread(target=run, name=f"doctor {run.check.name}", daemon=True).start()
    for run in runs:
        is_over = run.over.wait(max(0.0, begun + limit_s - time.monotonic()))
        found = list(run.found)
        if not is_over:
            found.append(wrong(f"This was not done within {limit_s:g} s. Something it asks does not answer."))
        yield from ((run.check.name, _shown(finding)) for finding in found)


def _shown(finding: Finding) -> Finding:
    """One line without any secret, whoever's words are in it."""
    words = " ".join("".join(one if one.isprintable() else " " for one in finding.words).split())
    for secret in _secrets():
        words = words.replace(secret, "…")
    return Finding(finding.verdict, words if len(words) <= _LONGEST_LINE else f"{words[: _LONGEST_LINE - 1]}…")


def _secrets() -> list[str]:
    """What must not be read anywhere, the longest first: one may be a part of another."""
    found = {settings.SECRET_KEY, settings.VAPID_PRIVATE_KEY, settings.TELEMETRY_KEY, *settings.CREDENTIAL_KEYS}
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        found.add(os.environ.get(name, ""))
    found.add(str(settings.DATABASES["default"].get("PASSWORD") or ""))
    redis = str(settings.CACHES["default"].get("LOCATION") or "")
    for url in (settings.DATABASE_URL, settings.REDIS_URL, redis, settings.NOTIFY_EMAIL_URL):
        try:
            password = urlsplit(url).password or ""
        except ValueError:
            continue
        found |= {password, unquote(password)}
    return sorted((one for one in found if len(one) >= _SHORTEST_SECRET), key=len, reverse=True)
