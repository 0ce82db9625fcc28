"""Limits against noise on the REST faces. Without the cache nothing is counted, and nobody is kept waiting (F9)."""

from __future__ import annotations

from typing import cast

from django.core.cache import BaseCache, caches
from django.utils.connection import ConnectionProxy
from rest_framework.throttling import SimpleRateThrottle, UserRateThrottle

hints = cast(BaseCache, ConnectionProxy(caches, "hints"))


class NoiseThrottle(SimpleRateThrottle):
    """A rate by whatever `get_cache_key` says."""

    cache = hints


class PersonThrottle(UserRateThrottle):
    """A rate for each signed-in person."""

    cache = hints
