"""A cache in Redis for mere hints: nothing is known by it alone, so nobody waits for it or fails with it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from typing import Any

from django.core.cache.backends.redis import RedisCache
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

logger = logging.getLogger(__name__)

WAIT_S = 0.5
# Who hangs is not waited for by everybody, one after the other.
LEFT_ALONE_S = 5.0


class RedisHints(RedisCache):
    """Django's; while Redis is away or hangs it is as if the cache were empty and took everything (F9).

    What is counted in it is not counted then: for what keeps noise away, never for what keeps somebody out.
    """

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        once = {"socket_connect_timeout": WAIT_S, "socket_timeout": WAIT_S, "retry": Retry(NoBackoff(), 0)}
        super().__init__(server, {**params, "OPTIONS": {**params.get("OPTIONS", {}), **once}})


_left_alone_until = float("-inf")


def _hint(name: str, instead: Callable[..., Any]) -> Callable[..., Any]:
    real = getattr(RedisCache, name)

    @functools.wraps(real)
    def ask(self: RedisHints, *arguments: Any, **named: Any) -> Any:
        global _left_alone_until
        if time.monotonic() >= _left_alone_until:
            try:
                return real(self, *arguments, **named)
            except (RedisError, OSError) as error:
                _left_alone_until = time.monotonic() + LEFT_ALONE_S
                logger.warning("Redis is away (%s): for some seconds nothing is kept there", type(error).__name__)
        return instead(*arguments, **named)

    return ask


def _default(key: str, default: Any = None, version: int | None = None) -> Any:
    return default


def _count(key: str, delta: int = 1, version: int | None = None) -> int:
    return delta


for _name, _instead in {
    "get": _default,
    "incr": _count,
    "add": lambda *_, **__: True,
    "set": lambda *_, **__: None,
    "touch": lambda *_, **__: False,
    "delete": lambda *_, **__: False,
    "has_key": lambda *_, **__: False,
    "get_many": lambda *_, **__: {},
    "set_many": lambda *_, **__: [],
    "delete_many": lambda *_, **__: None,
    "clear": lambda *_, **__: True,
}.items():
    setattr(RedisHints, _name, _hint(_name, _instead))
